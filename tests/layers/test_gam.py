"""GAM: parity with golden files and numpy, traps, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import gam as reference
from support.comparing import CLOSE, difference, features
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, live
from support.warm_start_suite import Warm, WarmStart

from keras_attention import GAM

SUBTRACTED = "the normalization behind it subtracts it"


class Block(Suite):
    layer_class = GAM
    reference = staticmethod(reference.forward)
    goldens = ("gam",)
    cases = ({}, {"reduction": 2, "groups": 4})
    channels = 16
    full_config = {"reduction": 2, "channel_gate": None, "groups": 2, **OPTIONS}
    no_gradient = {
        "spatial_attention.0.bias": SUBTRACTED,
        "spatial_attention.3.bias": SUBTRACTED,
    }
    normalized = {
        f"spatial_attention.{norm}": lambda shape: shape[0] * shape[1] * shape[2]
        for norm in (1, 4)
    }


class TestGolden(Block, Golden):
    pass


class TestLayer(Block, Properties):
    pass


class TestWithoutChannelGate(Block, Properties):
    cases = ({"channel_gate": None, "groups": 2},)
    # A product of two features: those of some hundreds leave float16's range.
    test_mixed_precision = None

    def test_mixed_precision_of_usual_features(self):
        shape = (2, 7, 10, 16)
        layer, weights = self.live(shape, dtype="mixed_float16", channel_gate=None)
        expected = self.reference(features(*shape), weights, channel_gate=None)
        # 11 significant bits, through several operations
        assert difference(apply(layer, features(*shape)), expected) <= 0.01


class TestWarmStart(Block, WarmStart):
    warm = (
        Warm(0.25, ("channel_expand/kernel", "expand_norm/gamma")),
        Warm(
            0.5,
            ("channel_expand/kernel", "expand_norm/gamma"),
            {"channel_gate": None, "groups": 2},
        ),
    )


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        groups=st.integers(1, 4),
        run=st.integers(1, 4),
        reduction=st.integers(1, 4),
        channel_gate=st.sampled_from(["sigmoid", None]),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(
        self, size, groups, run, reduction, channel_gate, seed
    ):
        channels = groups * run * reduction
        layer = GAM(reduction, channel_gate, groups=groups)
        layer, weights = live(layer, (*size, channels), seed)
        x = features(*size, channels, seed=seed)
        arguments = {"channel_gate": channel_gate, "groups": groups}
        expected = reference.forward(x, weights, **arguments)
        # Without a sigmoid the terms of the first factor may cancel.
        scale = max(np.abs(expected).max(), np.abs(x).max())
        assert difference(apply(layer, x), expected, scale) <= CLOSE

    def test_sigmoid_is_the_default_and_differs_from_none(self):
        x = features(2, 9, 8, 16)
        layer, weights = live(GAM(), x.shape)
        other, _ = live(GAM(channel_gate=None), x.shape)
        y = apply(layer, x)
        expected = reference.forward(x, weights, channel_gate="sigmoid")
        assert difference(y, expected) <= CLOSE
        assert difference(apply(other, x), y) >= 0.05

    def test_channel_gate_sees_its_position_alone(self):
        """No pooling: the first gate is the same whatever the other pixels are."""
        x = features(1, 9, 8, 16)
        layer, weights = live(GAM(), x.shape)
        # the second gate becomes 1/2 everywhere
        layer.expand_norm.set_weights([np.zeros(16), np.zeros(16), *[np.ones(16)] * 2])
        alone = apply(layer, x[:, 3:4, 5:6])
        assert difference(apply(layer, x)[:, 3:4, 5:6], alone) <= CLOSE
        expected = 0.5 * x * reference.channel_gates(x, weights)
        assert difference(apply(layer, x), expected) <= CLOSE

    def test_a_pixel_reaches_six_pixels_far(self):
        """Two 7x7 convolutions: 3 + 3 pixels to each side, of the first factor only."""
        x = features(1, 21, 21, 16)
        layer, _ = live(GAM(), x.shape)
        other = x.copy()
        other[0, 10, 10] += 3
        changed = (apply(layer, other) != apply(layer, x)).any((0, 3))
        inside = np.zeros_like(changed)
        inside[4:17, 4:17] = True
        assert not changed[~inside].any()
        assert changed[inside].mean() >= 0.9

    def test_gates_of_groups_are_dealt_out_in_turn(self):
        """Group 1 of 4 alone has open gates: they stand at channels 1, 5, 9, 13."""
        x = np.abs(features(1, 6, 5, 16)) + 0.1
        layer, _ = live(GAM(groups=4), x.shape)
        beta = np.full(16, -100.0)
        beta[4:8] = 100
        layer.expand_norm.set_weights([np.zeros(16), beta, *[np.ones(16)] * 2])
        is_open = (apply(layer, x) > 1e-3).all((0, 1, 2))
        np.testing.assert_array_equal(np.flatnonzero(is_open), [1, 5, 9, 13])


class TestArguments:
    @pytest.mark.parametrize(
        ("channels", "arguments", "middle"),
        [
            (32, {}, 8),
            (3, {}, 1),
            (24, {"reduction": 5, "channel_gate": None}, 4),
            (32, {"groups": 4}, 8),
        ],
    )
    def test_parameters(self, channels, arguments, middle):
        layer = GAM(**arguments)
        layer.build((None, None, None, channels))
        c, m, groups = channels, middle, arguments.get("groups", 1)
        trainable = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        assert trainable == 2 * c * m + 98 * c * m // groups + 4 * m + 4 * c
        assert layer.count_params() == trainable + 2 * m + 2 * c

    def test_arguments_reach_the_sublayers(self):
        layer = GAM(**Block.full_config | {"trainable": True})
        layer.build((None, 4, 6, 24))
        assert len(layer.losses) == 8
        assert layer.spatial_reduce.groups == layer.spatial_expand.groups == 2
        np.testing.assert_array_equal(layer.channel_expand.bias, np.ones(24))

    @pytest.mark.parametrize("groups", [1, 4])
    def test_starts_as_pytorch(self, groups):
        layer = GAM(groups=groups)
        layer.build((None, None, None, 32))
        for conv in (layer.spatial_reduce, layer.spatial_expand):
            kernel, bias = conv.get_weights()
            bound = kernel[..., 0].size ** -0.5  # by the inputs of one group
            for value in (kernel, bias):
                assert np.abs(value).max() <= bound
                # Uniform numbers: of few, the largest is well beyond half of the bound.
                assert np.abs(value).max() >= 0.5 * bound

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"reduction": 0}, "reduction must be a positive integer; received 0"),
            ({"groups": 1.5}, "groups must be a positive.*received 1.5"),
            ({"channel_gate": "relu"}, "channel_gate must be one of .*None.*'relu'"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            GAM(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'gam' needs an input of rank 4.*4, 8"),
            ("channels_last", (None, 2, 4, 4, 8), "rank 4 .*two spatial"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            GAM(data_format=data_format, name="gam").build(shape)

    @pytest.mark.parametrize(
        ("channels", "message"),
        [
            (10, "groups=4 must divide the 10 channels of layer 'gam'"),
            (12, "groups=4 must divide .* and the 3 that reduction=4 leaves"),
        ],
    )
    def test_refuses_channels_that_groups_do_not_divide(self, channels, message):
        with pytest.raises(ValueError, match=message):
            GAM(groups=4, name="gam").build((None, 4, 4, channels))

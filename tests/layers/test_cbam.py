"""CBAM: parity with golden files and numpy, traps, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import cbam as reference
from support.comparing import CLOSE, difference, features
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, live
from support.warm_start_suite import Warm, WarmStart

from keras_attention import CBAM
from keras_attention.weights.torch_state import torch_parameters


class Block(Suite):
    layer_class = CBAM
    reference = staticmethod(reference.forward)
    goldens = ("cbam",)
    cases = ({"reduction": 4}, {"reduction": 2, "kernel_size": 3})
    channels = 16
    full_config = {
        "reduction": 8,
        "kernel_size": 5,
        "zero_init_norm": False,
        **OPTIONS,
    }


class TestGolden(Block, Golden):
    momentum = 0.99
    normalized = {"SpatialGate.spatial.bn": lambda s: s[0] * s[1] * s[2]}


class TestLayer(Block, Properties):
    pass


class TestWarmStart(Block, WarmStart):
    # The scale of the normalization starts at 0 as it is.
    warm = (
        Warm(0.25, ("expand/kernel",), {"reduction": 4}),
        Warm(0.25, ("expand/kernel", "norm/gamma"), {"zero_init_norm": False}),
    )


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 20),
        reduction=st.integers(1, 24),
        half=st.integers(0, 4),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(self, size, channels, reduction, half, seed):
        layer, weights = live(CBAM(reduction, 2 * half + 1), (*size, channels), seed)
        x = features(*size, channels, seed=seed)
        y = apply(layer, x)
        assert difference(y, reference.forward(x, weights)) <= CLOSE
        assert (np.abs(y) <= np.abs(x)).all()  # both gates are in [0, 1]

    def test_starts_with_half_of_the_channel_gates(self):
        x = features(2, 6, 5, 32)
        layer = CBAM()
        layer.build(x.shape)
        for training in (False, True):
            y = apply(layer, x, training)
            state = {
                name: np.asarray(parameter.variable).T
                for name, parameter in torch_parameters(layer).items()
            }
            assert difference(y, 0.5 * reference.refined(x, state)) <= CLOSE

    def test_without_zero_gamma_places_differ_from_the_start(self):
        x = features(2, 6, 5, 32)
        layer = CBAM(zero_init_norm=False)
        ratio = apply(layer, x, training=True)[..., 0] / x[..., 0]
        assert (ratio.std((1, 2)) >= 0.1 * ratio.mean((1, 2))).all()

    def test_maxima_come_first(self):
        """The kernel's first channel belongs to the maxima."""
        x = features(2, 6, 5, 16)
        layer, weights = live(CBAM(4), x.shape)
        kernel = np.zeros((7, 7, 2, 1), "float32")
        kernel[3, 3, 0] = 1
        layer.spatial.kernel.assign(kernel)
        u = reference.refined(x, weights)
        scores = reference.normalize(
            u.max(-1), weights, "SpatialGate.spatial.bn", training=False
        )
        expected = u / (1 + np.exp(-scores))[..., None]
        assert difference(apply(layer, x), expected) <= CLOSE

    def test_shares_the_mlp_and_its_bias_counts_twice(self):
        """Zero kernels: what is left in the gate is the last bias, for each vector."""
        x = features(2, 6, 5, 16)
        layer, weights = live(CBAM(4), x.shape)
        layer.expand.kernel.assign(np.zeros(layer.expand.kernel.shape))
        bias = weights["ChannelGate.mlp.3.bias"]
        layer.norm.gamma.assign([0.0])
        layer.norm.beta.assign([0.0])
        expected = 0.5 * x / (1 + np.exp(-2 * bias))
        assert difference(apply(layer, x), expected) <= CLOSE

    def test_one_far_pixel_reaches_all_through_the_maximum(self):
        x = features(1, 12, 12, 16)
        layer, _ = live(CBAM(4), x.shape)
        other = x.copy()
        other[0, 0, 0, 3] += 10
        y, z = apply(layer, x), apply(layer, other)
        assert difference(z[:, 8:, 8:], y[:, 8:, 8:]) >= 0.01


class TestArguments:
    @pytest.mark.parametrize(
        ("channels", "arguments", "middle", "size"),
        [
            (64, {}, 4, 7),
            (8, {}, 1, 7),
            (24, {"reduction": 5}, 4, 7),
            (24, {"reduction": 2, "kernel_size": 1}, 12, 1),
        ],
    )
    def test_parameters(self, channels, arguments, middle, size):
        layer = CBAM(**arguments)
        layer.build((None, None, None, channels))
        assert layer.reduce.filters == middle
        trainable = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        expected = 2 * channels * middle + middle + channels + 2 * size**2 + 2
        assert trainable == expected
        assert layer.count_params() == expected + 2

    def test_arguments_reach_the_sublayers(self):
        layer = CBAM(**Block.full_config | {"trainable": True})
        layer.build((None, 4, 6, 24))
        assert len(layer.losses) == 5  # three kernels, two biases
        np.testing.assert_array_equal(layer.expand.bias, np.ones(24))
        assert layer.spatial.kernel_size == (5, 5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"reduction": 0}, "reduction must be a positive integer; received 0"),
            ({"reduction": 2.5}, "reduction must be a positive.*received 2.5"),
            ({"kernel_size": -1}, "kernel_size must be a positive.*received -1"),
            ({"kernel_size": 4}, "kernel_size must be odd; received 4"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            CBAM(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'cbam' needs an input of rank 4.*4, 8"),
            ("channels_last", (None, 2, 4, 4, 8), "rank 4 .*two spatial"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            CBAM(data_format=data_format, name="cbam").build(shape)

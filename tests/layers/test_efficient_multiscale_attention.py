"""EfficientMultiScaleAttention: golden and numpy parity, traps, what it refuses."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import efficient_multiscale_attention as reference
from support.comparing import CLOSE, array, difference, features
from support.finite_differences import assert_gradients_match
from support.gradients import gradients
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, live
from support.warm_start_suite import Warm, WarmStart

from keras_attention import EfficientMultiScaleAttention


class Block(Suite):
    layer_class = EfficientMultiScaleAttention
    reference = staticmethod(reference.forward)
    goldens = ("efficient_multiscale_attention",)
    cases = ({"groups": 8}, {"groups": None}, {"groups": 1})
    channels = 24
    full_config = {
        "groups": 4,
        **OPTIONS,
    }

    def make(self, **arguments):
        return self.layer_class(**{"groups": 8} | arguments)


class TestGolden(Block, Golden):
    pass


class TestLayer(Block, Properties):
    pass


class TestWarmStart(Block, WarmStart):
    warm = tuple(
        Warm(0.5, ("gamma", "beta", "spatial/kernel"), {"groups": groups})
        for groups in (8, 24)
    )

    def test_the_outputs_of_the_3x3_convolution_part(self):
        """They start alike, and one step leaves them so; gamma it does not."""
        layer, x = self.fresh(self.warm[0])
        layer.warm_start()
        for parted in (False, True):
            _, _, found = gradients(layer, x, features(*x.shape, seed=2))
            for weight in layer.trainable_variables:
                weight.assign(array(weight) - 0.1 * found[id(weight)])
            kernel = array(layer.spatial.kernel)  # (3, 3, c, c)
            assert (kernel.std(-1).max() >= 0.01 * abs(kernel).max()) == parted


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        groups=st.integers(1, 6),
        width=st.integers(1, 6),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(self, size, groups, width, seed):
        shape = (*size, groups * width)
        layer, weights = live(EfficientMultiScaleAttention(groups), shape, seed)
        x = features(*shape, seed=seed)
        # relative to x: with few channels all gates may be closed
        expected = reference.forward(x, weights, groups=groups)
        assert difference(layer(x), expected, np.abs(x).max()) <= CLOSE

    def test_gradients_match_finite_differences(self):
        assert_gradients_match(
            EfficientMultiScaleAttention(2, dtype="float64"),
            functools.partial(reference.forward, groups=2),
            (2, 4, 3, 6),
        )

    def test_groups_do_not_see_each_other(self):
        """Groups are contiguous runs of channels; others are left alone."""
        layer, _ = live(EfficientMultiScaleAttention(4), (2, 6, 5, 12))
        x = features(2, 6, 5, 12)
        other = x.copy()
        other[..., 3:6] = features(2, 6, 5, 3, seed=7)
        changed = np.abs(apply(layer, other) - apply(layer, x)).max((0, 1, 2))
        assert (changed[3:6] > 0.1).all()
        np.testing.assert_array_equal(changed[[0, 1, 2, 6, 7, 8, 9, 10, 11]], 0)

    def test_one_gate_per_group_and_position(self):
        layer, _ = live(EfficientMultiScaleAttention(4), (2, 6, 5, 12))
        x = features(2, 6, 5, 12)
        gates = (apply(layer, x) / x).reshape(2, 6, 5, 4, 3)
        assert np.ptp(gates, axis=-1).max() <= CLOSE
        assert (gates > 0).all() and (gates < 1).all()
        assert gates.std((1, 2)).min() >= 0.05 * gates.mean()

    def test_borders_count_in_the_means(self):
        """Zero padding takes a row or column from six of the nine taps."""
        layer, weights = live(EfficientMultiScaleAttention(1), (1, 3, 3, 4))
        x = 0.1 * features(1, 3, 3, 4)
        x[:, 0] += 3.0
        x[:, :, -1] -= 2.0
        y = layer(x)
        assert difference(y, reference.forward(x, weights, groups=1)) <= CLOSE
        inner = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        smooth = reference.forward(inner, weights, groups=1)[:, 1:-1, 1:-1]
        assert difference(smooth, y) >= 0.01

    @pytest.mark.parametrize("offset", [0.0, 30.0])
    def test_large_values(self, offset):
        layer, weights = live(EfficientMultiScaleAttention(4), (2, 8, 8, 12))
        layer.spatial.kernel.assign(weights["conv3x3.weight"].transpose(2, 3, 1, 0) / 9)
        weights |= {"conv3x3.weight": weights["conv3x3.weight"] / 9}
        x = offset + 10 * features(2, 8, 8, 12)
        expected = reference.forward(x, weights, groups=4)
        # logits of some tens in float32, whose step there is 4e-6
        assert difference(layer(x), expected) <= 2 * CLOSE

    def test_channels_without_variance(self):
        layer, weights = live(EfficientMultiScaleAttention(4), (2, 8, 8, 12))
        x = np.maximum(features(2, 8, 8, 12), 0)
        x[..., 4] = 0.0
        x[..., 6:9] = 1.0
        assert difference(layer(x), reference.forward(x, weights, groups=4)) <= CLOSE


class TestStatisticsInMixedPrecision:
    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    def test_variance_is_float32(self, policy):
        """In float16 the squares of 300 overflow; in bfloat16 a mean of 300 is 2 off.

        The pointwise kernel is 0, so the gates are constant and known to all bits.
        """
        shape = (2, 9, 7, 12)
        layer, weights = live(EfficientMultiScaleAttention(4, dtype=policy), shape)
        zeros = np.zeros_like(weights["conv1x1.weight"])
        weights |= {"conv1x1.weight": zeros, "conv1x1.bias": zeros[:, 0, 0, 0]}
        layer.pointwise.set_weights([zeros.transpose(2, 3, 1, 0), zeros[:, 0, 0, 0]])
        small = np.zeros_like(weights["conv3x3.weight"])
        weights |= {"conv3x3.weight": small}
        layer.spatial.kernel.assign(small.transpose(2, 3, 1, 0))
        # integers below 2^8 times 2 are exact in both types
        x = 2 * np.round(150 + 20 * features(*shape)).clip(0, 255)
        y = apply(layer, x.astype("float32"))
        expected = reference.forward(x, weights, groups=4)
        # the gate is rounded to 8 bits (11 in float16), and so is the product
        tolerance = 2**-7 if policy == "mixed_bfloat16" else 2**-10
        assert difference(y, expected) <= tolerance


class TestGroups:
    @pytest.mark.parametrize(
        ("channels", "groups"),
        [(96, 32), (64, 32), (24, 24), (144, 24), (16, 16), (7, 7), (37, 1), (62, 31)],
    )
    def test_none_is_the_largest_divisor_up_to_32(self, channels, groups):
        layer = EfficientMultiScaleAttention(groups=None)
        layer.build((None, None, None, channels))
        assert layer.gamma.shape == (channels // groups,)
        assert layer.groups is None and layer.get_config()["groups"] is None

    def test_default_is_the_authors(self):
        layer = EfficientMultiScaleAttention()
        assert layer.groups == 32
        layer.build((None, None, None, 64))
        assert layer.gamma.shape == (2,)

    @pytest.mark.parametrize(("channels", "groups"), [(64, 8), (96, 32), (24, 1)])
    def test_parameter_count(self, channels, groups):
        layer = EfficientMultiScaleAttention(groups)
        layer.build((None, None, None, channels))
        c = channels // groups
        assert layer.count_params() == 10 * c * c + 4 * c
        assert layer.non_trainable_weights == []


class TestInitialization:
    def test_is_pytorchs(self):
        layer = EfficientMultiScaleAttention(1)
        layer.build((None, None, None, 128))
        for conv, fan_in in ((layer.pointwise, 128), (layer.spatial, 9 * 128)):
            bound = fan_in**-0.5
            for variable, rel in ((conv.kernel, 0.01), (conv.bias, 0.2)):
                values = array(variable)
                assert np.abs(values).max() <= bound
                # of a uniform distribution; 16384 numbers or more, and 128
                assert values.std() == pytest.approx(bound / 3**0.5, rel=rel)
        assert difference(layer.gamma, np.ones(128)) == 0
        assert not np.any(array(layer.beta))

    def test_arguments_reach_the_convolutions(self):
        layer = EfficientMultiScaleAttention(
            **Block.full_config | {"dtype": "float32", "trainable": True}
        )
        layer.build((None, 4, 6, 24))
        for conv in (layer.pointwise, layer.spatial):
            np.testing.assert_array_equal(array(conv.bias), np.ones(6))
            assert isinstance(conv.kernel_initializer, keras.initializers.HeNormal)
        assert len(layer.losses) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 0}, "groups must be a positive integer; received 0"),
        ({"groups": 2.0}, "groups must be a positive integer; received 2.0"),
        ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
    ],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EfficientMultiScaleAttention(**arguments)


@pytest.mark.parametrize(
    ("data_format", "shape", "message"),
    [
        ("channels_last", (None, 4, 32), r"'ema' needs an input of rank 4.*4, 32"),
        ("channels_last", (None, 4, 4, None), r"static number of channels \(axis 3"),
        ("channels_first", (None, None, 4, 4), r"static number of channels \(axis 1"),
        (
            "channels_last",
            (None, 4, 4, 144),
            "groups must divide the channels; layer 'ema' has groups=32 and received "
            "144. groups=None",
        ),
    ],
)
def test_refuses_shapes(data_format, shape, message):
    layer = EfficientMultiScaleAttention(data_format=data_format, name="ema")
    with pytest.raises(ValueError, match=message):
        layer.build(shape)


def test_refuses_other_channels_after_build():
    layer, _ = live(EfficientMultiScaleAttention(4), (1, 4, 4, 16))
    with pytest.raises(ValueError, match="expected axis 3.*value 16"):
        layer(features(1, 4, 4, 8))

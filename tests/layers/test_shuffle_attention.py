"""ShuffleAttention: golden and numpy parity, traps, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import shuffle_attention as reference
from support.comparing import CLOSE, array, difference, features
from support.gradients import gradients
from support.layer_suite import LAYER_OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, live
from support.warm_start_suite import NoWarmStart

from keras_attention import ShuffleAttention
from keras_attention.weights import load_torch


class Block(Suite):
    layer_class = ShuffleAttention
    reference = staticmethod(reference.forward)
    goldens = ("shuffle_attention",)
    cases = ({"groups": 4}, {"groups": None}, {"groups": 1})
    full_config = {
        "groups": 4,
        **LAYER_OPTIONS,
    }

    def make(self, **arguments):
        return self.layer_class(**{"groups": 4} | arguments)


class TestGolden(Block, Golden):
    pass


class TestLayer(Block, Properties):
    def test_equals_numpy_with_other_groups(self):
        """The suite's default is 4 groups; the restatement's is the authors' 64."""
        shape = (2, 5, 4, 128)
        layer, weights = live(ShuffleAttention(), shape)
        x = features(*shape)
        assert difference(apply(layer, x), reference.forward(x, weights)) <= CLOSE


class TestNoWarmStart(Block, NoWarmStart):
    refused = {"shuffles the channels": {}}


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        groups=st.integers(1, 6),
        width=st.integers(1, 4),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(self, size, groups, width, seed):
        shape = (*size, 2 * groups * width)
        layer, weights = live(ShuffleAttention(groups), shape, seed)
        x = features(*shape, seed=seed)
        expected = reference.forward(x, weights, groups=groups)
        assert difference(apply(layer, x), expected) <= CLOSE

    def test_gradients_match_finite_differences(self):
        shape = (2, 4, 3, 8)
        layer, weights = live(ShuffleAttention(2, dtype="float64"), shape)
        x = features(*shape).astype("float64")
        cotangent = features(*shape, seed=2).astype("float64")
        _, dx, _ = gradients(layer, x, cotangent)

        def loss(x):
            return (reference.forward(x, weights, groups=2) * cotangent).sum()

        numeric = []
        for index in range(x.size):
            # error of a central difference: step**2 and 1e-16 / step
            ends = []
            for step in (1e-5, -1e-5):
                moved = x.copy()
                moved.flat[index] += step
                ends.append(loss(moved))
            numeric.append((ends[0] - ends[1]) / 2e-5)
        assert difference(dx.ravel(), numeric) <= 1e-6

    def test_shuffle(self):
        """Two groups of channels are dealt like two halves of a pack of cards."""
        x = np.ones((1, 3, 3, 12), "float32") * np.arange(1, 13, dtype="float32")
        layer = ShuffleAttention(3)
        y = apply(layer, x)  # all gates are sigmoid(1)
        expected = np.array([1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12]) / (1 + np.exp(-1))
        assert difference(y, np.broadcast_to(expected, y.shape)) <= CLOSE

    def test_halves_of_groups(self):
        """The first half of each group is gated per channel, the second per position.

        Taking the first and second half of all channels is a known mistake.
        """
        layer, weights = live(ShuffleAttention(2), (2, 6, 5, 8))
        x = features(2, 6, 5, 8)
        order = np.arange(8).reshape(2, 4).T.ravel()
        gates = np.empty_like(x)
        gates[..., order] = apply(layer, x) / x[..., order]
        # of one value: what rounding leaves of quotients
        spread = np.ptp(gates, axis=(1, 2)).max(0)
        assert (spread[[0, 1, 4, 5]] <= CLOSE).all()
        assert (spread[[2, 3, 6, 7]] >= 0.05).all()
        assert difference(gates[1], reference.gates(x[1], weights, 2)) <= CLOSE

    def test_groups_share_their_weights_and_see_only_themselves(self):
        layer, _ = live(ShuffleAttention(3), (2, 6, 5, 12))
        x = np.tile(features(2, 6, 5, 4), (1, 1, 1, 3))
        y = np.empty_like(x)
        y[..., np.arange(12).reshape(2, 6).T.ravel()] = apply(layer, x)
        assert difference(y[..., :4], y[..., 4:8]) <= CLOSE
        assert difference(y[..., :4], y[..., 8:]) <= CLOSE
        other = x.copy()
        other[..., 5] = features(2, 6, 5, seed=7)
        changed = np.abs(apply(layer, other) - apply(layer, x)).max((0, 1, 2))
        assert np.flatnonzero(changed).tolist() == [10]  # 2 * 5

    def test_channels_without_variance(self):
        layer, weights = live(ShuffleAttention(3), (2, 6, 5, 12))
        x = np.maximum(features(2, 6, 5, 12), 0)
        x[..., 3] = 0.0
        x[..., 6:8] = 1.0
        y, dx, _ = gradients(layer, x, features(*x.shape, seed=2))
        assert difference(y, reference.forward(x, weights, groups=3)) <= CLOSE
        assert np.isfinite(dx).all()

    @pytest.mark.parametrize("offset", [0.0, 100.0])
    def test_large_values(self, offset):
        """A mean of squares minus the square of the mean would be lost at 100."""
        layer, weights = live(ShuffleAttention(3), (2, 6, 5, 12))
        x = offset + features(2, 6, 5, 12)
        expected = reference.forward(x, weights, groups=3)
        assert difference(apply(layer, x), expected) <= CLOSE

    @pytest.mark.parametrize("half", ["bfloat16", "float16"])
    def test_statistics_are_float32(self, half):
        """In float16 the squares of 300 overflow; in bfloat16 a mean of 300 is 2 off.

        Integers below 2^8 times 2 are exact in both types.
        """
        shape = (2, 9, 7, 12)
        layer, weights = live(ShuffleAttention(3, dtype=f"mixed_{half}"), shape)
        weights["cweight"] = weights["cweight"] / 300
        load_torch(layer, weights)
        x = 2 * np.round(150 + 20 * features(*shape)).clip(0, 255)
        y = apply(layer, x.astype("float32"))
        # the gate is rounded to 8 bits (11 in float16), and so is the product
        tolerance = 2**-7 if half == "bfloat16" else 2**-10
        assert difference(y, reference.forward(x, weights, groups=3)) <= tolerance


class TestArguments:
    @pytest.mark.parametrize(
        ("channels", "groups"),
        [(128, 64), (256, 64), (96, 48), (24, 12), (144, 36), (14, 7), (2, 1)],
    )
    def test_none_is_the_largest_divisor_of_half_up_to_64(self, channels, groups):
        layer = ShuffleAttention(groups=None)
        layer.build((None, None, None, channels))
        assert layer.gamma.shape == (channels // (2 * groups),)
        assert layer.groups is None and layer.get_config()["groups"] is None

    def test_starts_as_the_authors(self):
        layer = ShuffleAttention()
        assert layer.groups == 64
        layer.build((None, None, None, 256))
        assert layer.count_params() == 12
        for weight, value in [
            (layer.channel_scale, 0),
            (layer.channel_shift, 1),
            (layer.spatial_scale, 0),
            (layer.spatial_shift, 1),
            (layer.gamma, 1),
            (layer.beta, 0),
        ]:
            assert (array(weight) == value).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"groups": 0}, "groups must be a positive integer; received 0"),
            ({"groups": 2.0}, "groups must be a positive integer; received 2.0"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ShuffleAttention(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 64), "'sa' needs an input of rank 4.*4, 64"),
            ("channels_last", (None, 2, 4, 4, 128), "'sa' needs an input of rank 4"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
            ("channels_last", (None, 4, 4, 63), "'sa' needs an even .*received 63"),
            (
                "channels_last",
                (None, 4, 4, 64),
                "groups must divide half of the 64 channels; layer 'sa' has groups=64 "
                "and received 32. groups=None takes the largest divisor up to 64",
            ),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        layer = ShuffleAttention(data_format=data_format, name="sa")
        with pytest.raises(ValueError, match=message):
            layer.build(shape)

    def test_refuses_other_channels_after_build(self):
        layer, _ = live(ShuffleAttention(4), (1, 4, 4, 16))
        with pytest.raises(ValueError, match="expected axis 3.*value 16"):
            layer(features(1, 4, 4, 8))

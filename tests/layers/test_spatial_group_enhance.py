"""SpatialGroupEnhance: golden and numpy parity, traps, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import spatial_group_enhance as reference
from support.comparing import CLOSE, array, difference, features
from support.gradients import gradients
from support.layer_suite import LAYER_OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, live
from support.warm_start_suite import Warm, WarmStart

from keras_attention import SpatialGroupEnhance
from keras_attention.weights import load_torch


class Block(Suite):
    layer_class = SpatialGroupEnhance
    reference = staticmethod(reference.forward)
    goldens = ("spatial_group_enhance",)
    cases = ({"groups": 8}, {"groups": None}, {"groups": 1})
    full_config = {
        "groups": 4,
        **LAYER_OPTIONS,
    }

    def make(self, **arguments):
        return self.layer_class(**{"groups": 8} | arguments)


class TestGolden(Block, Golden):
    pass


class TestLayer(Block, Properties):
    pass


class TestWarmStart(Block, WarmStart):
    # Fresh, gamma is 0 and beta is 1.
    warm = (
        Warm(0.5, ("gamma",), {"groups": 8}, starts_so=True),
        Warm(0.5, ("gamma",), {"groups": 1}, starts_so=True),
    )


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        groups=st.integers(1, 6),
        width=st.integers(1, 6),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(self, size, groups, width, seed):
        shape = (*size, groups * width)
        layer, weights = live(SpatialGroupEnhance(groups), shape, seed)
        # means of some size: without them a map is all rounding, which is normalized
        x = features(*shape, seed=seed) + 0.5
        expected = reference.forward(x, weights)
        # relative to x: with few channels all gates may be closed
        assert difference(apply(layer, x), expected, np.abs(x).max()) <= CLOSE

    def test_gradients_match_finite_differences(self):
        shape = (2, 4, 3, 6)
        layer, weights = live(SpatialGroupEnhance(2, dtype="float64"), shape)
        x = features(*shape).astype("float64")
        cotangent = features(*shape, seed=2).astype("float64")
        _, dx, _ = gradients(layer, x, cotangent)
        numeric = []
        for index in range(x.size):
            # error of a central difference: step**2 and 1e-16 / step
            ends = []
            for step in (1e-5, -1e-5):
                moved = x.copy()
                moved.flat[index] += step
                ends.append((reference.forward(moved, weights) * cotangent).sum())
            numeric.append((ends[0] - ends[1]) / 2e-5)
        assert difference(dx.ravel(), numeric) <= 1e-6

    def test_groups_do_not_see_each_other(self):
        """Groups are contiguous runs of channels; others are left alone."""
        layer, _ = live(SpatialGroupEnhance(4), (2, 6, 5, 12))
        x = features(2, 6, 5, 12)
        other = x.copy()
        other[..., 3:6] = features(2, 6, 5, 3, seed=7)
        changed = np.abs(apply(layer, other) - apply(layer, x)).max((0, 1, 2))
        assert (changed[3:6] > 0.1).all()
        np.testing.assert_array_equal(changed[[0, 1, 2, 6, 7, 8, 9, 10, 11]], 0)

    def test_one_gate_per_group_and_position(self):
        layer, _ = live(SpatialGroupEnhance(4), (2, 6, 5, 12))
        x = features(2, 6, 5, 12)
        gates = (apply(layer, x) / x).reshape(2, 6, 5, 4, 3)
        assert np.ptp(gates, axis=-1).max() <= CLOSE
        assert (gates > 0).all() and (gates < 1).all()
        assert gates.std((1, 2)).min() >= 0.05 * gates.mean()

    def test_standardizes_with_the_unbiased_deviation(self):
        """t is 1, 1, 1, 5 times the mean 2: deviation 4, not the biased 12^(1/2)."""
        x = np.array([1.0, 1.0, 1.0, 5.0], "float32").reshape(1, 2, 2, 1)
        layer = SpatialGroupEnhance(1)
        layer.build(x.shape)
        load_torch(layer, {"weight": np.array([2.0]), "bias": np.array([-0.5])})
        standardized = np.array([-2, -2, -2, 6]) / 4
        expected = x.ravel() / (1 + np.exp(-(2 * standardized - 0.5)))
        assert difference(apply(layer, x).ravel(), expected) <= CLOSE

    def test_epsilon_is_added_to_the_deviation(self):
        """Seen where deviations are of its order; in the root it would be 0.003."""
        layer, weights = live(SpatialGroupEnhance(4), (2, 6, 5, 12))
        x = 3e-3 * (1 + features(2, 6, 5, 12))
        expected = reference.forward(x, weights)
        assert difference(apply(layer, x), expected) <= CLOSE
        larger = reference.forward(1e3 * x, weights) / 1e3
        assert difference(larger, expected) >= 0.05

    def test_maps_of_one_value(self):
        """No deviation: the gates are sigmoid(beta), and no gradient is NaN."""
        for shape in [(2, 1, 1, 12), (2, 4, 3, 12)]:
            layer, weights = live(SpatialGroupEnhance(4), shape)
            x = np.broadcast_to(np.round(4 * features(2, 1, 1, 12)) / 4, shape).copy()
            y, dx, found = gradients(layer, x, np.ones_like(x))
            gate = 1 / (1 + np.exp(-weights["bias"].repeat(3)))
            assert difference(y, x * gate) <= CLOSE
            assert np.isfinite(dx).all()
            assert all(np.isfinite(gradient).all() for gradient in found.values())

    @pytest.mark.parametrize("offset", [0.0, 30.0])
    def test_large_values(self, offset):
        layer, weights = live(SpatialGroupEnhance(4), (2, 8, 8, 12))
        x = offset + 10 * features(2, 8, 8, 12)
        # logits are differences of values that are some times larger
        expected = reference.forward(x, weights)
        assert difference(apply(layer, x), expected) <= 2 * CLOSE

    @pytest.mark.parametrize("half", ["bfloat16", "float16"])
    def test_statistics_are_float32(self, half):
        """In float16 products of 300 overflow; in bfloat16 a mean of 300 is 2 off.

        Integers below 2^8 times 2 are exact in both types.
        """
        shape = (2, 9, 7, 12)
        layer, weights = live(SpatialGroupEnhance(4, dtype=f"mixed_{half}"), shape)
        x = 2 * np.round(150 + 20 * features(*shape)).clip(0, 255)
        y = apply(layer, x.astype("float32"))
        # the gate is rounded to 8 bits (11 in float16), and so is the product
        tolerance = 2**-7 if half == "bfloat16" else 2**-10
        assert difference(y, reference.forward(x, weights)) <= tolerance


class TestArguments:
    @pytest.mark.parametrize(
        ("channels", "groups"),
        [(96, 48), (64, 64), (128, 64), (24, 24), (144, 48), (7, 7), (67, 1)],
    )
    def test_none_is_the_largest_divisor_up_to_64(self, channels, groups):
        layer = SpatialGroupEnhance(groups=None)
        layer.build((None, None, None, channels))
        assert layer.gamma.shape == (groups,)
        assert layer.groups is None and layer.get_config()["groups"] is None

    def test_starts_as_the_authors(self):
        """The same gate everywhere, sigmoid(1)."""
        layer = SpatialGroupEnhance()
        assert layer.groups == 64
        x = features(2, 6, 5, 128)
        y = apply(layer, x)
        assert layer.count_params() == 128
        assert difference(y, x / (1 + np.exp(-1))) <= CLOSE
        assert not array(layer.gamma).any() and (array(layer.beta) == 1).all()

    def test_weights_may_have_the_shape_of_the_authors(self):
        layer = SpatialGroupEnhance(4)
        layer.build((None, None, None, 8))
        values = features(4, seed=3)
        state = {"weight": values.reshape(1, 4, 1, 1), "bias": -values}
        load_torch(layer, state)
        np.testing.assert_array_equal(array(layer.gamma), values)
        np.testing.assert_array_equal(array(layer.beta), -values)

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
            SpatialGroupEnhance(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 64), "'sge' needs an input of rank 4.*4, 64"),
            ("channels_last", (None, 2, 4, 4, 64), "'sge' needs an input of rank 4"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
            (
                "channels_last",
                (None, 4, 4, 144),
                "groups must divide the channels; layer 'sge' has groups=64 and "
                "received 144. groups=None takes the largest divisor up to 64",
            ),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        layer = SpatialGroupEnhance(data_format=data_format, name="sge")
        with pytest.raises(ValueError, match=message):
            layer.build(shape)

    def test_refuses_other_channels_after_build(self):
        layer, _ = live(SpatialGroupEnhance(4), (1, 4, 4, 16))
        with pytest.raises(ValueError, match="expected axis 3.*value 16"):
            layer(features(1, 4, 4, 8))

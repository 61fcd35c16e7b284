"""SimAM: parity with golden files and numpy, traps, what it refuses."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import simam as reference
from support.comparing import CLOSE, array, difference, features
from support.gradients import gradients
from support.layer_suite import LAYER_OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply
from support.warm_start_suite import NoWarmStart

from keras_attention import SimAM
from keras_attention.weights import load_torch


class Block(Suite):
    layer_class = SimAM
    reference = staticmethod(reference.forward)
    goldens = ("simam",)
    cases = ({}, {"e_lambda": 0.1})
    full_config = {
        "e_lambda": 0.5,
        **LAYER_OPTIONS,
    }


class TestGolden(Block, Golden):
    def test_golden(self, loaded):
        layer, file = loaded("simam")
        assert difference(layer(file["x"]), file["y_inference"]) <= CLOSE
        y, dx, found = gradients(layer, file["x"], file["cotangent"])
        assert difference(y, file["y_training"]) <= CLOSE
        assert difference(dx, file["dx_training"]) <= CLOSE
        assert not found


class TestLayer(Block, Properties):
    def test_every_weight_gets_a_gradient(self):
        """There is none; the input has one, through mean and variance, too."""
        x, cotangent = features(2, 4, 3, 2), features(2, 4, 3, 2, seed=2)
        layer = SimAM(dtype="float64")
        _, dx, _ = gradients(layer, x.astype("float64"), cotangent)
        assert layer.weights == []

        def loss(x):
            return (reference.forward(x, {}) * cotangent).sum()

        numeric = []
        for index in range(x.size):
            # error of a central difference: step**2 and 1e-16 / step
            ends = [x.astype("float64"), x.astype("float64")]
            ends[0].flat[index] += 1e-5
            ends[1].flat[index] -= 1e-5
            numeric.append((loss(ends[0]) - loss(ends[1])) / 2e-5)
        assert difference(dx.ravel(), numeric) <= 1e-6


class TestVideo(Block, Properties):
    cases = ({},)
    channels = 12
    sizes = ((3, 4, 5), (2, 5, 3), (4, 1, 2), (1, 1, 1))
    test_every_weight_gets_a_gradient = None


class TestNoWarmStart(Block, NoWarmStart):
    refused = {"has no weights": {}}


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 9),
        e_lambda=st.floats(1e-4, 1.0),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(self, size, channels, e_lambda, seed):
        x = features(*size, channels, seed=seed)
        expected = reference.forward(x, {}, e_lambda=e_lambda)
        assert difference(apply(SimAM(e_lambda), x), expected) <= CLOSE

    def test_gates_of_a_known_map(self):
        """1, 1, 1, 5: mean 2, squares 1, 1, 1, 9, variance 12 / 3."""
        x = np.array([1.0, 1.0, 1.0, 5.0], "float32").reshape(1, 2, 2, 1)
        energy = np.array([1, 1, 1, 9]) / (4 * (4 + 0.1)) + 0.5
        expected = x.ravel() / (1 + np.exp(-energy))
        assert difference(apply(SimAM(0.1), x).ravel(), expected) <= 1e-6

    def test_channels_do_not_see_each_other(self):
        x = features(2, 6, 5, 4)
        other = x.copy()
        other[..., 1] = features(2, 6, 5, seed=7)
        changed = np.abs(apply(SimAM(), other) - apply(SimAM(), x)).max((0, 1, 2))
        assert changed[1] > 0.1
        np.testing.assert_array_equal(changed[[0, 2, 3]], 0)

    def test_maps_of_one_value(self):
        """No variance: the gate is sigmoid(1/2), and nothing is divided by 0."""
        half = 1 / (1 + np.exp(-0.5))
        for shape in [(2, 1, 1, 3), (2, 1, 1, 1, 3)]:
            x = features(*shape)
            assert difference(apply(SimAM(), x), x * half) <= CLOSE
        x = np.full((2, 4, 4, 3), 2.5, "float32")
        y, dx, _ = gradients(SimAM(), x, np.ones_like(x))
        assert difference(y, x * half) <= CLOSE
        assert difference(dx, np.full_like(x, half)) <= CLOSE

    @pytest.mark.parametrize("offset", [0.0, 100.0])
    def test_large_values(self, offset):
        """A mean of squares minus the square of the mean would be lost at 100."""
        x = offset + features(2, 8, 8, 4)
        assert difference(apply(SimAM(), x), reference.forward(x, {})) <= CLOSE

    @pytest.mark.parametrize("half", ["bfloat16", "float16"])
    def test_energies_are_float32(self, half):
        """In float16 the squares of 300 overflow; in bfloat16 a mean of 300 is 2 off.

        Integers below 2^8 times 2 are exact in both types.
        """
        x = 2 * np.round(150 + 20 * features(2, 9, 7, 4)).clip(0, 255)
        y = apply(SimAM(dtype=f"mixed_{half}"), x.astype("float32"))
        # the gate is rounded to 8 bits (11 in float16), and so is the product
        tolerance = 2**-7 if half == "bfloat16" else 2**-10
        assert difference(y, reference.forward(x, {})) <= tolerance

    def test_video_is_a_map_of_all_positions(self):
        x = features(2, 3, 4, 5, 6)
        y = apply(SimAM(), x.reshape(2, 12, 5, 6)).reshape(x.shape)
        assert difference(apply(SimAM(), x), y) <= CLOSE


class TestArguments:
    def test_defaults_are_the_authors(self):
        layer = SimAM()
        assert layer.e_lambda == 1e-4
        layer.build((None, None, None, 8))
        assert layer.count_params() == 0

    def test_load_torch(self):
        """The authors' module has no parameters either."""
        layer = SimAM(name="simam")
        layer.build((None, 4, 4, 8))
        assert load_torch(layer, {}).loaded == ()
        with pytest.raises(ValueError, match="weight"):
            load_torch(layer, {"weight": np.ones(8)})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"e_lambda": 0}, "e_lambda must be a positive number; received 0"),
            ({"e_lambda": -0.1}, "e_lambda must be.*received -0.1"),
            ({"e_lambda": float("nan")}, "e_lambda must be.*received nan"),
            ({"e_lambda": "small"}, "e_lambda must be.*received 'small'"),
            ({"e_lambda": True}, "e_lambda must be.*received True"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            SimAM(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'simam' needs an input of rank 4 or 5"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_last", (None, 2, 4, 4, None), r"static number of .*\(axis 4"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            SimAM(data_format=data_format, name="simam").build(shape)


def test_positions_may_be_dynamic():
    """The number of positions is then known when it runs."""
    x = keras.Input((None, None, None, 3))
    model = keras.Model(x, SimAM()(x))
    for size in [(2, 3, 4), (1, 1, 1)]:
        x = features(2, *size, 3)
        assert difference(array(model(x)), reference.forward(x, {})) <= CLOSE

"""NAM: parity with golden files and numpy, traps, what it refuses."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import nam as reference
from support.comparing import CLOSE, array, difference, features
from support.gradients import gradients
from support.layer_suite import LAYER_OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, live
from support.warm_start_suite import Warm, WarmStart

from keras_attention import NAM
from keras_attention.weights import load_torch

NORM = reference.NORM


class Block(Suite):
    layer_class = NAM
    reference = staticmethod(reference.forward)
    goldens = ("nam",)
    normalized = {NORM: lambda shape: np.prod(shape[:3])}
    full_config = {
        "gamma_regularizer": keras.regularizers.L1(1e-4),
        **LAYER_OPTIONS,
    }


class TestGolden(Block, Golden):
    pass


class TestLayer(Block, Properties):
    pass


def with_scales(gamma, shape, seed=0, **arguments):
    """Returns a live layer of the given scales, and its weights."""
    layer, weights = live(NAM(**arguments), shape, seed)
    weights |= {f"{NORM}.weight": np.asarray(gamma, "float32")}
    load_torch(layer, weights)
    return layer, weights


class TestWarmStart(Block, WarmStart):
    warm = (Warm(0.5, ("norm/gamma", "norm/beta")),)


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 20),
        seed=st.integers(0, 1000),
    )
    def test_any_shape(self, size, channels, seed):
        x = features(*size, channels, seed=seed)
        gamma = features(channels, seed=seed + 1)
        layer, weights = with_scales(gamma, x.shape, seed)
        assert difference(apply(layer, x), reference.forward(x, weights)) <= CLOSE

    def test_weights_are_magnitudes_and_sum_to_one(self):
        """The sign of a scale acts in the normalization, and not in the weight."""
        x = features(2, 6, 5, 4)
        layer, weights = with_scales([1.0, -2.0, 0.0, 5.0], x.shape)
        mean, variance = weights[f"{NORM}.running_mean"], weights[f"{NORM}.running_var"]
        y = (x - mean) / np.sqrt(variance + 1e-5)
        y = y * [1, -2, 0, 5] + weights[f"{NORM}.bias"]
        expected = x / (1 + np.exp(-y * np.array([1, 2, 0, 5]) / 8))
        assert difference(apply(layer, x), expected) <= CLOSE
        np.testing.assert_array_equal(apply(layer, x)[..., 2], x[..., 2] / 2)

    def test_no_gradient_passes_through_the_weights(self):
        """As in the authors' code: that of gamma is the normalization's alone."""
        x, cotangent = features(2, 6, 5, 4), features(2, 6, 5, 4, seed=2)
        gamma = np.array([1.0, -2.0, 0.5, 5.0])
        layer, weights = with_scales(gamma, x.shape)
        *_, found = gradients(layer, x, cotangent)
        normalized = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        w = abs(gamma) / abs(gamma).sum()
        z = w * (gamma * normalized + weights[f"{NORM}.bias"])
        slope = cotangent * x * np.exp(-z) / (1 + np.exp(-z)) ** 2 * w
        detached = (slope * normalized).sum((0, 1, 2))
        actual = found[id(layer.norm.gamma)]
        assert difference(actual, detached) <= CLOSE
        # what passes through the weights is no small part
        through = (slope * z / w).sum((0, 1, 2))
        through = np.sign(gamma) * (through - (through * w).sum()) / abs(gamma).sum()
        assert np.abs(through).max() >= 0.05 * np.abs(detached).max()

    def test_scales_of_zero(self):
        """Without any scale no channel counts: half of x, where 0 / 0 would be NaN."""
        x = features(2, 6, 5, 4)
        layer, _ = with_scales(np.zeros(4), x.shape)
        for training in (False, True):
            np.testing.assert_array_equal(apply(layer, x, training), x / 2)
        _, dx, found = gradients(layer, x, features(2, 6, 5, 4, seed=2))
        assert np.isfinite(dx).all()
        assert all(np.isfinite(gradient).all() for gradient in found.values())

    def test_sum_of_many_scales_in_mixed_precision(self):
        """In bfloat16, 256 + 1 is 256: the sum of 1024 ones must not stop there."""
        x = features(1, 2, 2, 1024)
        layer, weights = with_scales(np.ones(1024), x.shape, dtype="mixed_bfloat16")
        layer.norm.beta.assign(np.full(1024, 1024.0))
        weights |= {f"{NORM}.bias": np.full(1024, 1024.0)}
        # the gates are sigmoid(1 + x / 1024), rounded to 8 bits as x and y are
        expected = reference.forward(x, weights)
        assert difference(apply(layer, x), expected) <= 3 * 2**-8


class TestArguments:
    def test_normalization(self):
        layer = NAM(gamma_regularizer=keras.regularizers.L1(0.5))
        layer.build((None, 4, 6, 8))
        assert (layer.norm.momentum, layer.norm.epsilon) == (0.9, 1e-5)
        assert sum(int(np.prod(w.shape)) for w in layer.trainable_weights) == 16
        assert layer.count_params() == 32
        (loss,) = layer.losses
        assert array(loss) == 4.0  # eight scales of 1
        assert NAM().gamma_regularizer is None

    def test_statistics_of_a_training_step(self):
        x = features(2, 6, 5, 8)
        layer, weights = live(NAM(), x.shape)
        apply(layer, x, training=True)
        mean = 0.9 * weights[f"{NORM}.running_mean"] + 0.1 * x.mean((0, 1, 2))
        variance = 0.9 * weights[f"{NORM}.running_var"] + 0.1 * x.var((0, 1, 2))
        assert difference(layer.norm.moving_mean, mean) <= CLOSE
        assert difference(layer.norm.moving_variance, variance) <= CLOSE

    def test_refuses_arguments(self):
        with pytest.raises(ValueError, match="data_format must be one of.*'nchw'"):
            NAM(data_format="nchw")

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), r"'nam' needs an input of rank 4.*4, 8"),
            ("channels_last", (None, 2, 4, 4, 8), "'nam' needs an input of rank 4"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            NAM(data_format=data_format, name="nam").build(shape)

    def test_refuses_other_channels_after_build(self):
        layer, _ = live(NAM(), (1, 4, 4, 16))
        with pytest.raises(ValueError, match="expected axis 3.*value 16"):
            layer(features(1, 4, 4, 8))

"""ShuffleAttention: its mobile form, and the int8 files of it."""

import collections

import keras
import numpy as np
import pytest
from reference import shuffle_attention as reference
from support.comparing import CLOSE, difference, features, relative_error
from support.deploy_suite import Deploy, Int8, deployed, inputs, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import ShuffleAttention, mobile


class Block(Suite):
    layer_class = ShuffleAttention
    cases = ({"groups": 4}, {"groups": None}, {"groups": 1})

    def make(self, **arguments):
        return self.layer_class(**{"groups": 4} | arguments)


class TestDeploy(Block, Deploy):
    def test_gates_are_live(self):
        layer, weights = self.live((2, 8, 8, 24), name="sa")
        x = features(2, 8, 8, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("sa_gate").output)(x).numpy()
        assert gate.std() >= 0.05 * gate.mean()
        second = gate.reshape(2, 8, 8, 4, 2, 3)[..., 1, :]
        assert second.std((1, 2)).min() >= 0.05 * gate.mean()
        assert difference(gate[1], reference.gates(x[1], weights, 4)) <= CLOSE
        # without the gates, the shuffle alone
        same = x[..., np.arange(24).reshape(2, 12).T.ravel()]
        assert difference(same, model(x)) >= 0.05

    def test_operations(self):
        """No transpose, and no tensor of more than four axes."""
        layer, _ = self.live((2, 8, 6, 24))
        model = deployed(layer, (8, 6, 24))
        assert max(len(op.output.shape) for op in model.operations) == 4
        kinds = collections.Counter(type(op).__name__ for op in model.operations)
        assert "Transpose" not in kinds
        full = [op for op in model.operations if op.output.shape == (None, 8, 6, 24)]
        kinds = collections.Counter(type(op).__name__ for op in full)
        assert kinds == {
            "InputLayer": 1,
            "Subtract": 1,
            "DepthwiseConv2D": 1,
            "Multiply": 3,  # a square, which is a lookup in int8, and two products
            "Add": 1,
            "Activation": 1,
            "Conv2D": 1,  # the shuffle
        }

    def test_halves_stay_what_they_are(self):
        """No weight connects first halves with maps, or second ones with means."""
        layer, _ = self.live((2, 8, 8, 24), name="sa")
        model = deployed(layer, (8, 8, 24))
        for inner in model.layers:
            if inner.trainable_weights:
                inner.set_weights([np.full_like(w, 0.7) for w in inner.get_weights()])
        x = features(2, 8, 8, 24)
        gate = keras.Model(model.input, model.get_layer("sa_gate").output)
        before = gate(x).numpy().reshape(2, 8, 8, 4, 2, 3)
        assert np.ptp(before[..., 0, :], axis=(1, 2)).max() <= CLOSE
        after = gate(x + 1).numpy().reshape(before.shape)
        assert difference(after[..., 1, :], before[..., 1, :]) <= CLOSE
        assert difference(after[..., 0, :], before[..., 0, :]) >= 0.05

    @pytest.mark.parametrize("offset", [0.0, 100.0])
    def test_large_values(self, offset):
        layer, _ = self.live((2, 8, 8, 24))
        x = offset + 10 * features(2, 8, 8, 24)
        assert difference(deployed(layer, (8, 8, 24))(x), layer(x)) <= CLOSE

    def test_does_not_depend_on_the_equalizer(self):
        layer, _ = self.live((2, 8, 8, 24), name="sa")
        model = deployed(layer, (8, 8, 24))
        x = features(2, 8, 8, 24)
        y = model(x).numpy()
        scale = np.geomspace(0.1, 10, 24)
        model.get_layer("sa_equalizer").set_weights([scale.reshape(1, 1, 24, 1)])
        ones, epsilon = model.get_layer("sa_variance").get_weights()
        np.testing.assert_allclose(epsilon, 1e-5)
        model.get_layer("sa_variance").set_weights([ones, epsilon * scale**2])
        assert difference(model(x), y) <= CLOSE


class TestInt8(Block, Int8):
    kernels = 2
    steps = (4, 0.001)
    error = 0.03


class TestInt8OfTheDefault(Block, Int8):
    channels = 128
    kernels = 2
    int8_cases = ({"groups": 64},)
    steps = (4, 0.001)
    error = 0.03


class TestInt8OfOnePosition(Block, Int8):
    """The gates of second halves are constants."""

    int8_size = (1, 1)
    kernels = 1


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(ShuffleAttention(4), (1, 10, 12, 24))
        x = features(4, 10, 12, 24)
        model = deployed(layer, x.shape[1:])
        *_, runner = int8_file(model, x, tmp_path / "sa.tflite")
        operators = dict(runner.file.operators)
        operators.pop("RESHAPE")
        assert operators == {
            "MEAN": 3,
            "SUB": 1,
            "DEPTHWISE_CONV_2D": 5,  # equalizer, two of the guard, both halves
            "MUL": 4,
            "MAXIMUM": 1,  # keeps the variance from being rounded to 0
            "LOG": 1,
            "EXP": 1,
            "STRIDED_SLICE": 2,
            "PAD": 2,
            "ADD": 1,
            "LOGISTIC": 1,
            "CONV_2D": 1,
        }

    def test_dead_input(self, tmp_path):
        """Maps of zeros among the others: no variance at all, and nothing NaN."""
        layer, _ = live(ShuffleAttention(4), (1, 10, 10, 24))
        x = inputs((8, 10, 10, 24))["dead"]
        x[::2] = 0.0
        model = deployed(layer, x.shape[1:])
        _, y, _ = int8_file(model, x, tmp_path / "sa.tflite")
        np.testing.assert_array_equal(y[::2], 0.0)
        assert relative_error(y, model(x).numpy()) <= 0.03


def test_equalizing_is_what_keeps_weak_channels(monkeypatch):
    """In the gates; the outputs of weak channels are small, and few steps, anyway."""
    layer, _ = live(ShuffleAttention(4, name="sa"), (1, 14, 14, 24))
    x = inputs((8, 14, 14, 24))["weak"]
    model = deployed(layer, x.shape[1:])

    def gates(model):
        gate = model.get_layer("sa_gate").output
        return keras.Model(model.input, gate)(x).numpy()[..., 9:12]

    def error():
        return relative_error(gates(mobile.quantize(model, x)), gates(model))

    equalized = error()
    monkeypatch.setattr(mobile.equalizing, "equalize", lambda model, data: None)
    assert equalized <= 0.01 and error() >= 2 * equalized

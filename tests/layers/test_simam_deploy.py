"""SimAM: its mobile form, and the int8 files of it."""

import collections

import keras
import numpy as np
import pytest
from reference import simam as reference
from support.comparing import CLOSE, difference, features, relative_error
from support.deploy_suite import Deploy, Int8, deployed, inputs, int8_file
from support.layer_suite import Suite
from support.torch_weights import built, live

from keras_attention import SimAM, mobile


class Block(Suite):
    layer_class = SimAM
    cases = ({}, {"e_lambda": 0.1})


class TestDeploy(Block, Deploy):
    def test_gates_are_live(self):
        layer, _ = self.live((2, 8, 8, 24), name="simam")
        x = features(2, 8, 8, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("simam_gate").output)(x).numpy()
        assert gate.std((1, 2)).min() >= 0.05 * gate.mean()
        assert difference(gate * x, reference.forward(x, {})) <= CLOSE

    @pytest.mark.parametrize("offset", [0.0, 100.0])
    def test_large_values(self, offset):
        layer, _ = self.live((2, 8, 8, 24))
        x = offset + 10 * features(2, 8, 8, 24)
        assert difference(deployed(layer, (8, 8, 24))(x), layer(x)) <= CLOSE

    def test_tiny_values(self):
        """Variances far below lambda."""
        layer, _ = self.live((2, 8, 8, 24))
        x = 1e-3 * features(2, 8, 8, 24)
        assert difference(deployed(layer, (8, 8, 24))(x), layer(x)) <= CLOSE

    def test_does_not_depend_on_the_equalizer(self):
        layer, _ = self.live((2, 8, 8, 24), name="simam")
        model = deployed(layer, (8, 8, 24))
        x = features(2, 8, 8, 24)
        y = model(x).numpy()
        scale = np.geomspace(0.1, 10, 24)
        model.get_layer("simam_equalizer").set_weights([scale.reshape(1, 1, 24, 1)])
        ones, epsilon = model.get_layer("simam_variance").get_weights()
        np.testing.assert_allclose(epsilon, 4e-4)
        model.get_layer("simam_variance").set_weights([ones, epsilon * scale**2])
        assert difference(model(x), y) <= CLOSE

    def test_operations_on_the_full_map(self):
        layer, _ = self.live((2, 8, 6, 24))
        model = deployed(layer, (8, 6, 24))
        full = [op for op in model.operations if op.output.shape == (None, 8, 6, 24)]
        kinds = collections.Counter(type(op).__name__ for op in full)
        assert kinds == {
            "InputLayer": 1,
            "DepthwiseConv2D": 1,
            "Subtract": 1,
            "Multiply": 4,  # two of them are squares, which are lookups in int8
            "Add": 1,  # a lookup, too
            "Activation": 1,
        }


class TestVideoDeploy(Block, Deploy):
    cases = ({},)
    sizes = ((3, 4, 5), (2, 5, 3), (4, 1, 2), (1, 1, 1))

    def test_computes_in_rank_4(self):
        """Only the two ends of the mobile form have five axes."""
        layer = built(SimAM(), (2, 3, 4, 5, 16))
        first, *inner, last = deployed(layer, (3, 4, 5, 16)).operations
        assert {len(op.output.shape) for op in inner} == {4}
        assert len(first.output.shape) == len(last.output.shape) == 5


class TestInt8(Block, Int8):
    kernels = 0
    steps = (4, 0.001)
    error = 0.03


class TestInt8WithLargeLambda(Block, Int8):
    """The lambda of the authors' command line."""

    kernels = 0
    int8_cases = ({"e_lambda": 0.1},)
    steps = (4, 0.001)
    error = 0.03


class TestInt8OfOnePosition(Block, Int8):
    """The gates are a number, 0.62."""

    int8_size = (1, 1)
    kernels = 0


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(SimAM(), (1, 10, 12, 24))
        x = features(4, 10, 12, 24)
        model = deployed(layer, x.shape[1:])
        *_, runner = int8_file(model, x, tmp_path / "simam.tflite")
        assert dict(runner.file.operators) == {
            "DEPTHWISE_CONV_2D": 3,  # equalizer, and two of the guard
            "MEAN": 2,
            "SUB": 1,
            "MUL": 6,
            "MAXIMUM": 1,  # keeps the variance from being rounded to 0
            "LOG": 1,
            "EXP": 1,
            "ADD": 1,
            "LOGISTIC": 1,
        }


def test_equalizing_is_what_keeps_weak_channels(monkeypatch):
    """In the gates; the outputs of weak channels are small, and few steps, anyway."""
    layer, _ = live(SimAM(name="simam"), (1, 14, 14, 24))
    x = inputs((8, 14, 14, 24))["weak"]
    model = deployed(layer, x.shape[1:])

    def gates(model):
        gate = model.get_layer("simam_gate").output
        return keras.Model(model.input, gate)(x).numpy()[..., :8]

    def error():
        return relative_error(gates(mobile.quantize(model, x)), gates(model))

    equalized = error()
    monkeypatch.setattr(mobile.equalizing, "equalize", lambda model, data: None)
    assert equalized <= 0.02 and error() >= 2 * equalized

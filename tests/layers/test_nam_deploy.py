"""NAM: its mobile form, and the int8 files of it."""

import collections

import keras
import numpy as np
from reference import nam as reference
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import NAM, mobile, penalize_gammas
from keras_attention.weights import load_torch


class Block(Suite):
    layer_class = NAM

    def live(self, shape, seed=0, **arguments):
        """Scales are sparse, as the paper's penalty makes them, of both signs.

        Equal ones would weigh each channel 1 / C: all gates next to 1/2.
        """
        layer, weights = super().live(shape, seed, **arguments)
        rng = np.random.default_rng(seed)
        gamma = rng.choice([-1, 1], self.channels) * np.geomspace(
            0.01, 4, self.channels
        )
        gamma = rng.permutation(gamma)
        weights |= {f"{reference.NORM}.weight": gamma.astype("float32")}
        load_torch(layer, weights)
        return layer, weights


class TestDeploy(Block, Deploy):
    def test_gates_are_live(self):
        layer, _ = self.live((2, 8, 8, 24), name="nam")
        x = features(2, 8, 8, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("nam_gate").output)(x).numpy()
        assert gate.shape == x.shape
        assert gate.std() >= 0.05 * gate.mean()
        assert difference(gate * x, model(x)) <= CLOSE

    def test_operations(self):
        layer, _ = self.live((2, 8, 6, 24), name="nam")
        model = deployed(layer, (8, 6, 24))
        kinds = collections.Counter(type(op).__name__ for op in model.operations)
        assert kinds == {
            "InputLayer": 1,
            "DepthwiseConv2D": 1,
            "Activation": 1,
            "Multiply": 1,
        }
        (norm,) = (inner for inner in model.layers if inner.trainable_weights)
        assert norm.name == "nam_norm"

    def test_scales_of_zero(self):
        layer, _ = self.live((2, 8, 8, 24))
        layer.norm.gamma.assign(np.zeros(24))
        x = features(2, 8, 8, 24)
        np.testing.assert_array_equal(deployed(layer, (8, 8, 24))(x), x / 2)


class TestInt8(Block, Int8):
    kernels = 1
    steps = (4, 0.001)
    error = 0.03


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(NAM(), (1, 10, 12, 16))
        x = features(4, 10, 12, 16)
        *_, runner = int8_file(deployed(layer, x.shape[1:]), x, tmp_path / "nam.tflite")
        assert dict(runner.file.operators) == {
            "DEPTHWISE_CONV_2D": 1,
            "LOGISTIC": 1,
            "MUL": 1,
        }


def test_penalized_models_are_deployed():
    """Without the penalty."""
    layer, _ = live(NAM(name="nam"), (2, 6, 5, 8))
    x = keras.Input((6, 5, 8))
    model = keras.Model(x, layer(x))
    penalize_gammas(model)
    deployed_model = mobile.deploy(model)
    assert len(model.losses) == 1 and deployed_model.losses == []
    x = features(2, 6, 5, 8)
    assert difference(deployed_model(x), model(x)) <= CLOSE

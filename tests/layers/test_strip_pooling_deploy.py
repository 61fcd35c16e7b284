"""StripPooling: its mobile form, and the int8 files of it."""

import keras
from reference import strip_pooling as reference
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import StripPooling


class Block(Suite):
    layer_class = StripPooling


class TestDeploy(Block, Deploy):
    def test_gate_is_live(self):
        layer, weights = self.live((2, 8, 9, 24), name="sp")
        x = features(2, 8, 9, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("sp_gate").output)(x).numpy()
        assert gate.std() >= 0.05 * gate.mean()
        # Over the map, too, not from channel to channel only.
        assert gate.std((1, 2)).mean() >= 0.05 * gate.mean()
        assert difference(gate, reference.gates(x, weights)) <= CLOSE
        assert difference(x, model(x)) >= 0.05

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 24), name="sp")
        layer.conv_w.trainable = False
        model = deployed(layer, (8, 8, 24))
        trained = {inner.name for inner in model.layers if inner.trainable_weights}
        assert trained == {"sp_conv_h", "sp_mix"}


class TestInt8(Block, Int8):
    kernels = 3
    steps = (4, 0.001)
    error = 0.03


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(StripPooling(), (1, 10, 9, 16))
        x = features(4, 10, 9, 16)
        model = deployed(layer, x.shape[1:])
        *_, runner = int8_file(model, x, tmp_path / "sp.tflite")
        assert dict(runner.file.operators) == {
            "MEAN": 2,
            "CONV_2D": 3,  # normalizations are in them
            "ADD": 1,  # with the ReLU; it expands the strips
            "LOGISTIC": 1,
            "MUL": 1,
        }

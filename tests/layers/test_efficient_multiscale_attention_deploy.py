"""EfficientMultiScaleAttention: its mobile form, and the int8 files of it."""

import collections

import keras
import numpy as np
import pytest
from reference import efficient_multiscale_attention as reference
from support.comparing import CLOSE, difference, features, relative_error
from support.deploy_suite import Deploy, Int8, deployed, inputs, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import EfficientMultiScaleAttention, mobile


class Block(Suite):
    layer_class = EfficientMultiScaleAttention
    cases = ({"groups": 8}, {"groups": None}, {"groups": 1})
    channels = 24

    def make(self, **arguments):
        return self.layer_class(**{"groups": 8} | arguments)


class TestDeploy(Block, Deploy):
    def test_gates_are_live(self):
        layer, weights = self.live((2, 8, 8, 24), name="ema")
        x = features(2, 8, 8, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("ema_gate").output)(x).numpy()
        assert gate.shape == (2, 8, 8, 8)
        assert gate.std((0, 1, 2)).min() >= 0.05 * gate.mean()
        assert difference(x, model(x)) >= 0.05
        for group in range(8):
            expected = reference.attention_map(x[1, ..., 3 * group :][..., :3], weights)
            assert difference(gate[1, ..., group], expected) <= CLOSE

    def test_operations(self):
        """No transpose; on the full map a convolution, three products and a sum."""
        layer, _ = self.live((2, 8, 6, 24))
        model = deployed(layer, (8, 6, 24))
        kinds = collections.Counter(type(op).__name__ for op in model.operations)
        assert kinds == {
            "InputLayer": 1,
            "Mean": 7,
            "Reshape": 9,
            "Conv2D": 6,  # F1 of both strips is one; F3, beta, two sums, spreading
            "DepthwiseConv2D": 5,
            "Activation": 3,
            "GetItem": 4,
            "Multiply": 16,
            "Subtract": 5,
            "Concatenate": 2,
            "Relu": 1,
            "Log": 1,
            "Exp": 1,
            "Add": 3,
        }
        full = [op for op in model.operations if op.output.shape == (None, 8, 6, 24)]
        kinds = collections.Counter(type(op).__name__ for op in full)
        assert kinds == {
            "InputLayer": 1,
            "Multiply": 4,  # v * v is a lookup in int8
            "DepthwiseConv2D": 1,
            "Add": 1,
            "Conv2D": 1,  # spreading
        }

    @pytest.mark.parametrize("offset", [0.0, 10.0])
    def test_large_values(self, offset):
        layer, weights = self.live((2, 8, 8, 24))
        layer.spatial.kernel.assign(weights["conv3x3.weight"].transpose(2, 3, 1, 0) / 9)
        x = offset + 5 * features(2, 8, 8, 24)
        # logits of some tens in float32, whose step there is 4e-6
        assert difference(deployed(layer, (8, 8, 24))(x), layer(x)) <= 2 * CLOSE

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 24), name="ema")
        layer.spatial.trainable = False
        model = deployed(layer, (8, 8, 24))
        trained = {inner.name for inner in model.layers if inner.trainable_weights}
        assert trained == {"ema_strip", "ema_gamma", "ema_beta"}

    def test_does_not_depend_on_the_equalizer(self):
        layer, _ = self.live((2, 8, 8, 24), name="ema")
        model = deployed(layer, (8, 8, 24))
        x = features(2, 8, 8, 24)
        y = model(x).numpy()
        scale = np.geomspace(0.1, 10, 24)
        model.get_layer("ema_equalizer").set_weights([scale.reshape(1, 1, 24, 1)])
        ones, epsilon = model.get_layer("ema_variance").get_weights()
        np.testing.assert_allclose(epsilon, 1e-5)
        model.get_layer("ema_variance").set_weights([ones, epsilon * scale**2])
        assert difference(model(x), y) <= CLOSE


class TestInt8(Block, Int8):
    kernels = 5
    int8_cases = ({"groups": 8}, {"groups": 3}, {"groups": 24})


class TestInt8OfTheDefault(Block, Int8):
    channels = 96
    kernels = 5
    int8_cases = ({"groups": 32},)


class TestInt8OfOnePosition(Block, Int8):
    """Nothing of the normalization but beta is left."""

    int8_size = (1, 1)
    int8_cases = ({"groups": 8}, {"groups": 24})
    fresh = False  # 16 positions are too few for others' ranges
    # Eight of nine taps see padding: most of the 3x3 kernels has no gradient.
    test_gradients_under_quantization = None


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(EfficientMultiScaleAttention(8), (1, 10, 12, 24))
        x = features(4, 10, 12, 24)
        model = deployed(layer, x.shape[1:])
        *_, runner = int8_file(model, x, tmp_path / "ema.tflite")
        operators = dict(runner.file.operators)
        operators.pop("RESHAPE")
        assert operators == {
            "MEAN": 7,
            "CONV_2D": 7,
            "DEPTHWISE_CONV_2D": 5,
            "LOGISTIC": 3,
            "SOFTMAX": 1,
            "STRIDED_SLICE": 4,
            "MUL": 16,
            "SUB": 5,
            "CONCATENATION": 2,
            "MAXIMUM": 1,  # keeps the variance from being rounded to 0
            "LOG": 1,
            "EXP": 1,
            "ADD": 3,
        }

    def test_quantize_equalizes(self):
        """Weak channels are scaled up, by at most 16; the deployed model stays."""
        layer, _ = live(EfficientMultiScaleAttention(8, name="ema"), (1, 10, 10, 24))
        x = inputs((8, 10, 10, 24))["weak"]
        model = deployed(layer, x.shape[1:])
        before = model.get_weights()
        quantized = mobile.quantize(model, x)
        assert all(map(np.array_equal, before, model.get_weights()))
        scale = quantized.get_layer("ema_equalizer").layer.get_weights()[0].ravel()
        assert 4 <= scale.max() / scale.min() <= 16 * (1 + CLOSE)
        assert scale[0] > scale[-1]  # the first channel is the weakest
        floor = quantized.get_layer("ema_variance_floor").layer.get_weights()[1]
        np.testing.assert_array_equal(floor, 1 / 16)
        names = [inner.name for inner in quantized.layers if inner.trainable_weights]
        assert not {"ema_equalizer", "ema_variance", "ema_variance_floor"} & set(names)

    def test_equalizing_is_what_keeps_weak_channels(self, tmp_path, monkeypatch):
        layer, _ = live(EfficientMultiScaleAttention(8), (1, 14, 14, 24), seed=1)
        x = inputs((8, 14, 14, 24))["dead"]
        model = deployed(layer, x.shape[1:])
        expected = model(x).numpy()

        def error():
            _, y, _ = int8_file(model, x, tmp_path / "ema.tflite")
            return relative_error(y, expected)

        equalized = error()
        monkeypatch.setattr(mobile.equalizing, "equalize", lambda model, data: None)
        assert equalized <= 0.03 and error() >= 2 * equalized

    def test_dead_input(self, tmp_path):
        """Maps of zeros among the others: no variance at all, and nothing NaN."""
        layer, _ = live(EfficientMultiScaleAttention(8), (1, 10, 10, 24))
        x = inputs((8, 10, 10, 24))["dead"]
        x[::2] = 0.0
        model = deployed(layer, x.shape[1:])
        _, y, _ = int8_file(model, x, tmp_path / "ema.tflite")
        np.testing.assert_array_equal(y[::2], 0.0)
        assert relative_error(y, model(x).numpy()) <= 0.05

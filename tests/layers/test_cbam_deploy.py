"""CBAM: its mobile form, and the int8 files of it."""

import collections

import keras
import numpy as np
import pytest
from reference import cbam as reference
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import CBAM, mobile
from keras_attention.layers._one_channel_mobile import Toeplitz


class Block(Suite):
    layer_class = CBAM
    channels = 16
    cases = ({"reduction": 4}, {"reduction": 2, "kernel_size": 3})


class TestDeploy(Block, Deploy):
    def test_gates_are_live(self):
        layer, weights = self.live((2, 8, 9, 16), reduction=4, name="cbam")
        x = features(2, 8, 9, 16)
        model = deployed(layer, x.shape[1:])
        assert difference(x, model(x).numpy()) >= 0.05
        roles = ("channel", "spatial")
        gates = [model.get_layer(f"cbam_gate_{role}").output for role in roles]
        gates = [np.asarray(gate) for gate in keras.Model(model.input, gates)(x)]
        for gate in gates:
            assert gate.std() >= 0.05 * np.abs(gate).mean()
        expected = [reference.channel_gates(sample, weights) for sample in x]
        assert difference(gates[0][:, 0, 0], expected) <= CLOSE

    def test_operations(self):
        layer, _ = self.live((2, 8, 9, 16), reduction=4)
        model = deployed(layer, (8, 9, 16))
        kinds = collections.Counter(type(op).__name__ for op in model.operations)
        assert kinds == {
            "InputLayer": 1,
            "Mean": 2,
            "Max": 2,
            "Conv2D": 4,  # the first of the MLP is called twice, the second once
            "Relu": 2,
            "Add": 2,
            "Activation": 2,
            "Multiply": 2,
            "Reshape": 4,  # columns to channels and back, of both maps
        }

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 16), reduction=4, name="cbam")
        layer.reduce.trainable = layer.spatial.trainable = False
        trained = [
            inner.name
            for inner in deployed(layer, (8, 8, 16)).layers
            if inner.trainable_weights
        ]
        assert trained == ["cbam_expand"]


class TestColumnsAsChannels:
    @pytest.mark.parametrize(
        ("kernel_size", "width", "block"),
        [
            (7, 1, 1),
            (7, 5, 5),
            (7, 16, 16),
            (7, 17, 17),
            (7, 28, 14),
            (7, 68, 4),
            (1, 44, 11),
            (3, 48, 16),
            (11, 68, 4),
            (11, 3, 3),
        ],
    )
    def test_any_width(self, kernel_size, width, block):
        shape = (2, 5, width, 6)
        layer, _ = live(CBAM(2, kernel_size, name="cbam"), shape)
        x = features(*shape)
        model = deployed(layer, shape[1:])
        assert difference(model(x), layer(x)) <= CLOSE
        conv = model.get_layer("cbam_spatial_max")
        assert conv.filters == block
        reach = -(-(kernel_size // 2) // block)
        assert conv.kernel_size == (kernel_size, 2 * reach + 1)

    def test_called_on_two_widths(self):
        layer, _ = live(CBAM(2), (1, 4, 8, 6))
        function = layer.deploy()
        inputs = [keras.Input((4, width, 6)) for width in (8, 12)]
        model = keras.Model(inputs, [function(x) for x in inputs])
        images = [features(2, 4, width, 6) for width in (8, 12)]
        for y, x in zip(model(images), images, strict=True):
            assert difference(y, layer(x)) <= CLOSE

    def test_stays_one_kernel_in_training(self):
        """All columns keep the same numbers, under quantization too."""
        shape = (4, 6, 48, 6)
        layer, _ = live(CBAM(2, name="cbam"), shape)
        x = features(*shape)
        quantized = mobile.quantize(deployed(layer, shape[1:]), x)
        quantized.compile("adam", "mse")
        names = "spatial_max/kernel", "spatial_mean/kernel", "spatial_max/bias"

        def find(name):
            (found,) = (v for v in quantized.weights if v.path.endswith(name))
            return np.asarray(found)

        before = [find(name) for name in names]
        quantized.fit(x, features(*shape, seed=2), epochs=2, verbose=0)
        for name, old in zip(names, before, strict=True):
            new = find(name)
            assert difference(new, old) >= 1e-4  # it was trained
            # The mean of equal numbers has a rounding error.
            assert difference(Toeplitz()(new), new) <= 1e-6
            if new.ndim > 1:
                # Column 5 sees the block before from its column 5 - 3 + 16 on.
                assert not new[:, 0, :14, 5].any() and not new[:, 2, :, 5].any()
                np.testing.assert_allclose(new[:, 1, 2:9, 5], new[:, 1, 4:11, 7], 1e-5)
                np.testing.assert_allclose(new[:, 0, 13:, 0], new[:, 1, 2:5, 5], 1e-5)

    def test_file_loads_again(self, tmp_path):
        layer, _ = live(CBAM(2), (1, 6, 48, 6))
        model = deployed(layer, (6, 48, 6))
        model.save(tmp_path / "deployed.keras")
        again = keras.models.load_model(tmp_path / "deployed.keras")
        x = features(2, 6, 48, 6)
        np.testing.assert_array_equal(again(x), model(x))
        constraints = [getattr(op, "kernel_constraint", None) for op in again.layers]
        assert sum(isinstance(c, Toeplitz) for c in constraints) == 2


class TestInt8Wide(Block, Int8):
    """The columns in several blocks."""

    channels = 32
    required = {"reduction": 4}
    int8_size = (10, 40)
    kernels = 4
    steps = (4, 0.001)
    error = 0.03
    # Of other samples, after calibration with 16, it is up to 0.034.
    fresh = False


class TestInt8(TestInt8Wide):
    int8_size = (14, 14)
    # Of the three blocks of columns that the kernels know, two lie beside this map.
    test_gradients_under_quantization = None


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(CBAM(4), (1, 10, 48, 16))
        x = features(4, 10, 48, 16)
        *_, runner = int8_file(deployed(layer, x.shape[1:]), x, tmp_path / "c.tflite")
        operators = dict(runner.file.operators)
        operators.pop("RESHAPE")
        assert operators == {
            "MEAN": 2,
            "REDUCE_MAX": 2,
            "CONV_2D": 5,
            "ADD": 2,
            "LOGISTIC": 2,
            "MUL": 2,
        }

"""GlobalContext: its mobile form, and the int8 files of it."""

import keras
import numpy as np
import pytest
from support.comparing import CLOSE, difference, features, relative_error
from support.deploy_suite import Deploy, Int8, deployed, inputs, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import GlobalContext, mobile


class Block(Suite):
    layer_class = GlobalContext
    required = {"reduction": 4}
    cases = ({}, {"fusion": "mul", "min_channels": 16})
    sizes = ((7, 6), (1, 1))


class TestDeploy(Block, Deploy):
    @pytest.mark.parametrize("fusion", ["add", "mul"])
    def test_bottleneck_of_one_channel(self, fusion):
        """It normalizes to a constant, which no variance of 0 has to make."""
        layer, _ = self.live((2, 8, 8, 24), reduction=24, fusion=fusion, name="gc")
        x = 3 * features(2, 8, 8, 24)
        model = deployed(layer, x.shape[1:])
        assert difference(model(x), layer(x)) <= CLOSE
        assert [inner.name for inner in model.layers[1:]] == ["gc_constant"]

    def test_branch_is_live(self):
        layer, _ = self.live((4, 8, 8, 24))
        x = features(4, 8, 8, 24)
        added = deployed(layer, x.shape[1:])(x).numpy() - x
        # Samples and channels get different values.
        assert (added.std(0) >= 0.05 * np.abs(added).mean()).mean() >= 0.5
        assert added.std(-1).min() >= 0.05 * np.abs(added).mean()
        assert np.abs(added).mean() >= 0.05 * np.abs(x).mean()

    def test_gate_is_live(self):
        layer, _ = self.live((4, 8, 8, 24), fusion="mul", name="gc")
        x = features(4, 8, 8, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("gc_gate").output)(x).numpy()
        assert gate.std() >= 0.05 * gate.mean()
        assert difference(x, model(x)) >= 0.05
        assert difference(x * gate, layer(x)) <= CLOSE

    def test_large_scores(self):
        layer, _ = self.live((2, 8, 8, 24))
        x = 100 * features(2, 8, 8, 24)
        assert difference(deployed(layer, x.shape[1:])(x), layer(x)) <= CLOSE

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 24), name="gc")
        layer.mask.trainable = layer.expand.trainable = False
        model = deployed(layer, (8, 8, 24))
        trained = {inner.name for inner in model.layers if inner.trainable_weights}
        assert trained == {"gc_reduce", "gc_norm"}

    def test_does_not_depend_on_the_equalizer(self):
        layer, _ = self.live((2, 8, 8, 24), name="gc")
        model = deployed(layer, (8, 8, 24))
        x = features(2, 8, 8, 24)
        y = model(x).numpy()
        (kernel,) = model.get_layer("gc_equalizer").get_weights()
        model.get_layer("gc_equalizer").set_weights([kernel * 7])
        ones, epsilon = model.get_layer("gc_variance").get_weights()
        np.testing.assert_allclose(epsilon, 1e-5)
        model.get_layer("gc_variance").set_weights([ones, epsilon * 49])
        assert difference(model(x), y) <= CLOSE


class TestVideoDeploy(Block, Deploy):
    cases = ({},)
    sizes = ((3, 4, 5), (4, 1, 2), (1, 1, 1))

    def test_computes_in_rank_4(self):
        """Only the two ends of the mobile form have five axes."""
        layer, _ = self.live((2, 3, 4, 5, 24))
        first, *inner, last = deployed(layer, (3, 4, 5, 24)).operations
        assert max(len(op.output.shape) for op in inner) == 4
        assert len(first.output.shape) == len(last.output.shape) == 5


class TestInt8(Block, Int8):
    channels = 32
    kernels = 4  # mask, W1, gamma, W2
    int8_cases = ({"fusion": "mul"},)


class TestInt8OfLargeMaps(Block, Int8):
    channels = 64
    kernels = 4
    int8_size = (28, 28)


class TestInt8OfOnePosition(Block, Int8):
    """The context is the map itself: without the mask there are three kernels."""

    int8_size = (1, 1)
    kernels = 3
    channels = 32
    int8_cases = ({}, {"fusion": "mul"})
    fresh = False  # 16 positions are too few for others' ranges: 0.088, weak


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(GlobalContext(4), (1, 10, 10, 16))
        x = features(4, 10, 10, 16)
        model = deployed(layer, x.shape[1:])
        *_, runner = int8_file(model, x, tmp_path / "gc.tflite")
        operators = dict(runner.file.operators)
        operators.pop("RESHAPE")
        assert operators == {
            "CONV_2D": 4,  # mask, W1, the mean of the squares, W2
            "REDUCE_MAX": 1,
            "SUB": 1,
            "EXP": 3,
            "SUM": 1,
            "MAXIMUM": 2,  # keeps sum and variance from being rounded to 0
            "LOG": 2,
            "TRANSPOSE": 1,  # of the map, as an operand of the product
            "FULLY_CONNECTED": 1,  # the product: no BATCH_MATMUL, no SOFTMAX
            "MUL": 5,
            "DEPTHWISE_CONV_2D": 4,  # equalizer, variance, its floor, gamma
            "ADD": 1,
        }

    def test_quantize_equalizes(self):
        """All channels by one factor: the mean variance becomes 1."""
        layer, _ = live(GlobalContext(4, name="gc"), (1, 10, 10, 24))
        x = inputs((8, 10, 10, 24))["weak"]
        quantized = mobile.quantize(deployed(layer, x.shape[1:]), x)
        scale = quantized.get_layer("gc_equalizer").layer.get_weights()[0].ravel()
        h = layer.reduce(layer._context(x)[:, None, None]).numpy()
        np.testing.assert_allclose(scale, h.var(-1).mean() ** -0.5, rtol=1e-3)
        floor = quantized.get_layer("gc_variance_floor").layer.get_weights()[1]
        np.testing.assert_array_equal(floor, 1 / 16)

    def test_dead_input(self, tmp_path):
        """Maps of zeros among the others: only biases are normalized."""
        layer, _ = live(GlobalContext(4), (1, 10, 10, 24))
        x = inputs((8, 10, 10, 24))["dead"]
        x[::2] = 0.0
        model = deployed(layer, x.shape[1:])
        quantized, y, _ = int8_file(model, x, tmp_path / "gc.tflite")
        assert np.isfinite(quantized(x)).all()
        assert relative_error(y, model(x).numpy()) <= 0.05

    @pytest.mark.parametrize("gain", [0.2, 8.0])
    def test_flat_and_peaked_masks(self, gain, tmp_path):
        """All positions weigh alike, or a few hold most of the weight."""
        shape = (4, 28, 28, 64)
        layer, _ = live(GlobalContext(4), shape)
        layer.mask.kernel.assign(gain / 1.5 * layer.mask.kernel)
        x = np.maximum(features(*shape), 0)
        model = deployed(layer, shape[1:])
        _, y, _ = int8_file(model, x, tmp_path / "gc.tflite")
        assert relative_error(y, model(x).numpy()) <= 0.05

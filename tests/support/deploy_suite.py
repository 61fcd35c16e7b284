"""The tests that every block's mobile form and int8 file has to pass.

Classes to derive from, as in `layer_suite`:

    class TestDeploy(Block, Deploy): ...
    class TestInt8(Block, Int8): ...
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.comparing import CLOSE, difference, features, relative_error
from support.layer_suite import Suite
from support.torch_weights import FIRST, apply, built

from keras_attention import mobile
from keras_attention.mobile import litert


def deployed(layer, shape):
    """Returns a model of a layer's mobile form, for maps of `shape` (H, W, C)."""
    x = keras.Input(shape, name="x")
    return keras.Model(x, layer.deploy()(x))


def int8_file(model, x, path, images=None):
    """Makes an all-int8 file of a model, calibrated with x.

    Returns:
        The quantized model, what the file gives for `images` (None: for x) as floats,
        and its runner.
    """
    quantized = mobile.quantize(model, x)
    report = mobile.convert(quantized, path)
    assert set(report.dtypes) <= {"int8", "int32"}
    runner = litert.Runner(path)
    assert runner.file.max_rank <= 4 and not runner.file.custom
    (tensor,) = runner.outputs
    y = runner(x if images is None else images)[0]
    return quantized, litert.dequantize(y, tensor), runner


def inputs(shape, seed=3):
    """Returns channels-last inputs: normal, ReLU with a dead channel, weak channels."""
    normal = features(*shape, seed=seed)
    dead = np.maximum(normal, 0)
    dead[..., shape[-1] // 2] = 0
    scales = np.geomspace(0.05, 1, shape[-1]).astype("float32")
    return {"normal": normal, "dead": dead, "weak": dead * scales}


class Deploy(Suite):
    """`deploy` equals `call`, in stock layers, and leaves the layer alone."""

    def model(self, layer, shape):
        """Returns what `mobile.deploy` makes of a model of this layer alone."""
        x = keras.Input(shape[1:])
        return mobile.deploy(keras.Model(x, layer(x), name="alone"))

    def test_deployed_equals_call(self):
        for case in self.cases:
            for size in self.sizes:
                shape = (3, *size, self.channels)
                layer, _ = self.live(shape, **case)
                for x in inputs(shape).values():
                    y = apply(layer, x)
                    actual = self.model(layer, shape)(x)
                    assert difference(actual, y) <= CLOSE, (case, size)

    def test_holds_stock_layers_only(self):
        shape = (2, *self.sizes[0], self.channels)
        layer, _ = self.live(shape, name="block")
        before = layer.get_weights()
        model = self.model(layer, shape)
        assert all(map(np.array_equal, before, layer.get_weights()))
        stock = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
        for inner in model.layers:
            if inner.weights:
                assert isinstance(inner, stock), inner
                assert inner.name.startswith("block_"), inner.name
                assert inner.dtype_policy.name == "float32"
        assert all(type(op).__module__.startswith("keras.") for op in model.operations)

    def test_of_a_frozen_layer_is_frozen(self):
        shape = (2, *self.sizes[0], self.channels)
        layer, _ = self.live(shape, trainable=False)
        assert self.model(layer, shape).trainable_weights == []

    def test_of_a_layer_in_mixed_precision_is_float32(self):
        shape = (2, *self.sizes[0], self.channels)
        layer, _ = self.live(shape, dtype="mixed_bfloat16")
        exact, _ = self.live(shape)
        x = features(*shape)
        y = deployed(layer, shape[1:])(x)
        assert y.dtype == "float32"
        assert difference(y, exact(x)) <= CLOSE

    def test_of_a_layer_called_twice_is_made_once(self):
        shape = (2, *self.sizes[0], self.channels)
        layer, _ = self.live(shape)
        assert layer.compute_output_shape(shape) == shape
        x = keras.Input(shape[1:])
        once = mobile.deploy(keras.Model(x, layer(x)))
        model = keras.Model(x, layer(layer(x)))
        twice = mobile.deploy(model)
        assert len(twice.weights) == len(once.weights)
        images = features(*shape)
        assert difference(twice(images), model(images)) <= CLOSE

    def test_refuses(self):
        shape = (2, *self.sizes[0], self.channels)
        layer = built(self.make(data_format=FIRST, name="first"), shape)
        with pytest.raises(ValueError, match="'first'.*channels_first.*channels_last"):
            layer.deploy()
        with pytest.raises(ValueError, match="'raw' must be built"):
            self.make(name="raw").deploy()


class Int8(Suite):
    """Alone behind a convolution and a ReLU6, as an int8 file.

    Attributes:
        int8_size: height and width.
        int8_cases: arguments to test it with, each a dict.
        kernels: how many trainable kernels its mobile form has.
        steps: (largest difference, share of the elements that may differ by more than
            one step) between quantized Keras and the file.
        error: largest relative error of the int8 file against float. What the block
            does to its input has to be larger.
        fresh: whether these are taken of another draw than calibration has seen. False
            only where that is over the limits, which a comment then states.
    """

    int8_size = (14, 14)
    int8_cases = ({},)
    kernels = None
    steps = (4, 0.01)
    error = 0.05
    fresh = True

    @pytest.mark.parametrize("kind", ["normal", "dead", "weak"])
    def test_int8(self, kind, tmp_path):
        for case in self.int8_cases:
            # Ranges of 8 samples are too narrow for others.
            shape = (16 if self.fresh else 8, *self.int8_size, self.channels)
            x, model, bypassed = self.net(kind, shape, case)
            images = self.data(kind, (8, *shape[1:]), seed=4) if self.fresh else x
            expected = np.asarray(model(images))
            if bypassed is not None:
                change = relative_error(bypassed(images), expected)
                assert change >= max(0.05, self.error), (case, change)
            path = tmp_path / "block.tflite"
            quantized, y, runner = int8_file(model, x, path, images)
            actual = np.asarray(quantized(images))
            assert np.isfinite(actual).all()
            steps = np.abs(y - actual) / runner.outputs[0].scale
            most, share = self.steps
            assert steps.max() < most + 0.1 and (steps > 1.1).mean() <= share, case
            error = relative_error(y, expected)
            assert error <= self.error, (case, error)

    def test_gradients_under_quantization(self):
        """All kernels of the mobile form can be trained."""
        shape = (4, *self.int8_size, self.channels)
        layer, _ = self.live(shape)
        x = inputs(shape)["dead"]
        quantized = mobile.quantize(deployed(layer, shape[1:]), x)
        kernels = [v for v in quantized.trainable_variables if v.name == "kernel"]
        assert len(kernels) == self.kernels
        with tf.GradientTape() as tape:
            y = quantized(x, training=True)
            loss = tf.reduce_sum(y * features(*y.shape, seed=2))
        for kernel, gradient in zip(
            kernels, tape.gradient(loss, [v.value for v in kernels]), strict=True
        ):
            gradient = np.asarray(gradient)
            assert np.isfinite(gradient).all(), kernel.path
            # a dead channel has none, nor one that a ReLU closes for good
            assert (gradient != 0).mean() >= 0.5, kernel.path

    def data(self, kind, shape, seed=3):
        """Returns inputs of a kind, see `inputs`."""
        return inputs(shape, seed)[kind]

    def net(self, kind, shape, case):
        """Returns data, the net, and the net without the block (None: other shape)."""
        x = self.data(kind, shape)
        image = keras.Input(shape[1:], name="image")
        conv = keras.layers.Conv2D(
            self.channels, 1, activation="relu6", use_bias=False, name="conv"
        )
        y = conv(image)
        # The block sees the data's own channel scales, and its dead channel.
        kernel = np.random.default_rng(5).normal(0, 0.02, (self.channels,) * 2)
        kernel = 1.5 * np.eye(self.channels) + kernel * x.std((0, 1, 2))
        conv.set_weights([kernel[None, None]])
        layer, _ = self.live(shape, name="block", **case)
        z = layer(y)
        same = z.shape == y.shape
        bypassed = keras.Model(image, y) if same else None
        return x, keras.Model(image, z), bypassed

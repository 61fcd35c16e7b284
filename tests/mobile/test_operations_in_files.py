"""Operations alone: the file computes what the quantized Keras model computes."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from support.comparing import CLOSE, difference, features

from keras_attention import mobile
from keras_attention.mobile import litert
from keras_attention.mobile.fake_quant import FakeQuantize

DATA = features(8, 6, 5, 8, seed=0)


def net(function, activation="relu6"):
    """A convolution and a function or layer behind it."""
    keras.utils.set_random_seed(1)
    if isinstance(function, keras.Layer):
        function = type(function).from_config(function.get_config())
    x = keras.Input((6, 5, 8), name="x")
    y = layers.Conv2D(8, 1, activation=activation, name="conv")(x)
    return keras.Model(x, function(y))


def compared(model, path):
    """Returns the file's report, the largest difference in steps, relative error."""
    quantized = mobile.quantize(model, DATA)
    report = mobile.convert(quantized, path / "net.tflite")
    assert set(report.dtypes) <= {"int8", "int32"}
    actual, expected = np.asarray(quantized(DATA)), np.asarray(model(DATA))
    assert np.isfinite(actual).all()
    runner = litert.Runner(report.path)
    y = litert.dequantize(runner(DATA)[0], runner.outputs[0])
    steps = np.abs(y - actual).max() / runner.outputs[0].scale
    return report, steps, np.linalg.norm(y - expected) / np.linalg.norm(expected)


def gram(y):
    y = ops.reshape(y, (-1, 30, 8))
    return ops.matmul(ops.transpose(y, (0, 2, 1)), y)


OPERATIONS = {
    "exp": (lambda y: ops.exp(y - ops.max(y, axis=(1, 2), keepdims=True)), "EXP"),
    "log": (lambda y: ops.log(y + 0.5), "LOG"),
    "rsqrt": (lambda y: ops.rsqrt(y + 0.5), "RSQRT"),
    "sqrt": (ops.sqrt, "SQRT"),
    "square": (lambda y: ops.square(y - 1.0), "MUL"),
    "sum over height": (lambda y: ops.sum(y, axis=1, keepdims=True), "SUM"),
    "sum over channels": (lambda y: ops.sum(y, axis=-1, keepdims=True), "SUM"),
    "pad": (lambda y: ops.pad(y, ((0, 0), (1, 1), (0, 2), (0, 0))), "PAD"),
    "slice": (lambda y: y[:, 1:4, ::2], "STRIDED_SLICE"),
    "swapaxes": (lambda y: ops.swapaxes(y, 1, 2), "TRANSPOSE"),
    "softmax over channels": (ops.softmax, "SOFTMAX"),
    "softmax over height": (lambda y: ops.softmax(y, axis=1), "SOFTMAX"),
    "maximum over channels": (lambda y: ops.max(y, axis=3), "REDUCE_MAX"),
    "product": (lambda y: ops.mean(y, axis=1, keepdims=True) * y, "MUL"),
    "sum": (lambda y: ops.mean(y, axis=(1, 3), keepdims=True) + y, "ADD"),
    "outer product": (
        lambda y: ops.mean(y, axis=1, keepdims=True) * ops.mean(y, 2, keepdims=True),
        "MUL",
    ),
    "matrix product": (gram, "FULLY_CONNECTED"),
    "split": (
        lambda y: (lambda parts: parts[0] * parts[1])(ops.split(y, 2, axis=-1)),
        "STRIDED_SLICE",
    ),
    "split at places": (
        lambda y: ops.concatenate(ops.split(y, [2, 5], axis=1)[::-1], axis=1),
        "STRIDED_SLICE",
    ),
    "gather": (lambda y: ops.take(y, [0, 0, 3, 3, 1], axis=1), "GATHER"),
    "upsampling": (layers.UpSampling2D((3, 2)), "RESIZE_NEAREST_NEIGHBOR"),
    "bilinear upsampling": (
        layers.UpSampling2D(2, interpolation="bilinear"),
        "RESIZE_BILINEAR",
    ),
    "nearest neighbour": (
        lambda y: ops.image.resize(y, (9, 7), "nearest"),
        "RESIZE_NEAREST_NEIGHBOR",
    ),
    "hard sigmoid": (
        lambda y: y * ops.hard_sigmoid(ops.mean(y - 1.0, (1, 2), keepdims=True)),
        "MUL",
    ),
    "hard swish": (layers.Activation("hard_swish"), "MUL"),
    "silu": (layers.Activation("silu"), "LOGISTIC"),
    "maximum": (lambda y: ops.maximum(y[..., :4], y[..., 4:]), "MAXIMUM"),
    "minimum": (lambda y: ops.minimum(y[..., :4], y[..., 4:]), "MINIMUM"),
    "absolute value": (lambda y: ops.abs(y - 1.0), "ABS"),
    "dilated convolution": (
        layers.Conv2D(6, 3, padding="same", dilation_rate=2),
        "CONV_2D",
    ),
    "grouped convolution": (
        layers.Conv2D(16, 3, 2, "same", groups=4, activation="relu"),
        "CONV_2D",
    ),
    "transposed convolution": (
        layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
        "TRANSPOSE_CONV",
    ),
    "convolution over a sequence": (
        lambda y: layers.Conv1D(8, 3, 2, "same", groups=2)(ops.reshape(y, (-1, 30, 8))),
        "CONV_2D",
    ),
    "causal convolution": (
        lambda y: layers.Conv1D(5, 3, padding="causal", dilation_rate=2)(
            ops.reshape(y, (-1, 30, 8))
        ),
        "PAD",
    ),
    "adaptive average pooling": (layers.AdaptiveAveragePooling2D((4, 3)), "MEAN"),
    "adaptive maximum pooling": (layers.AdaptiveMaxPooling2D((4, 3)), "REDUCE_MAX"),
    "global maximum": (layers.GlobalMaxPooling2D(keepdims=True), "REDUCE_MAX"),
    "many matrix products": (
        lambda y: ops.matmul(y, ops.transpose(y, (0, 1, 3, 2))),
        "BATCH_MATMUL",
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name, tmp_path):
    function, operator = OPERATIONS[name]
    model = net(function)
    report, steps, error = compared(model, tmp_path)
    assert operator in report.operators
    assert not {"HARD_SWISH", "SPLIT", "SPLIT_V"} & set(report.operators)
    assert difference(mobile.deploy(model)(DATA), model(DATA)) <= CLOSE
    # One step: float and integer kernels may round a tie differently.
    assert steps < 1.1
    assert error <= 0.02  # half a step of 256, relative to the mean value


# A value far below a step of its grid: log and rsqrt would give infinity for 0.
TINY = {
    "log": lambda y: ops.log(y + 1e-3),
    "rsqrt": lambda y: ops.rsqrt(y + 1e-3),
    "log of a sigmoid": lambda y: ops.log(ops.sigmoid(9.0 * (y - 3.0))),
    "log of what others read": lambda y: (lambda z: ops.log(z) + z)(y + 1e-3),
}


@pytest.mark.parametrize("name", TINY)
def test_never_the_logarithm_of_zero(name, tmp_path):
    model = net(TINY[name], "relu")
    _, steps, error = compared(model, tmp_path)
    assert steps < 1.1 and error < 1.0
    quantized = mobile.quantize(model, DATA)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantized(DATA, training=True))
    values = [variable.value for variable in quantized.trainable_variables]
    for gradient in tape.gradient(loss, values):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_only_what_must_not_be_zero_is_kept_from_it():
    model = mobile.quantize(net(TINY["log of what others read"], "relu"), DATA)
    rounding = [x for x in model.layers if isinstance(x, FakeQuantize)]
    (layer,) = [x for x in rounding if x.positive]
    assert re.fullmatch(r"log(_\d+)?_positive_quant", layer.name)
    again = FakeQuantize.from_config(layer.get_config())
    assert again.positive and not model.get_layer("conv_relu_quant").positive
    low, high = layer.get_range()
    y = np.asarray(layer(np.array([0.0, 1e-6, high], "float32")))
    np.testing.assert_allclose(y, [high / 255, high / 255, high], rtol=1e-5)
    assert low == 0

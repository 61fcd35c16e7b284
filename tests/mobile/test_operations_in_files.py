"""Operations alone: the file computes what the quantized Keras model computes."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from support.comparing import features

from keras_attention import mobile
from keras_attention.mobile import litert
from keras_attention.mobile.fake_quant import FakeQuantize

DATA = features(8, 6, 5, 8, seed=0)


def net(function, activation="relu6"):
    """A convolution and a function behind it."""
    keras.utils.set_random_seed(1)
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
    "many matrix products": (
        lambda y: ops.matmul(y, ops.transpose(y, (0, 1, 3, 2))),
        "BATCH_MATMUL",
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name, tmp_path):
    function, operator = OPERATIONS[name]
    report, steps, error = compared(net(function), tmp_path)
    assert operator in report.operators
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

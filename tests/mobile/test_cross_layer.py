"""Kernels of neighbouring layers are balanced, and what the model computes stays."""

import keras
import numpy as np
import pytest
from keras import layers
from support.comparing import relative_error
from support.mobile_nets import randomize

from keras_attention import mobile
from keras_attention.mobile import cross_layer

SPREAD = np.geomspace(1, 1e-3, 16)


def net(activation="relu"):
    """Expand, depthwise, project; channels of the first map differ by 1,000."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 1, name="expand")(image)
    x = layers.Activation(activation, name="first")(x)
    x = layers.ZeroPadding2D(1, name="pad")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Activation(activation, name="second")(x)
    x = layers.Conv2D(4, 1, name="project")(x)
    model = randomize(keras.Model(image, x))
    expand, depthwise = model.get_layer("expand"), model.get_layer("depthwise")
    expand.set_weights([weight * SPREAD for weight in expand.get_weights()])
    kernel, bias = depthwise.get_weights()
    depthwise.set_weights([kernel / SPREAD[:, None], bias])
    return model


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")


def sizes(model, name, axes):
    return np.abs(model.get_layer(name).get_weights()[0]).max(axes)


def test_kernels_meet_and_the_model_stays(data):
    model = mobile.deploy(net())
    expected = np.array(model(data))
    assert cross_layer.equalize(model) == 2
    assert relative_error(model(data), expected) <= 1e-6
    outgoing = sizes(model, "expand", (0, 1, 2))
    incoming = sizes(model, "depthwise", (0, 1, 3))
    # Each layer is in two pairs: what is left of the other one's balance is small.
    np.testing.assert_allclose(outgoing, incoming, rtol=0.05)
    assert sizes(net(), "expand", (0, 1, 2)).min() <= 1e-2 * outgoing.min()


def test_weak_channels_survive_quantization(data):
    model = net()
    expected = np.array(model(data))
    plain = relative_error(mobile.quantize(model, data)(data), expected)
    quantized = mobile.quantize(model, data, equalize_kernels=True)
    balanced = relative_error(quantized(data), expected)
    assert plain >= 0.2 and balanced <= 0.05


def test_the_file_agrees(data, tmp_path):
    quantized = mobile.quantize(net(), data, equalize_kernels=True)
    mobile.convert(quantized, tmp_path / "m.tflite")
    report = mobile.verify(tmp_path / "m.tflite", against=quantized, data=data)
    (output,) = report.outputs
    assert output.unit == "steps" and output.max_difference <= 2


@pytest.mark.parametrize(
    "change",
    ["relu6", "frozen", "two readers", "called twice"],
)
def test_what_can_not_be_balanced_stays(change, data):
    model = net("relu6" if change == "relu6" else "relu")
    if change == "frozen":
        model.get_layer("depthwise").trainable = False
    if change == "two readers":
        both = [model.output, model.get_layer("first").output]
        both += [model.get_layer("second").output]
        model = keras.Model(model.input, both)
    if change == "called twice":
        image = keras.Input((8, 8, 3))
        model = keras.Model(image, [model(image), model(image * 2)])
    deployed = mobile.deploy(model)
    before = deployed.get_weights()
    assert cross_layer.equalize(deployed) == 0
    for old, new in zip(before, deployed.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_dead_channels(data):
    model = net()
    for name, axis in (("expand", 3), ("depthwise", 2)):
        layer = model.get_layer(name)
        kernel, bias = layer.get_weights()
        np.moveaxis(kernel, axis, 0)[[3, 5] if name == "expand" else [5, 9]] = 0
        layer.set_weights([kernel, bias])
    deployed = mobile.deploy(model)
    expected = np.array(deployed(data))
    cross_layer.equalize(deployed)
    assert relative_error(deployed(data), expected) <= 1e-6

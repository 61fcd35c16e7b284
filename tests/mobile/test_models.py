"""Models of every form, quantized and converted: each file against its Keras model."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.mobile_nets import (
    NETWORKS,
    images,
    in_bfloat16,
    network,
    randomize,
    residual,
    scaled,
    settle,
    twice,
)

from keras_attention.mobile import convert, quantize, verify
from keras_attention.mobile.check import check
from keras_attention.mobile.fake_quant import QuantizedKernel

COUNT = 48


def more(data):
    """Returns other data of the same kind, COUNT samples."""
    if isinstance(data, list):
        return [more(part) for part in data]
    if isinstance(data, dict):
        return {name: more(part) for name, part in data.items()}
    if data.ndim == 2:
        return np.random.default_rng(7).normal(0, 1, (COUNT, 4)).astype("float32")
    photos = images(COUNT, data.shape[1], seed=7)
    return photos.astype("float32") if data.max() > 2 else scaled(photos)


def converted(model, path):
    """Returns the report on a file, all of which is int8."""
    report = convert(model, path)
    assert report.precision == "int8" and set(report.dtypes) == {"int8", "int32"}
    for file in (report.path, report.uint8_path):
        assert check(file).ok
    return report


def spread(model, data):
    """Returns how much the first output varies from sample to sample."""
    values = keras.tree.flatten(model(data, training=False))[0]
    return float(np.std(values, axis=0).mean())


def float_error(model, quantized, data):
    pairs = zip(
        keras.tree.flatten(model(data, training=False)),
        keras.tree.flatten(quantized(data, training=False)),
        strict=True,
    )
    return max(np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in pairs)


def agreement(report, quantized, data):
    """Verifies a file; returns what holds for all of its outputs."""
    # A list of inputs could be taken for batches: a tuple of inputs without labels.
    found = verify(report.path, against=quantized, data=(data,))
    assert found.samples == COUNT
    return found


def assert_agrees(report, quantized, data):
    """Single steps only: rounding of the one before, or of an average pooling."""
    found = agreement(report, quantized, data)
    for output in found.outputs:
        assert output.within_one_step >= 0.9 and output.max_difference <= 3.001, output
        assert output.argmax_agreement >= 0.97, output
    scale = report.outputs[0].scale
    assert spread(quantized, data) >= 5 * scale  # the images are told apart


def train(model, photos):
    loss = keras.losses.MeanSquaredError()  # tracing would take longer than three steps
    model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    model.fit(photos, np.ones((COUNT, 5)), batch_size=16, verbose=0)


SMALL = [name for name in NETWORKS if not name.startswith(("mobilenet", "application"))]


@pytest.mark.parametrize("name", SMALL)
def test_file_against_quantized_model(name, tmp_path):
    model, data = network(name)
    data = more(data)
    quantized = quantize(model, data)
    report = converted(quantized, tmp_path / "model.tflite")
    assert 0.001 < float_error(model, quantized, data) < 0.1
    assert_agrees(report, quantized, data)


def test_an_application_that_takes_bytes(tmp_path):
    model, data = network("application_rescaling")
    data = more(data)
    quantized = quantize(model, data, input_range=(0, 255))
    report = converted(quantized, tmp_path / "model.tflite")
    assert (report.inputs[0].scale, report.inputs[0].zero_point) == (1.0, -128)
    assert "DEPTHWISE_CONV_2D" in report.operators  # 17, and the input's scaling
    assert report.operators["DEPTHWISE_CONV_2D"] == 18
    found = agreement(report, quantized, data)
    # 52 layers of random weights amplify single steps to several: they stay well below
    # what tells one image from another.
    assert found.argmax_agreement >= 0.8 and found.clipped_inputs == 0
    steps = spread(quantized, data) / report.outputs[0].scale
    assert 10 < steps > 2 * found.outputs[0].mean_difference


def test_normalization_in_front(tmp_path):
    inputs = keras.Input((16, 16, 3), name="image")
    front = layers.Normalization(mean=(120.0, 110, 100), variance=(3600.0, 3400, 4200))
    body = randomize(residual())
    settle(body, scaled(images(16)))
    model = keras.Model(inputs, body(front(inputs)))
    photos = images(COUNT).astype("float32")
    quantized = quantize(model, photos, input_range=(0, 255))
    report = converted(quantized, tmp_path / "model.tflite")
    assert (report.inputs[0].scale, report.inputs[0].zero_point) == (1.0, -128)
    assert float_error(model, quantized, photos) < 0.1
    assert_agrees(report, quantized, photos)


@pytest.mark.parametrize("make", [residual, twice])
def test_trained_in_mixed_precision(make, tmp_path):
    model = in_bfloat16(lambda: randomize(make()))
    photos = scaled(images(COUNT))
    settle(model, photos)
    before = model.get_weights()
    train(model, photos)
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    quantized = quantize(model, photos)
    report = converted(quantized, tmp_path / "model.tflite")
    # bfloat16 has 8 bits itself.
    exact = ops.convert_to_numpy(ops.cast(model(photos, training=False), "float32"))
    result = ops.convert_to_numpy(quantized(photos, training=False))
    assert np.linalg.norm(result - exact) < 0.1 * np.linalg.norm(exact)
    assert_agrees(report, quantized, photos)


def test_frozen_layers(tmp_path):
    model, _ = network("residual")
    photos, frozen = scaled(images(COUNT)), ("stem", "unit_0_conv_1", "unit_1_project")
    for name in frozen:
        model.get_layer(name).trainable = False
    quantized = quantize(model, photos)

    def kernels():
        wrapped = [x for x in quantized.layers if isinstance(x, QuantizedKernel)]
        return {x.name: ops.convert_to_numpy(x.layer.kernel) for x in wrapped}

    before = kernels()
    train(quantized, photos)
    still = {
        name for name, kernel in kernels().items() if (kernel == before[name]).all()
    }
    assert still == set(frozen)
    report = converted(quantized, tmp_path / "model.tflite")
    assert_agrees(report, quantized, photos)


def test_channels_that_are_zero_or_never_fire(tmp_path):
    model, _ = network("residual")
    photos = scaled(images(COUNT))
    for name in ("unit_0_conv_1", "unit_2_conv_2"):  # all zero, with a live bias
        layer = model.get_layer(name)
        kernel, bias = layer.get_weights()
        kernel[..., 1], bias[1] = 0, 0.753
        layer.set_weights([kernel, bias])
    norm = model.get_layer("unit_1_norm_1")  # in front of a ReLU
    gamma, beta, mean, variance = norm.get_weights()
    beta[:3] = -50
    norm.set_weights([gamma, beta, mean, variance])
    relu = keras.Model(model.input, model.get_layer("unit_1_relu_1").output)(photos)
    fires = np.max(relu, axis=(0, 1, 2)) > 0
    assert not fires[:3].any() and fires[3:].any()
    quantized = quantize(model, photos)
    report = converted(quantized, tmp_path / "model.tflite")
    assert float_error(model, quantized, photos) < 0.1
    assert_agrees(report, quantized, photos)

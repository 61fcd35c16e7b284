"""Layers that stay float in an integer file, because the user said so."""

import keras
import numpy as np
import pytest
from keras import layers
from support.comparing import relative_error
from support.int8_nets import file_answers, photo_bytes, scaled, small_net
from support.mobile_nets import randomize

from keras_attention import mobile
from keras_attention.mobile.fake_quant import QuantizedKernel

IMAGES = scaled(photo_bytes(24, 8))


@pytest.mark.parametrize("pattern", ["depth", "classifier", "sum", "project|sum"])
def test_files(pattern, tmp_path):
    net, path = small_net(), tmp_path / "m.tflite"
    quantized = mobile.quantize(net, IMAGES, float_layers=[pattern])
    report = mobile.convert(quantized, path, float_layers=[pattern])
    assert report.dtypes["float32"] >= 2 and report.inputs[0].dtype == "int8"
    assert {"DEQUANTIZE", "QUANTIZE"} <= set(report.operators)
    found, rounded = file_answers(path, IMAGES), quantized.predict(IMAGES, verbose=0)
    assert np.abs(found - rounded).max() <= 2 * report.outputs[0].scale
    kernels = {x.name for x in quantized.layers if isinstance(x, QuantizedKernel)}
    named = set(pattern.split("|"))
    assert kernels == {"stem", "depth", "project", "classifier"} - named


def test_int16x8(tmp_path):
    names, path = ["depth", "sum"], tmp_path / "m.tflite"
    quantized = mobile.quantize(
        small_net(), IMAGES, scheme="int16x8", float_layers=names
    )
    report = mobile.convert(quantized, path, float_layers=names)
    assert report.dtypes["float32"] >= 2 and report.outputs[0].dtype == "int16"
    found, rounded = file_answers(path, IMAGES), quantized.predict(IMAGES, verbose=0)
    assert np.abs(found - rounded).max() <= 4 * report.outputs[0].scale


def test_it_must_be_declared_twice(tmp_path):
    quantized = mobile.quantize(small_net(), IMAGES, float_layers=["depth"])
    with pytest.raises(ValueError, match="kernel of layer 'depth' is not quan"):
        mobile.convert(quantized, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match="kernel of layer 'depth' is not quan"):
        mobile.convert(quantized, tmp_path / "m.tflite", float_layers=["stem"])


def test_a_sensitive_layer_gets_its_accuracy_back(tmp_path):
    """A kernel of two scales per channel loses its small half to 8 bits."""
    image = keras.Input((8, 8, 8), name="image")
    y = layers.Conv2D(8, 1, name="sensitive")(image)
    model = randomize(keras.Model(image, y))
    kernel = model.get_layer("sensitive").kernel
    kernel.assign(kernel * np.geomspace(1, 1e-3, 8)[None, None, :, None])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 8, 8, 8)) * np.array([0, 1, 1, 1, 1, 1, 1, 1])
    x[0, 0, 0] = 1.0
    x = x.astype("float32")

    def error(**options):
        return relative_error(mobile.quantize(model, x, **options)(x), model(x))

    assert error(float_layers=["sensitive"]) < 0.9 * error()


def test_float_models_may_be_told_too(tmp_path):
    report = mobile.convert(
        small_net(),
        tmp_path / "m.tflite",
        precision="int8",
        calibration=IMAGES,
        float_layers=["depth"],
    )
    assert report.dtypes["float32"] >= 2


def test_nothing_matches(tmp_path):
    with pytest.raises(ValueError, match="float_layers: 'dep' matches no layer"):
        mobile.quantize(small_net(), IMAGES, float_layers=["dep"])
    quantized = mobile.quantize(small_net(), IMAGES)
    with pytest.raises(ValueError, match="float_layers: 'dep' matches no layer"):
        mobile.convert(quantized, tmp_path / "m.tflite", float_layers=["dep"])

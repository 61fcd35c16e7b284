"""What can't be converted fails early, names the layer and leaves no file behind."""

import keras
import numpy as np
import pytest
from support.int8_nets import photo_bytes, scaled, small_net

from keras_attention.mobile import litert
from keras_attention.mobile.convert import convert
from keras_attention.mobile.quantize import quantize
from keras_attention.mobile.quantizers import tfmot_quantizers


@pytest.fixture(scope="module")
def small():
    """A small quantized net."""
    return quantize(small_net(), scaled(photo_bytes(16, 8)))


def broken_range(low, high):
    net = quantize(small_net(), scaled(photo_bytes(4, 8)))
    net.get_layer("sum_quant").range_variables["min_var"].assign(low)
    net.get_layer("sum_quant").range_variables["max_var"].assign(high)
    return net


def broken_kernel():
    net = quantize(small_net(), scaled(photo_bytes(4, 8)))
    variable = net.get_layer("depth").range_variables["max_var"]
    variable.assign(np.full(8, np.nan))
    return net


def three_bits():
    quantizer = tfmot_quantizers().LastValueQuantizer(
        3, True, symmetric=True, narrow_range=True
    )
    images = scaled(photo_bytes(4, 8))
    return quantize(small_net(), images, overrides={"project": quantizer})


def float_convolution():
    net = quantize(small_net(), scaled(photo_bytes(4, 8)))
    x = keras.layers.Conv2D(4, 1, name="forgotten")(net.get_layer("sum_quant").output)
    return keras.Model(net.input, x, name="small")


def five_axes():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Reshape((4, 2, 8, 3), name="fold")(image)
    x = keras.ops.max(x, axis=2)
    return keras.Model(image, x, name="small")


MISTAKES = {
    "precision": (small_net, {"precision": "int4"}, r"'float32'\).*Received: 'int4'"),
    "scheme as precision": (small_net, {"precision": "weights"}, "Received: .weights"),
    "no calibration": (small_net, {"precision": "int8"}, "needs calibration data"),
    "labels": (small_net, {"labels": list("abcd")}, "4 labels, .* has 5 classes"),
    "equal labels": (small_net, {"labels": list("abcda")}, "must differ"),
    "empty": (lambda: broken_range(0, 0), {}, "range of layer 'sum_quant' is empty"),
    "turned": (lambda: broken_range(1, -1), {}, "layer 'sum_quant' is empty"),
    "nan": (lambda: broken_range(-1, np.nan), {}, "layer 'sum_quant' is not finite"),
    "inf": (lambda: broken_range(-np.inf, 1), {}, "layer 'sum_quant' is not finite"),
    "nan kernel": (broken_kernel, {}, "range of layer 'depth' is not finite"),
    "bits": (three_bits, {}, "Layer 'project' is quantized to 3 bits"),
    "float": (float_convolution, {}, "kernel of layer 'forgotten' is not"),
    "rank": (five_axes, {}, r"\(layer 'fold'\) has 5 axes, \(1, 4, 2, 8, 3\)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, tmp_path):
    make, arguments, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        convert(make(), tmp_path / "a.tflite", **arguments)
    assert not list(tmp_path.iterdir())


def test_quantized_to_float32(small, tmp_path):
    with pytest.raises(ValueError, match="convert the float model that it was made"):
        convert(small, tmp_path / "a.tflite", precision="float32")


def test_an_operation_that_tflite_lacks(tmp_path):
    image = keras.Input((8, 8, 3))
    net = keras.Model(image, keras.ops.erf(image))
    with pytest.raises(RuntimeError, match=r"(?s)converter failed: .*Erf"):
        convert(net, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


def test_no_functional_model(tmp_path):
    with pytest.raises(TypeError, match="no functional or Sequential model"):
        convert("model.keras", tmp_path / "a.tflite")


def test_paths(small, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.tflite"):
        convert(small, tmp_path / "model.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/a\.tflite"):
        convert(small, tmp_path / "file" / "a.tflite")
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(IsADirectoryError):
        convert(small, tmp_path / "folder.tflite")


def test_failure_keeps_the_old_files(small, tmp_path, monkeypatch):
    convert(small, tmp_path / "a.tflite")
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    assert sorted(before) == ["a.json", "a.tflite", "a_uint8.tflite"]

    def fail(model):
        raise MemoryError("no room for the twin")

    monkeypatch.setattr(litert, "give_uint8_ends", fail)
    with pytest.raises(MemoryError):
        convert(small, tmp_path / "a.tflite", softmax=True)
    assert before == {e.name: e.read_bytes() for e in tmp_path.iterdir()}


def test_attention_outputs_need_gates(small, tmp_path):
    with pytest.raises(ValueError, match="'small' has no attention gates"):
        convert(small, tmp_path / "a.tflite", attention_outputs=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quantized", [False, True])
def test_softmax_behind_a_softmax(quantized, tmp_path):
    net = small_net(activation="softmax")
    if quantized:
        net = quantize(net, scaled(photo_bytes(4, 8)))
    with pytest.raises(ValueError, match="'small' ends in a softmax already"):
        convert(net, tmp_path / "a.tflite", softmax=True)


def test_softmax_needs_classes(tmp_path):
    image = keras.Input((8, 8, 3))
    net = keras.Model(image, keras.layers.Conv2D(4, 1)(image))
    with pytest.raises(ValueError, match=r"needs a first output \(N, classes\)"):
        convert(net, tmp_path / "a.tflite", softmax=True)

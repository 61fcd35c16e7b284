"""A quantized model becomes an int8 file that computes the same, or a clear error."""

import collections
import logging
import pathlib
import warnings

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from support.int8_nets import attentive_net, photo_bytes, randomized, scaled, small_net

from keras_attention import CoordAttention, image_input, models
from keras_attention.mobile import litert, tf_converter
from keras_attention.mobile.check import check
from keras_attention.mobile.convert import convert, with_gates
from keras_attention.mobile.fake_quant import FakeQuantize, QuantizedKernel
from keras_attention.mobile.quantize import quantize
from keras_attention.mobile.verify import verify

Converted = collections.namedtuple("Converted", "float quantized report images")


@pytest.fixture(scope="module")
def coord(tmp_path_factory):
    """MobileNetV2 with CoordAttention, live, quantized and converted once."""
    net = models.MobileNetV2(
        (32, 32, 3), 10, width=0.35, attention="coord", stem_stride=1
    )
    randomized(net)
    images = photo_bytes(24, 32)
    quantized = quantize(net, scaled(images[:16]))
    path = tmp_path_factory.mktemp("coord") / "model.tflite"
    return Converted(net, quantized, convert(quantized, path), images)


@pytest.fixture(scope="module")
def small():
    """A small quantized net."""
    return quantize(small_net(), scaled(photo_bytes(16, 8)))


def test_mobilenet_with_attention_is_all_int8(coord):
    report = coord.report
    assert report.precision == "int8"
    # 35 convolutions of the backbone and 3 per block; ADD: 10 residual sums and the
    # swish's two per block, its ReLU6 fused; MUL: two per swish, two per block.
    assert report.operators == {
        "CONV_2D": 35 + 16 * 3,
        "DEPTHWISE_CONV_2D": 17,
        "PAD": 4,
        "MEAN": 16 * 2 + 1,
        "ADD": 10 + 16 * 2,
        "MUL": 16 * 4,
        "LOGISTIC": 16 * 2,
        "FULLY_CONNECTED": 1,
    }
    assert set(report.dtypes) == {"int8", "int32"}
    assert report.bytes == pathlib.Path(report.path).stat().st_size
    image = litert.Tensor("image", (1, 32, 32, 3), "int8", 1 / 128, 0)
    assert report.inputs == (image,)
    assert report.outputs[0].name == "classifier"
    assert report.outputs[0].shape == (1, 10)
    for path in (report.path, report.uint8_path):
        assert check(path).ok, check(path)
    twin = check(report.uint8_path)
    assert twin.dtypes == report.dtypes | {"uint8": 2}
    assert twin.operators == report.operators | {"QUANTIZE": 2}


def test_its_attention_is_live(coord):
    images = scaled(coord.images)
    _, *gates = with_gates(coord.quantized)(images)
    assert len(gates) == 32
    for gate in map(np.asarray, gates):
        assert gate.std() >= 0.05 * gate.mean() > 0

    def without(layer):
        if isinstance(layer, CoordAttention):
            return keras.layers.Identity(name=layer.name)
        return layer

    bypassed = keras.models.clone_model(coord.float, clone_function=without)
    outputs = np.asarray(coord.float(images))
    change = np.abs(np.asarray(bypassed(images)) - outputs)
    assert change.mean() >= 0.05 * np.abs(outputs).mean()


def test_mobilenet_agrees_with_its_quantized_model(coord):
    report = verify(
        coord.report.path, against=coord.quantized, data=scaled(coord.images)
    )
    # Deep nets amplify one-step rounding differences to a few steps of single logits
    # (measured here: mean 0.6, largest 3, every argmax equal).
    assert report.outputs[0].mean_difference <= 1.5
    assert report.argmax_agreement >= 0.9


def test_raw_bytes(coord):
    int8, uint8 = (
        litert.Runner(path) for path in (coord.report.path, coord.report.uint8_path)
    )
    (from_bytes,) = uint8(coord.images)
    assert from_bytes.dtype == np.uint8
    assert from_bytes.std() > 5
    (from_pipeline,) = int8(scaled(coord.images))
    (from_int8,) = int8((coord.images.astype(int) - 128).astype("int8"))
    np.testing.assert_array_equal(from_pipeline, from_int8)
    np.testing.assert_array_equal(from_bytes, from_int8.astype(int) + 128)
    (twin_from_pipeline,) = uint8(scaled(coord.images))
    np.testing.assert_array_equal(from_bytes, twin_from_pipeline)


def test_names_and_signature(coord):
    for path in (coord.report.path, coord.report.uint8_path):
        interpreter = Interpreter(model_path=path)
        ends = {"inputs": ["image"], "outputs": ["classifier"]}
        assert interpreter.get_signature_list() == {"serving_default": ends}
        runner = interpreter.get_signature_runner("serving_default")
        dtype = runner.get_input_details()["image"]["dtype"]
        image = coord.images[:1] if dtype == np.uint8 else scaled(coord.images[:1])
        result = runner(image=litert.quantize(image, litert.File(path).inputs[0])
                        if dtype == np.int8 else image)  # fmt: skip
        (wanted,) = litert.Runner(path)(image)
        np.testing.assert_array_equal(result["classifier"], wanted)


def test_buffers_are_aligned(coord):
    for path in (coord.report.path, coord.report.uint8_path):
        data = pathlib.Path(path).read_bytes()
        base = np.frombuffer(data, np.uint8).ctypes.data
        model = schema.Model.GetRootAs(data)
        buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
        offsets = [
            buffer.DataAsNumpy().ctypes.data - base
            for buffer in buffers
            if buffer.DataLength()
        ]
        assert len(offsets) > 200
        assert not np.mod(offsets, 16).any()


def test_attention_outputs(tmp_path):
    images = scaled(photo_bytes(16, 8))
    quantized = quantize(attentive_net(), images)
    report = convert(quantized, tmp_path / "a.tflite", attention_outputs=True)
    assert [tensor.name for tensor in report.outputs] == [
        "classifier",
        "first_gate_h",
        "first_gate_w",
        "second_gate_h",
        "second_gate_w",
    ]
    assert [tensor.shape for tensor in report.outputs[1:]] == [
        (1, 8, 1, 8),
        (1, 1, 8, 8),
        (1, 4, 1, 8),
        (1, 1, 4, 8),
    ]
    grid = {(t.dtype, t.scale, t.zero_point) for t in report.outputs[1:]}
    assert grid == {("int8", 1 / 256, -128)}
    both = verify(report.path, against=quantized, data=images)
    # Single blocks agree to a step on 99.9 % of the elements; the second sees the
    # differences of what is in front of it.
    assert [o.within_one_step >= 0.99 for o in both.outputs] == [True] * 5
    twin = verify(report.uint8_path, against=quantized, data=images)
    assert [o.max_difference for o in twin.outputs] == [
        o.max_difference for o in both.outputs
    ]
    alone = convert(quantized, tmp_path / "b.tflite")
    alone = verify(alone.path, against=quantized, data=images)
    assert both.outputs[0] == alone.outputs[0]


def test_attention_outputs_of_a_float_file(tmp_path):
    net, images = attentive_net(), scaled(photo_bytes(4, 8))
    report = convert(net, tmp_path / "a.tflite", attention_outputs=True)
    outputs = verify(report.path, against=net, data=images).outputs
    assert len(outputs) == 5
    assert max(output.max_difference for output in outputs) <= 1e-5


def test_the_given_model_stays_as_it_is(small, tmp_path):
    before = small.get_weights()
    names = [layer.name for layer in small.layers]
    convert(small, tmp_path / "a.tflite", softmax=True)
    for old, new in zip(before, small.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert names == [layer.name for layer in small.layers]
    assert len(small.outputs) == 1


def test_softmax(small, tmp_path):
    images = scaled(photo_bytes(16, 8))
    plain = convert(small, tmp_path / "plain.tflite")
    report = convert(small, tmp_path / "a.tflite", softmax=True)
    (output,) = report.outputs
    assert output == litert.Tensor("classifier_softmax", (1, 5), "int8", 1 / 256, -128)
    assert report.operators == plain.operators | {"SOFTMAX": 1}
    (logits,) = litert.Runner(plain.path)(images)
    logits = litert.dequantize(logits, plain.outputs[0])
    wanted = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    for path in (report.path, report.uint8_path):
        runner = litert.Runner(path)
        (got,) = runner(images)
        got = litert.dequantize(got, runner.outputs[0])
        assert got.std() > 0.05  # Not all alike.
        np.testing.assert_allclose(got, wanted, atol=1.01 / 256)
    agreement = verify(report.path, against=small, data=images)
    assert agreement.outputs[0].within_one_step >= 0.95


def test_softmax_of_a_float_file(tmp_path):
    net, images = small_net(), scaled(photo_bytes(4, 8))
    report = convert(net, tmp_path / "a.tflite", softmax=True)
    (got,) = litert.Runner(report.path)(images)
    wanted = keras.ops.softmax(net(images))
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_float32(tmp_path):
    net, images = small_net(), scaled(photo_bytes(16, 8))
    report = convert(net, tmp_path / "a.tflite")
    assert report.precision == "float32"
    assert report.uint8_path is None
    assert set(report.dtypes) == {"float32", "int32"}
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.tflite", "a.json"}
    (output,) = verify(report.path, against=net, data=images).outputs
    assert output.unit == "absolute"
    assert output.max_difference <= 1e-5 * np.abs(net.predict_on_batch(images)).max()


def test_float_model_to_int8_with_calibration(small, tmp_path):
    images = scaled(photo_bytes(16, 8))
    report = convert(
        small_net(), tmp_path / "a.tflite", precision="int8", calibration=images
    )
    other = convert(small, tmp_path / "b.tflite")
    assert (
        pathlib.Path(report.path).read_bytes() == pathlib.Path(other.path).read_bytes()
    )


def dead_channel(kernel, bias):
    """A net whose middle convolution has a channel of its own kind."""
    layers = keras.layers
    image = image_input.make_input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(image)
    x = layers.Conv2D(4, 1, name="middle")(x)
    net = randomized(keras.Model(image, layers.Conv2D(3, 1, name="last")(x)))
    kernels, biases = net.get_layer("middle").get_weights()
    kernels[..., 1], biases[1] = kernel, bias
    net.get_layer("middle").set_weights([kernels, biases])
    return keras.Model(image, [net.get_layer("middle").output, net.output])


@pytest.mark.parametrize(
    ("kernel", "bias"), [(0.0, 0.753), (1e-9, 0.753), (0.0, 0.0), (1e-9, -40.0)]
)
def test_dead_kernels_with_live_biases(kernel, bias, tmp_path):
    images = scaled(photo_bytes(8, 8))
    quantized = quantize(dead_channel(kernel, bias), images)
    report = convert(quantized, tmp_path / "a.tflite")
    for output in verify(report.path, against=quantized, data=images).outputs:
        assert output.max_difference <= 1.001
    runner = litert.Runner(report.path)
    middle = litert.dequantize(runner(images)[0], runner.outputs[0])
    np.testing.assert_allclose(middle[..., 1], bias, atol=runner.outputs[0].scale)


def test_without_wider_ranges_such_a_channel_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(tf_converter, "_kernel_ranges", lambda graph: [])
    images = scaled(photo_bytes(8, 8))
    quantized = quantize(dead_channel(1e-9, 0.753), images)
    report = convert(quantized, tmp_path / "a.tflite")
    outputs = verify(report.path, against=quantized, data=images).outputs
    assert outputs[0].max_difference > 10


def test_a_channel_that_never_fires(tmp_path):
    images = scaled(photo_bytes(8, 8))
    net = small_net()
    kernel, bias = net.get_layer("depth").get_weights()
    bias[2] = -100.0
    net.get_layer("depth").set_weights([kernel, bias])
    quantized = quantize(net, images)
    report = convert(quantized, tmp_path / "a.tflite")
    (output,) = verify(report.path, against=quantized, data=images).outputs
    assert output.max_difference <= 1.001


def test_several_inputs_and_outputs(tmp_path):
    layers = keras.layers
    left = image_input.make_input((8, 8, 3), name="left")
    right = image_input.make_input((4, 4, 2), input_range=(0, 255), name="right")
    a = layers.Conv2D(4, 3, strides=2, padding="same", name="a")(left)
    b = layers.Conv2D(4, 1, name="b")(right)
    outputs = {"z": layers.Multiply(name="product")([a, b]), "y": a, "x": b}
    net = randomized(keras.Model({"right": right, "left": left}, outputs))
    rng = np.random.default_rng(0)
    data = {
        "left": scaled(photo_bytes(8, 8)),
        "right": rng.integers(0, 256, (8, 4, 4, 2)).astype("float32"),
    }
    ranges = {"left": (-1, 127 / 128), "right": (0, 255)}
    quantized = quantize(net, data, input_range=ranges)
    report = convert(quantized, tmp_path / "a.tflite")
    assert [t.name for t in report.inputs] == ["left", "right"]
    assert [(t.scale, t.zero_point) for t in report.inputs] == [(1 / 128, 0), (1, -128)]
    assert [t.name for t in report.outputs] == ["b", "a", "product"]
    for path in (report.path, report.uint8_path):
        for output in verify(path, against=quantized, data=[data]).outputs:
            assert output.max_difference <= 1.001


def test_the_converter_is_quiet(small, tmp_path, caplog):
    logger = logging.getLogger("absl")
    filters = list(logger.filters)
    logger.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            convert(small, tmp_path / "a.tflite")
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
    assert logger.filters == filters


def test_labels(small, tmp_path):
    names = ["ant", "bee", "cat", "dog", "été"]
    report = convert(small, tmp_path / "a.tflite", labels=names)
    assert report.labels_path == str(tmp_path / "labels.txt")
    text = (tmp_path / "labels.txt").read_text(encoding="utf-8")
    assert text.splitlines() == names
    folder = tmp_path / "other"
    again = convert(small, folder / "b.tflite", labels=tmp_path / "labels.txt")
    assert pathlib.Path(again.labels_path).read_text(encoding="utf-8") == text
    written = sorted(entry.name for entry in folder.iterdir())
    assert written == ["b.json", "b.tflite", "b_uint8.tflite", "labels.txt"]


def test_report_can_be_stored_and_read(coord):
    stored = coord.report.to_dict()
    assert stored["inputs"][0]["shape"] == [1, 32, 32, 3]
    assert stored["operators"]["LOGISTIC"] == 32
    text = str(coord.report)
    assert "precision    int8" in text
    assert "LOGISTIC 32" in text


def test_an_input_may_be_an_output(tmp_path):
    image = image_input.make_input((8, 8, 3), name="image")
    net = keras.Model(image, [keras.layers.MaxPooling2D(name="pool")(image), image])
    images = scaled(photo_bytes(2, 8))
    for precision in ("int8", "float32"):
        report = convert(
            net, tmp_path / "a.tflite", precision=precision, calibration=images
        )
        assert [tensor.name for tensor in report.outputs] == ["pool", "output"]
        for output in verify(report.path, against=net, data=images).outputs:
            assert output.max_difference == 0.0


def test_kernels_are_those_of_keras(small, tmp_path):
    """Every int8 kernel value is the fake-quantized kernel in steps of its scale."""
    report = convert(small, tmp_path / "a.tflite")
    model = litert.File(report.path).model
    main = model.subgraphs[0]
    wrapper = small.get_layer("project")
    assert isinstance(wrapper, QuantizedKernel)
    assert isinstance(small.get_layer("sum_quant"), FakeQuantize)
    kernel, _ = wrapper.layer.get_weights()
    scale = np.abs(kernel).max((0, 1, 2)) / 127
    wanted = np.round(kernel / scale).astype(int)[0, 0].T  # (out, in)
    stored = [
        np.frombuffer(bytes(model.buffers[t.buffer].data), np.int8).reshape(t.shape)
        for t in main.tensors
        if list(t.shape) == [8, 1, 1, 8] and t.type == schema.TensorType.INT8
    ]
    assert len(stored) == 1
    assert np.abs(stored[0][:, 0, 0].astype(int) - wanted).max() <= 0

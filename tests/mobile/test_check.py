"""Static facts of .tflite files, and what is found wrong in spoilt ones."""

import json
import pathlib

import pytest
from ai_edge_litert import schema_py_generated as schema
from support.int8_nets import photo_bytes, scaled, small_net

from keras_attention.mobile import litert
from keras_attention.mobile.check import check, layer_of
from keras_attention.mobile.convert import convert
from keras_attention.mobile.quantize import quantize


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    net, images = small_net(), scaled(photo_bytes(16, 8))
    return {
        "int8": convert(quantize(net, images), folder / "int8.tflite"),
        "float32": convert(net, folder / "float32.tflite"),
    }


def test_good_files(reports):
    for path in (
        reports["int8"].path,
        reports["int8"].uint8_path,
        reports["float32"].path,
    ):
        report = check(path)
        assert report.ok, report
        assert report.problems == ()
        assert report.max_rank == 4
        assert report.path == path
        assert report.bytes == pathlib.Path(path).stat().st_size
    report = check(reports["int8"].path)
    assert report.operators == {
        "CONV_2D": 2,
        "DEPTHWISE_CONV_2D": 1,
        "ADD": 1,
        "MEAN": 1,
        "FULLY_CONNECTED": 1,
    }
    assert set(report.dtypes) == {"int8", "int32"}
    assert report.inputs == (litert.Tensor("image", (1, 8, 8, 3), "int8", 1 / 128, 0),)
    assert set(check(reports["float32"].path).dtypes) == {"float32", "int32"}


def test_report(reports):
    report = check(reports["int8"].path)
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["ok"] is True
    assert stored["problems"] == []
    assert stored["inputs"] == [
        {
            "name": "image",
            "shape": [1, 8, 8, 3],
            "dtype": "int8",
            "scale": 1 / 128,
            "zero_point": 0,
        }
    ]
    lines = str(report).splitlines()
    assert lines[5].startswith(
        "inputs     name image, shape 1x8x8x3, dtype int8, scale"
    )
    assert lines[-1] == "ok         yes"


def flex(model):
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"FlexErf"


def float_tensor(model):
    main = model.subgraphs[0]
    main.tensors[main.operators[0].outputs[0]].type = schema.TensorType.FLOAT32


def inner_uint8(model):
    main = model.subgraphs[0]
    main.tensors[main.operators[0].outputs[0]].type = schema.TensorType.UINT8


def five_axes(model):
    main = model.subgraphs[0]
    main.tensors[main.operators[0].outputs[0]].shape = [1, 4, 4, 2, 4]


def varying_batch(model):
    main = model.subgraphs[0]
    main.tensors[main.inputs[0]].shapeSignature = [-1, 8, 8, 3]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flex, "Operator FlexErf is outside of TFLite's own set"),
        (float_tensor, "stem.* is float32 in an integer file"),
        (inner_uint8, "stem.* is uint8 in an integer file"),
        (five_axes, r"stem.* has 5 axes, \(1, 4, 4, 2, 4\)"),
        (varying_batch, r"'image' has a size that may vary, \(-1, 8, 8, 3\)"),
    ],
)
def test_spoilt_files(reports, spoil, message, tmp_path):
    model = litert.File(reports["int8"].path).model
    spoil(model)
    path = tmp_path / "spoilt.tflite"
    path.write_bytes(litert.pack(model))
    report = check(path)
    assert not report.ok
    assert report.to_dict()["ok"] is False
    (problem,) = report.problems
    pytest.raises(ValueError, raise_it, problem).match(message)


def raise_it(text):
    raise ValueError(text)


def test_a_float_tensor_is_no_problem_in_a_float_file(reports, tmp_path):
    model = litert.File(reports["float32"].path).model
    flex(model)
    path = tmp_path / "flex.tflite"
    path.write_bytes(litert.pack(model))
    assert len(check(path).problems) == 1


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.tflite"):
        check(tmp_path / "nothing.tflite")


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x89PNG\r\n\x1a\n" + bytes(99)])
def test_no_tflite_file(data, tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.tflite is no \.tflite file"):
        check(path)


@pytest.mark.parametrize("keep", [8, 40, 400])
def test_damaged_file(reports, keep, tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(pathlib.Path(reports["int8"].path).read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.tflite is a damaged \.tflite file"):
        check(path)


def test_layer_of():
    layers = {"conv", "conv_1", "block_2_gate"}
    assert layer_of("model/conv_1/convolution;model/x", layers) == "conv_1"
    assert layer_of("model_1/conv_2_1/BiasAdd", layers) is None
    assert layer_of("model/block_2_gate_1/Sigmoid", layers) == "block_2_gate"
    assert layer_of("arith.constant3", layers) is None


def test_pack_is_faithful(reports, tmp_path):
    """Reading and writing a file changes nothing that an interpreter sees."""
    images = photo_bytes(4, 8)
    again = litert.pack(litert.File(reports["int8"].path).model)
    (first,) = litert.Runner(reports["int8"].path)(scaled(images))
    (second,) = litert.Runner(again)(scaled(images))
    assert (first == second).all()
    assert first.std() > 5

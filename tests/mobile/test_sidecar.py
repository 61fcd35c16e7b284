"""The .json beside a converted file: true, documented, and never a stale one."""

import contextlib
import hashlib
import json
import pathlib
import re
import warnings
from importlib import metadata

import keras
import numpy as np
import pytest
from support.int8_nets import attentive_net, photo_bytes, scaled, small_net

import keras_attention
from keras_attention import image_input
from keras_attention.mobile import convert, litert, quantize

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "file_formats.md"
BYTES = photo_bytes(8, 8)
IMAGES = scaled(BYTES)
LABELS = ["ant", "bee", "cat", "dog", "été"]


@pytest.fixture(scope="module")
def quantized():
    return quantize(small_net(), IMAGES)


@pytest.fixture(scope="module")
def written(quantized, tmp_path_factory):
    """What stands beside an int8 file, and the report of its conversion."""
    path = tmp_path_factory.mktemp("int8") / "net.tflite"
    report = convert(quantized, path, labels=LABELS, softmax=True)
    return read(path), report


def read(path):
    return json.loads(pathlib.Path(path).with_suffix(".json").read_text("utf-8"))


def test_int8(written):
    content, report = written
    path = pathlib.Path(report.path)
    assert report.json_path == str(path.with_name("net.json"))
    assert content["format"] == "keras-attention-mobile/tflite-1"
    assert (content["model"], content["precision"]) == ("small", "int8")
    assert content["labels"] == LABELS
    byte = {"low": -1.0, "high": 127 / 128, "scale": 1 / 128, "offset": -1.0}
    assert content["inputs"] == [{"name": "image", "shape": [1, 8, 8, 3], "byte": byte}]
    assert content["outputs"] == [
        {"name": "classifier_softmax", "shape": [1, 5], "softmax": True}
    ]
    assert content["operators"] == report.operators
    assert [file["name"] for file in content["files"]] == [
        "net.tflite",
        "net_uint8.tflite",
    ]
    for file, dtype, shift in zip(
        content["files"], ("int8", "uint8"), (0, 128), strict=True
    ):
        data = path.with_name(file["name"]).read_bytes()
        assert file["bytes"] == len(data)
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        image = {"dtype": dtype, "scale": 1 / 128, "zero_point": shift}
        assert file["inputs"] == [image]
        scores = {"dtype": dtype, "scale": 1 / 256, "zero_point": shift - 128}
        assert file["outputs"] == [scores]


def test_versions(written):
    versions = written[0]["versions"]
    assert versions.pop("keras-attention-mobile") == keras_attention.__version__
    assert set(versions) == {
        "ai-edge-litert",
        "keras",
        "tensorflow",
        "tensorflow-model-optimization",
    }
    assert versions == {name: metadata.version(name) for name in versions}


def test_what_it_says_about_bytes_holds(written, tmp_path):
    """Bytes fed as docs/file_formats.md says give what the data pipeline gives."""
    content, report = written
    byte = content["inputs"][0]["byte"]
    real = byte["offset"] + byte["scale"] * BYTES.astype("float32")
    np.testing.assert_array_equal(real.astype("float32"), IMAGES)
    assert real.min() >= byte["low"] and real.max() <= byte["high"]
    folder = pathlib.Path(report.path).parent
    for file, fed in zip(
        content["files"], ((BYTES.astype(int) - 128).astype("int8"), BYTES), strict=True
    ):
        grid = file["inputs"][0]
        steps = np.round(real / grid["scale"]) + grid["zero_point"]
        np.testing.assert_array_equal(steps, fed)
        runner = litert.Runner(folder / file["name"])
        (scores,), (wanted,) = runner(fed), runner(IMAGES)
        np.testing.assert_array_equal(scores, wanted)
        grid = file["outputs"][0]
        sums = (grid["scale"] * (scores.astype(int) - grid["zero_point"])).sum(-1)
        # Probabilities: five of them, each rounded by half a step of 1/256 at most.
        assert np.abs(sums - 1).max() <= 2.5 / 256


def test_floats(tmp_path):
    convert(small_net(), tmp_path / "net.tflite")
    content = read(tmp_path / "net.tflite")
    assert content["precision"] == "float32"
    assert content["labels"] is None
    assert content["inputs"][0]["byte"]["scale"] == 1 / 128
    assert content["outputs"][0]["softmax"] is False
    (file,) = content["files"]
    assert file["name"] == "net.tflite"
    none = {"dtype": "float32", "scale": None, "zero_point": None}
    assert file["inputs"] == file["outputs"] == [none]


def test_a_model_that_does_not_know_its_bytes(tmp_path):
    image = keras.Input((4, 4, 2), name="map")
    net = keras.Model(image, keras.layers.MaxPooling2D(name="pool")(image))
    features = np.random.default_rng(0).normal(0, 3, (8, 4, 4, 2)).astype("float32")
    options = {"precision": "int8", "calibration": features}
    convert(net, tmp_path / "net.tflite", **options)
    content = read(tmp_path / "net.tflite")
    assert content["inputs"][0]["byte"] is None
    assert content["files"][0]["inputs"][0]["scale"] > 0.03
    # A range that is given is one that bytes stand for.
    quantized = quantize(net, features / 20, input_range=(-1, 127 / 128))
    convert(quantized, tmp_path / "net.tflite")
    assert read(tmp_path / "net.tflite")["inputs"][0]["byte"]["low"] == -1


def test_several_inputs_and_gates(tmp_path):
    left = image_input.make_input((8, 8, 3), name="left")
    right = image_input.make_input((8, 8, 3), input_range=(0, 255), name="right")
    total = keras.layers.Add(name="sum")([left, right])
    net = keras.Model([right, left], total, name="two")
    convert(net, tmp_path / "two.tflite")
    inputs = read(tmp_path / "two.tflite")["inputs"]
    assert [entry["name"] for entry in inputs] == ["right", "left"]
    assert [entry["byte"]["scale"] for entry in inputs] == [1, 1 / 128]
    convert(attentive_net(), tmp_path / "gates.tflite", attention_outputs=True)
    outputs = read(tmp_path / "gates.tflite")["outputs"]
    assert [entry["name"] for entry in outputs][:2] == ["classifier", "first_gate_h"]
    assert len(outputs) == 5


def test_the_same_again_is_the_same_text(quantized, tmp_path):
    texts = []
    for name in ("a", "b"):
        convert(quantized, tmp_path / name / "net.tflite", labels=LABELS)
        texts.append((tmp_path / name / "net.json").read_bytes())
    assert texts[0] == texts[1]
    assert "été".encode() in texts[0]


def keys(value, prefix=""):
    """Yields every key of a JSON value as the documentation writes it."""
    if isinstance(value, list):
        for item in value:
            yield from keys(item, f"{prefix}[]")
    elif isinstance(value, dict):
        for name, item in value.items():
            path = f"{prefix}.{name}" if prefix else name
            yield path
            # What is in these is named after operators and packages.
            if path not in ("operators", "versions"):
                yield from keys(item, path)


def test_every_key_is_documented_and_every_documented_key_is_there(written):
    rows = re.findall(r"^\| (`.*?) \|", DOCS.read_text("utf-8"), re.MULTILINE)
    documented = [key for row in rows for key in re.findall(r"`(.*?)`", row)]
    assert len(documented) == len(set(documented)) > 20
    assert set(keys(written[0])) == set(documented)
    for package in written[0]["versions"]:
        assert package.removeprefix("keras-attention-") in DOCS.read_text("utf-8")


@contextlib.contextmanager
def warned_once(message):
    """Not pytest.warns, which brings back what the project's filters leave out."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        yield
    (warning,) = seen
    assert re.search(message, str(warning.message))
    assert warning.filename == __file__


class TestConvertingAgain:
    @pytest.fixture
    def path(self, quantized, tmp_path):
        """An int8 file, its twin and their .json."""
        convert(quantized, tmp_path / "net.tflite")
        assert names(tmp_path) == ["net.json", "net.tflite", "net_uint8.tflite"]
        return tmp_path / "net.tflite"

    def test_the_twin_of_an_earlier_file_goes(self, path):
        convert(small_net(), path)
        assert names(path.parent) == ["net.json", "net.tflite"]
        assert [file["name"] for file in read(path)["files"]] == ["net.tflite"]

    def test_what_somebody_else_put_in_its_place_stays(self, path):
        twin = path.with_name("net_uint8.tflite")
        twin.write_bytes(b"mine")
        with warned_once(r"net_uint8\.tflite stays as it is"):
            convert(small_net(), path)
        assert twin.read_bytes() == b"mine"
        assert read(path)["precision"] == "float32"

    def test_a_twin_that_no_json_vouches_for_stays(self, path):
        path.with_suffix(".json").unlink()
        with warned_once(r"does not belong to net\.tflite"):
            convert(small_net(), path)
        assert "net_uint8.tflite" in names(path.parent)

    def test_the_json_is_that_of_the_last_conversion(self, path, quantized):
        convert(small_net(), path)
        convert(quantized, path, softmax=True)
        content = read(path)
        assert content["outputs"][0]["softmax"] is True
        for file in content["files"]:
            data = path.with_name(file["name"]).read_bytes()
            assert file["sha256"] == hashlib.sha256(data).hexdigest()

    def test_a_failure_leaves_everything(self, path, monkeypatch):
        before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}

        def fail(*_):
            raise MemoryError("full")

        monkeypatch.setattr(litert, "pack", fail)
        with pytest.raises(MemoryError, match="full"):
            convert(small_net(), path)
        after = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
        assert after == before


@pytest.mark.parametrize(
    "text", ['{"format": "other"}', "[1, 2]", "no json", "", '{"labels": []}']
)
def test_a_json_of_somebody_else_is_not_overwritten(text, tmp_path):
    (tmp_path / "net.json").write_text(text)
    with pytest.raises(FileExistsError, match=r"net\.json: there is such a file .*not"):
        convert(small_net(), tmp_path / "net.tflite")
    assert names(tmp_path) == ["net.json"]
    assert (tmp_path / "net.json").read_text() == text


def test_a_folder_in_its_place(tmp_path):
    (tmp_path / "net.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"net\.json"):
        convert(small_net(), tmp_path / "net.tflite")
    assert names(tmp_path) == ["net.json"]


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())

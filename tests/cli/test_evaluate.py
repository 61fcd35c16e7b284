"""The command `evaluate`: every kind of file, what it prints and writes, mistakes."""

import json
import shutil

import keras
import numpy as np
import pytest
from support.command_line import fails, invoke, small_net

from keras_attention import data, mobile, training

FILES = ("model.keras", "q.keras", "m.tflite", "m_uint8.tflite")


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    """A trained model, the quantized one, and its files."""
    folder = tmp_path_factory.mktemp("evaluated")
    images = data.load(f"folder:{photos}", image_size=16)
    keras.utils.set_random_seed(0)
    net = small_net()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(0.02), loss)
    x, y = (np.concatenate(part) for part in zip(*images.calibration, strict=True))
    net.fit(x, y, epochs=20, verbose=0)
    net.save(folder / "model.keras")
    quantized = mobile.quantize(net, images.calibration)
    quantized.save(folder / "q.keras")
    mobile.convert(quantized, folder / "m.tflite", labels=images.labels)
    return folder


def figures(*arguments):
    result = invoke("evaluate", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # nothing else is printed there


def without_model(report):
    return {name: value for name, value in report.items() if name != "model"}


@pytest.fixture(scope="module")
def found(folder, photos):
    return {
        name: figures(folder / name, "--data", f"folder:{photos}") for name in FILES
    }


def test_figures(folder, photos, found):
    images = data.load(f"folder:{photos}", image_size=16)
    for name, report in found.items():
        assert report["model"] == str(folder / name)
        assert report["count"] == images.test_size
        assert report["top5"] is None
        assert [row["label"] for row in report["classes"]] == ["red", "teal"]
        expected = training.evaluate(folder / name, images).to_dict()
        assert report == json.loads(json.dumps(expected))
    model = keras.saving.load_model(folder / "model.keras")
    assert found["model.keras"]["top1"] == training.accuracy(model, images.test)
    assert found["model.keras"]["top1"] > 0.8
    assert without_model(found["m.tflite"]) == without_model(found["m_uint8.tflite"])
    # One step of a logit is about 0.02.
    assert found["q.keras"]["loss"] == pytest.approx(
        found["m.tflite"]["loss"], abs=0.02
    )


def test_what_people_see(folder, photos, found, tmp_path):
    result = invoke(
        *("evaluate", folder / "m.tflite", "--data", f"folder:{photos}"),
        *("--out", tmp_path / "out", "--batch-size", 3, "--bins", 7),
    )
    assert result.exit_code == 0, result.output
    assert "torn.jpg" in result.output
    report = found["m.tflite"]
    top1 = f"Top-1 {report['top1']:.2%} of {report['count']} test images\n"
    assert top1 in result.output
    assert "top-5" not in result.output
    assert "(logits, 7 bins)" in result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["class", "samples", "precision", "recall", "F1"] in lines
    (red,) = [line for line in lines if line[:1] == ["red"] and "%" in line[-1]][:1]
    row = report["classes"][0]
    assert red[1:] == [
        str(row["count"]),
        *(f"{row[name]:.2%}" for name in ("precision", "recall", "f1")),
    ]
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    assert stored["confusion"] == report["confusion"]
    assert len(stored["bins"]) == 7
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("evaluation.json", "evaluation.html"),
        *("confusion_matrix.png", "reliability.png"),
    }


def test_a_file_without_its_description(folder, photos, found, tmp_path):
    alone = shutil.copy(folder / "m.tflite", tmp_path)
    options = (alone, "--data", f"folder:{photos}")
    # Neither no .json, nor one that is about another file, says what bytes stand for.
    message = "m.tflite does not store its input range: pass --input-range LO HI"
    assert message in fails("evaluate", *options)
    described = json.loads((folder / "m.json").read_text())
    described["files"][0]["sha256"] = "0" * 64
    for text in ("no JSON", "[]", json.dumps(described)):
        (tmp_path / "m.json").write_text(text)
        assert message in fails("evaluate", *options)
    given = figures(*options, "--input-range", -1, 127 / 128)
    assert without_model(given) == without_model(found["m.tflite"])
    other = figures(*options, "--input-range", 0, 1)
    assert other["loss"] != given["loss"]


def test_a_model_of_any_size(tmp_path, photos, folder):
    path = tmp_path / "any.keras"
    small_net((None, None, 3)).save(path)
    options = (path, "--data", f"folder:{photos}")
    assert "must take images of one size" in fails("evaluate", *options)
    losses = {
        size: figures(*options, "--image-size", size)["loss"] for size in (16, 20)
    }
    images = data.load(f"folder:{photos}", image_size=20)
    assert losses[20] == training.evaluate(path, images).loss != losses[16]
    fixed = (folder / "model.keras", "--data", f"folder:{photos}", "--image-size", 20)
    message = "takes images of 16 x 16 pixels: leave --image-size out"
    assert message in fails("evaluate", *fixed)


class TestMistakes:
    def test_another_number_of_classes(self, tmp_path, photos):
        small_net(classes=3).save(tmp_path / "net.keras")
        message = fails(
            "evaluate", tmp_path / "net.keras", "--data", f"folder:{photos}"
        )
        assert "small_net has 3 outputs, the data 2 classes: red, teal" in message

    def test_other_classes(self, tmp_path, folder):
        message = fails("evaluate", folder / "m.tflite", "--data", "digits")
        assert "the classes of the data are 0, 1, 2" in message
        assert "labels.txt are red, teal" in message
        # Without labels.txt the .json tells.
        for name in ("m.tflite", "m.json"):
            shutil.copy(folder / name, tmp_path)
        message = fails("evaluate", tmp_path / "m.tflite", "--data", "digits")
        assert f"those of {tmp_path / 'm.tflite'} are red, teal" in message

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("a.onnx", "", "MODEL must end in .keras or .tflite, got"),
            ("a.keras", "no model", "a.keras as a Keras model"),
            ("a.tflite", "no model", "a.tflite is no .tflite file"),
        ],
    )
    def test_files_that_are_no_models(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        assert message in fails("evaluate", tmp_path / name, "--data", "digits")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("none.keras", "--data", "digits"), "does not exist"),
            (("FILE",), "--data"),
            (("FILE", "--data", "digits", "--bins", "0"), "--bins"),
            (("FILE", "--data", "digits", "--image-size", "0"), "--image-size"),
            (("FILE", "--data", "digits", "--batch-size", "0"), "--batch-size"),
        ],
    )
    def test_wrong_command_lines(self, folder, arguments, message):
        given = [folder / "q.keras" if word == "FILE" else word for word in arguments]
        assert message in fails("evaluate", *given, status=2)

    def test_a_place_that_cannot_be_written(self, tmp_path, folder):
        (tmp_path / "file").write_text("")
        message = fails(
            *("evaluate", folder / "q.keras", "--data", "digits"),
            *("--out", tmp_path / "file" / "out"),
        )
        assert "cannot write" in message


def test_help():
    assert "evaluate" in invoke("--help").output
    assert "--image-size" in invoke("evaluate", "--help").output

"""The command line: the whole path on a small net."""

import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
from support.command_line import invoke

import keras_attention
from keras_attention import data, mobile, models
from keras_attention.training import trainer


def test_train_leaves_a_model_and_its_labels(photos, trained):
    out, output = trained
    assert {path.name for path in out.iterdir()} >= {
        *("checkpoints", "labels.txt", "logs", "model.keras"),
        *("recipe.yaml", "report.html", "report.json", "curves.png"),
    }
    assert data.read_labels(out / "labels.txt") == ["red", "teal"]
    assert "Skipped 1 damaged image files" in output
    assert "torn.jpg" in output
    model = keras.saving.load_model(out / "model.keras")
    images = data.load(f"folder:{photos}", image_size=16)
    hits = [model(x).numpy().argmax(-1) == y for x, y in images.test]
    # Two colours that hardly overlap: anything else is a broken pipeline.
    assert np.concatenate(hits).mean() >= 0.9


def test_quantize_convert_verify(photos, quantized, tmp_path):
    model = keras.saving.load_model(quantized)
    names = {type(layer).__name__ for layer in model.layers}
    assert {"FakeQuantize", "QuantizedKernel"} <= names
    file = tmp_path / "net" / "model.tflite"
    result = invoke("convert", quantized, "--out", file)
    assert result.exit_code == 0, result.output
    assert "int8" in result.output
    assert {path.name for path in file.parent.iterdir()} == {
        "labels.txt",
        "model.json",
        "model.tflite",
        "model_uint8.tflite",
    }
    assert data.read_labels(file.parent / "labels.txt") == ["red", "teal"]
    assert mobile.check(file).ok
    result = invoke(
        "verify", file, "--against", quantized, "--data", f"folder:{photos}"
    )
    assert result.exit_code == 0, result.output
    assert "argmax agreement" in result.output


def test_convert_float_models(photos, trained, tmp_path):
    model = trained[0] / "model.keras"
    assert invoke("convert", model, "--out", tmp_path / "f.tflite").exit_code == 0
    report = mobile.check(tmp_path / "f.tflite")
    assert report.inputs[0].dtype == "float32"
    result = invoke(
        *("convert", model, "--out", tmp_path / "i.tflite", "--precision", "int8"),
        *("--data", f"folder:{photos}", "--softmax", "--attention-outputs"),
    )
    assert result.exit_code == 0, result.output
    report = mobile.check(tmp_path / "i.tflite")
    assert report.inputs[0].dtype == "int8"
    assert report.operators["SOFTMAX"] == 1
    assert len(report.outputs) == 3


def test_options_of_train_are_the_recipes(photos, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    taken = []

    def build(
        input_shape=(16, 16, 3), classes=2, *, width=1.0, stem_stride=2, **arguments
    ):
        taken.append((input_shape, width, stem_stride, arguments["attention"]))
        raise Stop("built")

    monkeypatch.setattr(models, "MobileNetV2", build)
    train = ("train", "--data", f"folder:{photos}", "--out", tmp_path / "out")
    invoke(*train)
    invoke(*train, "--stem-stride", 1, "--width", 0.5, "--attention", "none")
    invoke(*train, "--image-size", 16, "--set", "model.attention=se")
    assert taken == [
        ((224, 224, 3), 1.0, 2, "coord"),
        ((224, 224, 3), 0.5, 1, None),
        ((16, 16, 3), 1.0, 2, "se"),
    ]
    assert invoke(*train, "--stem-stride", 3).exit_code == 2


def test_another_length_takes_the_schedule_along(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        trainer, "train", lambda recipe, *_, **__: found.append(recipe) or 1 / 0
    )
    for recipe, epochs in (("digits", 10), ("cifar100-resnet50-ema", 20)):
        invoke("train", "--recipe", recipe, "--epochs", epochs, "--out", tmp_path)
    digits, cifar = found
    # 3 of 30 epochs, and the 60th, 120th, 160th of 200.
    assert digits.schedule.warmup_epochs == 1 and digits.epochs == 10
    assert cifar.schedule.milestones == (6, 12, 16) and cifar.epochs == 20


def test_only_the_first_of_several_hosts_says_that_it_wrote(tmp_path, monkeypatch):
    for wrote, line in ((True, "Wrote {}"), (False, "The first host writes {}")):
        report = types.SimpleNamespace(evaluation=None, quantized=None, wrote=wrote)
        monkeypatch.setattr(trainer, "train", lambda *_, _report=report, **__: _report)
        result = invoke("train", "--out", tmp_path)
        assert result.output.startswith(line.format(tmp_path / "model.keras"))


def test_raw_bytes_are_the_python_pipeline(photos, quantized, tmp_path):
    from keras_attention.mobile import litert

    mobile.convert(keras.saving.load_model(quantized), tmp_path / "m.tflite")
    int8 = litert.Runner(tmp_path / "m.tflite")
    uint8 = litert.Runner(tmp_path / "m_uint8.tflite")
    scan = data.scan_folder(photos)
    pixels = np.stack([data.read_image(s.path, 16) for s in scan.test])
    pipeline = np.concatenate(
        [x for x, _ in data.load(f"folder:{photos}", image_size=16).test]
    )
    np.testing.assert_array_equal(pipeline, pixels / np.float32(128) - 1)
    from_pipeline = int8(pipeline)[0].astype(int)
    assert len(np.unique(from_pipeline)) > 5  # 7 photos of 2 classes: it is alive
    np.testing.assert_array_equal(
        int8((pixels.astype(int) - 128).astype("int8"))[0], from_pipeline
    )
    np.testing.assert_array_equal(uint8(pixels)[0], from_pipeline + 128)


def test_list_shows_blocks_and_backbones():
    result = invoke("list")
    assert result.exit_code == 0
    names = ("aw", "a2", "coord", "ema")
    for name in (*names, "MobileNetV2", "Coordinate Attention", "AW-convolution"):
        assert name in result.output
    assert "Site" not in result.output
    assert "cifar100-resnet50-ema" in result.output


def test_list_shows_the_networks_of_the_papers():
    output = " ".join(invoke("list").output.split())
    for row in (
        "mobilenet_v2_coord 3,950,648 306.7 M ImageNet 74.30 % (read)",
        "resnet50_a2 32,907,304 6,658.2 M ImageNet 77.00 % (recalled, high)",
        "resnet50_gc 28,078,773 4,097.9 M -",
    ):
        assert row in output
    assert {name for name in models.presets() if name not in output} == set()


def test_help_is_there_for_every_command():
    commands = (
        *("demo", "train", "quantize", "convert", "verify"),
        *("inspect", "benchmark", "evaluate", "list"),
    )
    overview = invoke("--help").output
    for command in commands:
        assert command in overview
        assert invoke(command, "--help").exit_code == 0


def test_help_in_a_new_process_imports_nothing_heavy_by_itself():
    # Keras and its backend come with the package; the rest is for the commands.
    code = (
        "import sys, keras\n"
        "before = set(sys.modules)\n"
        "from keras_attention import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "ours = {name for name in sys.modules if name.startswith('keras_attention.')}\n"
        "heavy = {'tensorflow', 'sklearn', 'matplotlib', 'PIL', 'ai_edge_litert',\n"
        "         'tensorflow_model_optimization'} & new\n"
        "heavy |= {'keras_attention.data', 'keras_attention.training'} & ours\n"
        "assert not heavy, heavy\n"
    )
    root = pathlib.Path(keras_attention.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: keras-attention" in done.stdout

"""Real photos through the command line: train, quantize, convert, verify."""

import re

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from keras_attention import cli, data, mobile
from keras_attention.mobile import litert
from keras_attention.models import mobilenet_v2


@pytest.fixture(scope="module")
def subset(shared_file, tmp_path_factory):
    """Ten classes of 12 training and 6 test photos, as links into the shared folder."""
    photos = shared_file("data/imagenette")
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 12), ("val", 6)):
        for folder in sorted((photos / split).iterdir()):
            (root / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                (root / split / folder.name / file.name).symlink_to(file)
    return root


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_photos_to_a_verified_int8_file(subset, tmp_path, monkeypatch):
    # Nearly all of the time goes into tracing layers: six units instead of 17 are kept,
    # with every stride and a residual sum.
    stages = [(t, c, 1 + (c == 24), s) for t, c, _, s in mobilenet_v2.STAGES]
    stages = [stage for stage in stages if stage[1] == 16 or stage[3] == 2]
    monkeypatch.setattr(mobilenet_v2, "STAGES", stages)
    spec = f"folder:{subset}"
    run(
        *("train", "--data", spec, "--out", tmp_path, "--image-size", 96),
        *("--width", 0.35, "--epochs", 4, "--batch-size", 10),
    )
    quantized = tmp_path / "quantized.keras"
    run("quantize", tmp_path / "model.keras", "--data", spec, "--out", quantized)
    file = tmp_path / "phone" / "model.tflite"
    run("convert", quantized, "--out", file)
    report = run("verify", file, "--against", quantized, "--data", spec)
    assert re.search(r"samples +60\n", report)
    assert re.search(r"clipped inputs +0\n", report)

    assert mobile.check(file).ok
    assert mobile.check(file.with_name("model_uint8.tflite")).ok
    classes = sorted(folder.name for folder in (subset / "val").iterdir())
    assert data.read_labels(file.with_name("labels.txt")) == classes

    # Raw bytes of a photo are the input of the uint8 twin.
    samples = data.scan_folder(subset).test
    pixels = np.stack([data.read_image(sample.path, 96) for sample in samples])
    images, runner = data.to_float(pixels), litert.Runner(file)
    answers = runner(images)[0].astype(int)
    twin = litert.Runner(file.with_name("model_uint8.tflite"))(pixels)[0]
    np.testing.assert_array_equal(twin, answers + 128)
    # The net is alive: other photos, other logits.
    assert np.ptp(answers, axis=0).max() >= 20

    # So few steps leave a net that amplifies every rounding: the class may flip, and
    # only this can be asked for: the file is no further from its quantized Keras model
    # than quantization itself moved that from the float model, and without a bias.
    float_model, keras_model = (
        keras.saving.load_model(path).predict(images, verbose=0)
        for path in (tmp_path / "model.keras", quantized)
    )
    file_model = litert.dequantize(answers, runner.file.outputs[0])
    noise = np.abs(float_model - keras_model).mean()
    assert 0 < noise < keras_model.std(axis=0).mean()
    assert np.abs(file_model - keras_model).mean() <= 1.5 * noise
    assert np.abs((file_model - keras_model).mean()) <= 0.3 * noise

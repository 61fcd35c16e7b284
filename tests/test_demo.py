"""The demonstration on a small net: the files, the figures, the page."""

import html.parser
import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from keras_attention import CoordAttention, cli, data, demo, image_input, mobile

FILES = {
    "labels.txt",
    "model.json",
    "model.keras",
    "model.tflite",
    "model_uint8.tflite",
    "quantized.keras",
    "report.html",
    "report.json",
}
KEYS = {
    "float_accuracy",
    "deploy_max_abs_diff",
    "ptq_int8_accuracy",
    "qat_accuracy",
    "int8_accuracy",
    "argmax_agreement",
    "int8_bytes",
    "float32_bytes",
    "latency_ms",
    "versions",
}


def small_net(shape, classes, **_):
    """Two blocks, trained in seconds; `make demo` takes the real network."""
    inputs = image_input.make_input(shape)
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(inputs)
    x = CoordAttention(name="first_attention")(x)
    x = keras.layers.Conv2D(32, 3, strides=2, activation="relu")(x)
    x = CoordAttention(name="second_attention")(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo.models, "MobileNetV2", small_net)
        result = CliRunner().invoke(
            cli.app,
            ["demo", "--out", str(out), "--epochs", "3", "--finetune-epochs", "1"],
        )
    assert result.exit_code == 0, result.output
    return out, json.loads((out / "report.json").read_text()), result.output


def test_leaves_exactly_its_files(demonstrated):
    out, _, _ = demonstrated
    assert {path.name for path in out.iterdir()} == FILES
    assert data.read_labels(out / "labels.txt") == list("0123456789")


def test_figures_are_those_of_the_files(demonstrated):
    out, report, _ = demonstrated
    assert set(report) >= KEYS
    digits = data.load("digits")
    images, labels = (np.concatenate(part) for part in zip(*digits.test, strict=True))
    accuracies = {}
    for name in ("model", "quantized"):
        model = keras.saving.load_model(out / f"{name}.keras")
        answers = model.predict(images, verbose=0).argmax(-1)
        accuracies[name] = (answers == labels).mean()
    assert report["float_accuracy"] == pytest.approx(accuracies["model"])
    assert report["qat_accuracy"] == pytest.approx(accuracies["quantized"])
    verified = mobile.verify(
        out / "model.tflite", against=out / "quantized.keras", data=digits.test
    )
    assert report["int8_accuracy"] == pytest.approx(verified.file_accuracy)
    assert report["argmax_agreement"] == verified.argmax_agreement
    assert report["int8_bytes"] == (out / "model.tflite").stat().st_size
    assert report["float32_bytes"] > report["int8_bytes"]
    # A real run: the small net has learned, so that nothing agrees by chance.
    assert report["float_accuracy"] > 0.8
    assert report["int8_accuracy"] > report["float_accuracy"] - 0.03
    assert 0 < report["deploy_max_rel_diff"] <= 1e-5
    for stage in ("ptq", "qat", "int8"):
        key = {"ptq": "ptq_int8_accuracy"}.get(stage, f"{stage}_accuracy")
        change = report["repaired"][stage] - report["broken"][stage]
        expected = report["float_accuracy"] + change / 360
        assert report[key] == pytest.approx(expected)
    assert set(report["latency_ms"]) == {"int8", "float32"}
    assert all(0 < value < 100 for value in report["latency_ms"].values())


def test_page_is_complete_and_self_contained(demonstrated):
    out, report, _ = demonstrated
    page = (out / "report.html").read_text(encoding="utf-8")

    class Reader(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.images, self.text = [], [], []

        def handle_starttag(self, tag, attributes):
            attributes = dict(attributes)
            assert not {"href"} & set(attributes)
            if tag == "img":
                self.images.append(attributes["src"])
            elif tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, text):
            self.text.append(text)

    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(reader.images) == 2
    assert all(source.startswith("data:image/png;base64,") for source in reader.images)
    text = " ".join(reader.text)
    for key in ("float_accuracy", "int8_accuracy", "argmax_agreement"):
        assert f"{report[key]:.2%}" in text


def test_progress_is_shown(demonstrated):
    _, _, output = demonstrated
    for words in ("epoch 3/3", "Deploying", "Fine-tuning as int8: epoch 1/1", "Verify"):
        assert words in output

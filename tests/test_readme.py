"""What the README shows runs as it stands there."""

import re

import keras
from support.pages import README, blocks

from keras_attention import CoordAttention, data, image_input, models, training


def small_net(shape, classes, attention):
    assert attention == "coord"
    inputs = image_input.make_input(shape)
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(CoordAttention()(x))
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def test_python_from_import_to_tflite(tmp_path, monkeypatch, capsys):
    code, layer, *_ = blocks(README, "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    load = data.load
    # Digits in place of the reader's photos, a small net, one epoch: the calls stay.
    monkeypatch.setattr(data, "load", lambda spec, image_size: load("digits"))
    monkeypatch.setattr(models, "MobileNetV2", small_net)
    monkeypatch.chdir(tmp_path)
    code, count = re.subn(r"epochs=\d+", "epochs=1, verbose=0", code)
    assert count == 2
    exec(code, {})
    assert {path.name for path in tmp_path.iterdir()} == {
        "labels.txt",
        "model.json",
        "model.tflite",
        "model_uint8.tflite",
    }
    assert "argmax agreement" in capsys.readouterr().out

    names = {"x": keras.random.normal((2, 8, 8, 32))}
    exec(layer, names)
    assert names["x"].shape == (2, 8, 8, 32)


def test_python_for_pretrained_models(monkeypatch):
    pretrained = models.MobileNetV2((32, 32, 3), 5, width=0.35)
    monkeypatch.setattr(models, "MobileNetV2", lambda weights: pretrained)
    names = {"models": models}
    exec(blocks(README, "python")[2], names)
    x = keras.random.uniform((2, 32, 32, 3), -1, 1, seed=0)
    found = [type(layer) for layer in names["model"].layers]
    assert found.count(CoordAttention) == 16
    expected = pretrained(x)
    off = keras.ops.max(abs(names["model"](x) - expected))
    assert off <= 1e-5 * keras.ops.max(abs(expected))


def test_python_for_recipes(monkeypatch):
    trained = []
    monkeypatch.setattr(
        training, "train", lambda *given: trained.append(given) or given[0]
    )
    monkeypatch.setattr(training.Recipe, "evaluation", "figures", raising=False)
    exec(blocks(README, "python")[3], {})
    [(recipe, out)] = trained
    assert (recipe.epochs, recipe.model.attention, out) == (10, "ema", "run")

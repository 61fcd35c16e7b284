"""A whole run: what it leaves, what it learns, how it goes on, what it refuses."""

import dataclasses
import errno
import json
import os
import re
import shutil

import keras
import numpy as np
import pytest
from support.command_line import fails, small_net

from keras_attention import data, mobile, models, training
from keras_attention.training import ema, logs, strategy
from keras_attention.training.checkpoints import Position

# A few seconds: a small network in the builder's place, 16 pixels.
SHORT = [
    *("image_size=16", "batch_size=64", "epochs=3", "schedule.warmup_epochs=0.5"),
    *("optimizer.lr=0.02", "weight_ema=0.8", "quantize.epochs=1"),
]


@pytest.fixture(scope="module", autouse=True)
def _small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "MobileNetV2", small_net)
        yield


def recipe(*overrides):
    return training.Recipe.load("digits").replace([*SHORT, *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "new"
    return training.train(recipe(), out)


class TestFiles:
    def test_the_model_is_plain_and_answers_as_reported(self, run):
        model = keras.saving.load_model(run.out / "model.keras")
        assert not model.compiled
        images = data.load("digits", image_size=16)
        # The same sums in another order.
        found = training.accuracy(model, images.test)
        assert found == pytest.approx(run.evaluation.top1, abs=1e-9)
        # What the last validation saw: the averages.
        assert found == pytest.approx(run.history["val_accuracy"][-1], abs=1e-6)

    def test_the_network_has_learned_and_the_quantized_one_has_not_forgotten(self, run):
        # Ten classes: chance is 0.1, with a deviation of 0.016 among 360 images.
        assert run.evaluation.top1 > 0.2
        assert run.quantized.top1 > run.evaluation.top1 - 0.05
        losses = run.history["loss"]
        assert losses == sorted(losses, reverse=True) and len(losses) == 3

    def test_recipe_and_labels(self, run):
        assert training.Recipe.load(run.out / "recipe.yaml") == recipe()
        assert data.read_labels(run.out / "labels.txt") == list("0123456789")

    def test_logs(self, run):
        table = logs.read(run.out / "logs" / "epochs.csv")
        assert table["epoch"] == [0, 1, 2]
        assert table["val_accuracy"] == pytest.approx(run.history["val_accuracy"])
        # A cosine from 0.02 to zero, warmed up in the first eleven of 66 steps.
        assert table["learning_rate"][0] > table["learning_rate"][1] > 0
        assert table["learning_rate"][2] == pytest.approx(0, abs=1e-9)
        assert len(list((run.out / "logs" / "train").iterdir())) == 1
        assert logs.read(run.out / "logs/quantized/epochs.csv")["epoch"] == [0]

    def test_report(self, run):
        report = json.loads((run.out / "report.json").read_text())
        assert report["recipe"] == recipe().to_dict()
        assert report["environment"]["strategy"] == run.strategy == "none"
        assert report["environment"]["replicas"] == run.replicas == 1
        assert (run.out / "report.html").stat().st_size > 20_000
        assert (run.out / "quantized" / "evaluation.json").exists()
        assert run.resumed is None and "minutes" in str(run)
        assert json.loads(json.dumps(run.to_dict()))["epochs"] == 3

    def test_checkpoints(self, run):
        names = sorted(p.name for p in (run.out / "checkpoints").glob("*.safetensors"))
        assert names[-1] == "epoch00003-step0000000.safetensors" and len(names) <= 4
        assert len(list((run.out / "checkpoints/quantized").iterdir())) == 2


class Stop(keras.callbacks.Callback):
    """Breaks off as a signal would, in the middle of an epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at = epoch, batch
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at and self.model.name == "small_net":
            raise KeyboardInterrupt


@pytest.mark.parametrize("every_steps", [None, 5])
def test_a_run_that_was_broken_off_ends_as_the_other(run, every_steps, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        training.train(
            recipe(), tmp_path, every_steps=every_steps, callbacks=[Stop(1, 13)]
        )
    assert not (tmp_path / "model.keras").exists()
    resumed = training.train(recipe(), tmp_path, every_steps=every_steps)
    assert resumed.resumed == Position(1, 10 if every_steps else 0)
    assert f"epoch 1, step {resumed.resumed.step}" in str(resumed)
    for name in ("model.keras", "quantized.keras"):
        found, expected = (
            keras.saving.load_model(folder / name).weights
            for folder in (tmp_path, run.out)
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{name}: {one.path}")
    assert resumed.history == run.history
    # Trained to the end: nothing is left to do, and nothing changes.
    again = training.train(recipe(), tmp_path)
    assert again.resumed == Position(3) and again.history == run.history
    assert again.evaluation.top1 == run.evaluation.top1


def test_another_recipe_needs_another_folder(tmp_path, monkeypatch):
    short = ["epochs=1", "quantize.epochs=0", "schedule.warmup_epochs=0"]
    training.train(recipe(*short), tmp_path)
    other = recipe(*short, "optimizer.lr=0.01")
    message = r"optimizer.lr was 0.02 and is 0.01.*resume=False \(--restart\)"
    with pytest.raises(ValueError, match=message):
        training.train(other, tmp_path)
    assert training.Recipe.load(tmp_path / "recipe.yaml") == recipe(*short)
    # What changes nothing but time and memory may be another.
    assert training.train(recipe(*short, "cache=true"), tmp_path).resumed == Position(1)
    load = data.load
    for changes, message in (
        ({"train_size": 1436}, "training images was 1437 and is 1436"),
        ({"digest": "0" * 16}, "training data was '.{16}' and is '0{16}'"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(
                data,
                "load",
                lambda *spec, _changes=changes, **how: dataclasses.replace(
                    load(*spec, **how), **_changes
                ),
            )
            with pytest.raises(ValueError, match=message):
                training.train(recipe(*short), tmp_path)
    report = training.train(other, tmp_path, resume=False)
    assert report.resumed is None and report.quantized is None
    assert training.Recipe.load(tmp_path / "recipe.yaml") == other


def test_hosts_must_see_the_same_images(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        strategy.Engine, "agree", lambda _, numbers: asked.append(numbers)
    )
    with pytest.raises(ValueError, match="the hosts see other training images: digits"):
        training.train(recipe(), tmp_path)
    digest = data.load("digits", image_size=16).digest
    assert asked == [[int(digest[i : i + 4], 16) for i in range(0, 16, 4)]]
    assert not list(tmp_path.iterdir())


def test_a_new_start_leaves_nothing_of_the_run_before(run, tmp_path):
    out = shutil.copytree(run.out, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe(), out, resume=False, callbacks=[Stop(0, 1)])
    # Else the next process would take the old quantized training for its own.
    checkpoints = sorted((out / "checkpoints").rglob("*.safetensors"))
    assert [path.name for path in checkpoints] == ["epoch00000-step0000000.safetensors"]
    assert checkpoints[0].parent.name == "checkpoints"
    assert not list(out.glob("*.keras"))
    (events,) = (out / "logs").rglob("events*")
    assert events.parent.name == "train"


def test_a_new_start_that_is_refused_removes_nothing(run, tmp_path):
    out = shutil.copytree(run.out, tmp_path / "out")
    before = sorted(out.rglob("*"))
    with pytest.raises(FileNotFoundError, match="such.pt"):
        training.train(recipe("model.weights=/no/such.pt"), out, resume=False)
    assert sorted(out.rglob("*")) == before


def test_half_precision_mixed_images_and_averages(tmp_path):
    changes = "precision=bfloat16 augment.mixup=0.4 label_smoothing=0.1 epochs=2"
    kept = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept[:] = [
                (v.path, v.numpy(), a.copy())
                for v, a in zip(
                    self.model.trainable_variables,
                    averages(self.model),
                    strict=True,
                )
            ]

    def averages(model):
        with ema.averaged(model):
            return [v.numpy() for v in model.trainable_variables]

    report = training.train(
        recipe(*changes.split(), "quantize.epochs=0"), tmp_path, callbacks=[Keep()]
    )
    assert np.isfinite(report.history["loss"]).all()
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.get_layer("attention").compute_dtype == "bfloat16"
    saved = {v.path: v.numpy() for v in model.trainable_variables}
    for path, raw, average in kept:
        np.testing.assert_array_equal(saved[path], average)
        assert (raw != average).any()
    assert keras.config.dtype_policy().name == "float32"


def test_quantization_is_refused_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    message = "^quantize.epochs must be 0 unless the backend is tensorflow; received 1"
    with pytest.raises(ValueError, match=f"{message} with jax: .* model.keras after"):
        training.train(recipe(), tmp_path)


def test_a_full_disk_stops_with_the_last_checkpoint(tmp_path, monkeypatch):
    # Without a disk to fill: the third checkpoint, of the second epoch, has no place.
    monkeypatch.setattr(models, "MobileNetV2", small_net)
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 4:  # A file and its folder each.
            raise OSError(errno.ENOSPC, "No space left on device")

    changes = [f"--set={change}" for change in SHORT if "quantize" not in change]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = fails("train", "--out", tmp_path, *changes)
    expected = r"cannot write a checkpoint of [\d,]+ bytes into .*: No space left on"
    assert re.search(expected, message) and message.endswith("are intact")
    # What is there is whole.
    resumed = training.train(recipe("quantize.epochs=0"), tmp_path)
    assert resumed.resumed == Position(1)


def test_what_cannot_be_quantized_is_refused_before_it_is_trained(
    tmp_path, monkeypatch
):
    def refuse(network, calibration, **_):
        assert len(calibration) == 1
        raise ValueError(f"{network.name} can't be quantized")

    monkeypatch.setattr(mobile, "quantize", refuse)
    with pytest.raises(ValueError, match="small_net can't be quantized"):
        training.train(recipe(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_recipes_by_name_and_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        training.train("digit", tmp_path)
    with pytest.raises(ValueError, match="at most the number of training images, 1437"):
        training.train(recipe("batch_size=2000"), tmp_path)
    with pytest.raises(ValueError, match="needs several devices"):
        training.train(recipe(), tmp_path, strategy="mirrored")
    with pytest.raises(IsADirectoryError, match="cannot write .*: it is a folder"):
        (tmp_path / "model.keras").mkdir()
        training.train(recipe(), tmp_path)

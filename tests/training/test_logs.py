"""The table of epochs over killed and resumed runs, and TensorBoard's files."""

import csv

import keras
import numpy as np
import pytest

from keras_attention.training import logs

X = np.random.default_rng(0).normal(0, 1, (40, 4)).astype("float32")
Y = np.arange(40) % 3
BATCH = 16  # 3 steps per epoch
TIMES = (logs.SECONDS, logs.THROUGHPUT)


def model(**arguments):
    """The same weights at every call; its rate halves with every step."""
    x = keras.Input((4,))
    kernel = keras.initializers.GlorotUniform(seed=1)
    net = keras.Model(x, keras.layers.Dense(3, kernel_initializer=kernel)(x))
    rate = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    net.compile(
        keras.optimizers.SGD(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # Tracing would take a hundred times as long as these steps.
        **{"run_eagerly": True} | arguments,
    )
    return net


def fit(net, path, first, epochs, *more, **arguments):
    options = {"validation_data": (X[:20], Y[:20]), "batch_size": BATCH} | arguments
    return net.fit(
        *(X, Y),
        initial_epoch=first,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[logs.CSVLog(path, BATCH), *more],
        **options,
    ).history


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_times(path):
    rows = table(path)
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def test_columns_and_digits(tmp_path):
    path = tmp_path / "new" / "log.csv"
    history = fit(model(), path, 0, 3)
    rows = table(path)
    assert list(rows[0]) == [
        *("epoch", "accuracy", "loss", "val_accuracy", "val_loss"),
        *("learning_rate", "seconds", "images_per_second"),
    ]
    for number, row in enumerate(rows):
        assert row["epoch"] == str(number)
        for name, values in history.items():
            assert float(row[name]) == values[number]  # every digit
        # That of the next step, after 3 steps per epoch: exact powers of two.
        assert float(row["learning_rate"]) == 0.5 ** (3 * (number + 1) + 1)
    assert len(rows) == 3
    assert [entry.name for entry in path.parent.iterdir()] == ["log.csv"]
    found = logs.read(path)
    assert list(found) == list(rows[0])
    assert found["loss"] == history["loss"]
    assert found["epoch"] == [0, 1, 2]


def test_resumed_is_uninterrupted(tmp_path):
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    fit(model(), whole, 0, 4)
    net = model()
    fit(net, parts, 0, 2)
    variables = [*net.variables, *net.optimizer.variables]
    saved = [keras.ops.convert_to_numpy(variable) for variable in variables]
    fit(net, parts, 2, 3)  # has written its row, and is killed before the checkpoint
    assert len(table(parts)) == 3
    net = model()
    fit(net, tmp_path / "other.csv", 0, 1)  # makes the optimizer's variables
    variables = [*net.variables, *net.optimizer.variables]
    for variable, value in zip(variables, saved, strict=True):
        variable.assign(value)
    before = parts.read_text().splitlines()
    fit(net, parts, 2, 4)
    assert without_times(parts) == without_times(whole)
    assert len(table(parts)) == 4
    # What was there is the same text, times included.
    assert parts.read_text().splitlines()[:3] == before[:3]
    fit(net, parts, 0, 1)
    assert [row["epoch"] for row in table(parts)] == ["0"]


def test_columns_that_come_later(tmp_path):
    path = tmp_path / "log.csv"
    history = fit(model(), path, 0, 3, validation_freq=2)
    rows = table(path)
    assert [row["val_loss"] == "" for row in rows] == [True, False, True]
    assert float(rows[1]["val_loss"]) == history["val_loss"][0]
    np.testing.assert_array_equal(
        logs.read(path)["val_loss"], [np.nan, history["val_loss"][0], np.nan]
    )
    # A resumed run without validation leaves the column where it is.
    fit(model(), path, 2, 3, validation_data=None)
    assert [row["val_loss"] != "" for row in table(path)] == [False, True, False]


class Clock(keras.callbacks.Callback):
    """A clock that goes on by 2 s with each step, and by 10 s with each validation."""

    now = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.now += 2

    def on_test_end(self, logs=None):
        self.now += 10


@pytest.mark.parametrize(
    ("arguments", "seconds", "images"),
    [
        ({}, 16, 3 * BATCH / 6),
        ({"validation_data": None}, 6, 3 * BATCH / 6),
        # Two steps at once, then the last one.
        ({"steps_per_execution": 2}, 14, 3 * BATCH / 4),
    ],
)
def test_times(tmp_path, monkeypatch, arguments, seconds, images):
    at_once = arguments.pop("steps_per_execution", 1)
    clock, net = Clock(), model(steps_per_execution=at_once, run_eagerly=at_once == 1)
    monkeypatch.setattr(logs.time, "perf_counter", lambda: clock.now)
    fit(net, tmp_path / "log.csv", 0, 2, clock, **arguments)
    found = logs.read(tmp_path / "log.csv")
    assert found["seconds"] == [seconds] * 2
    assert found["images_per_second"] == [images] * 2


def test_without_batch_size(tmp_path):
    path = tmp_path / "log.csv"
    model().fit(X, Y, verbose=0, callbacks=[logs.CSVLog(str(path))])
    assert list(table(path)[0])[-2:] == ["learning_rate", "seconds"]


@pytest.mark.parametrize(
    "text",
    [
        "time,loss\n1,2\n",
        "epoch,loss\n0,small\n",
        "epoch,loss\n0,1,2\n",
        "epoch,loss\n0.5,1\n",
        "dear diary\n",
    ],
)
def test_another_file_is_not_overwritten(tmp_path, text):
    path = tmp_path / "log.csv"
    path.write_text(text)
    for use in (lambda: fit(model(), path, 0, 1), lambda: logs.read(path)):
        with pytest.raises(ValueError, match=r"log\.csv is no table of epochs that"):
            use()
    assert path.read_text() == text


def test_an_empty_file_is_filled(tmp_path):
    path = tmp_path / "log.csv"
    path.touch()
    assert logs.read(path) == {}
    fit(model(), path, 0, 1)
    assert len(table(path)) == 1
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        logs.read(tmp_path / "none.csv")


def events(folder):
    """Values by tag and step, as TensorBoard reads them."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    accumulator = event_accumulator.EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: {
            event.step: float(tensor_util.make_ndarray(event.tensor_proto))
            for event in accumulator.Tensors(tag)
        }
        for tag in accumulator.Tags()["tensors"]
    }


def test_tensorboard_over_two_runs(tmp_path):
    folder, net = tmp_path / "events", model()
    path = tmp_path / "log.csv"
    for first, epochs in ((0, 2), (2, 3)):
        fit(net, path, first, epochs, logs.tensorboard(folder))
    train, test = events(folder / "train"), events(folder / "validation")
    rows = logs.read(path)
    # The files hold float32.
    for found, tag, column in (
        (train, "epoch_loss", "loss"),
        (train, "epoch_accuracy", "accuracy"),
        (train, "epoch_learning_rate", "learning_rate"),
        (test, "epoch_loss", "val_loss"),
        (test, "epoch_accuracy", "val_accuracy"),
    ):
        assert found[tag] == dict(enumerate(np.float32(rows[column]).tolist()))
    # By the optimizer's step, which a checkpoint brings back.
    assert list(test["evaluation_loss_vs_iterations"]) == [3, 6, 9]
    assert {p.name for p in folder.iterdir()} == {"train", "validation"}
    assert set(train) == {"epoch_loss", "epoch_accuracy", "epoch_learning_rate"}

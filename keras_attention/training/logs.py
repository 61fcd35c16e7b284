"""What a run writes while it goes on: a table of its epochs, TensorBoard's files."""

import csv
import os
import pathlib
import time
from typing import Any

import keras

from keras_attention import files

# Behind the metrics of `fit`; `seconds` and `images_per_second` differ from run to run.
EPOCH, RATE, SECONDS, THROUGHPUT = (
    "epoch",
    "learning_rate",
    "seconds",
    "images_per_second",
)

# In a folder of logs: the table of epochs, and what TensorBoard's callback makes.
TABLE = "epochs.csv"
NAMES = (TABLE, "train", "validation")


class CSVLog(keras.callbacks.Callback):
    """Writes a row per epoch to a .csv file, which a resumed run continues.

    When the first epoch begins, rows of this epoch and of later ones are dropped: a run
    that was killed between a row and its checkpoint leaves no row twice. So the file of
    a resumed run is that of an uninterrupted one, but for the times. Stand it in front
    of the callback that saves checkpoints, or a run that is killed between the two
    lacks a row.

    (keras.callbacks.CSVLogger appends whatever is there, under the header of the first
    run, and leaves out columns that come later, as with `validation_freq`.)

    Columns: "epoch", from 0; what `fit` reports, sorted by name; "learning_rate", that
    of the next step; "seconds", of the epoch with its validation; "images_per_second",
    of the training without it. Of an epoch that was resumed in its middle the last two
    are about the rest. Numbers are written with all their digits. The file is replaced
    as a whole, so that nobody reads half of it.

    Args:
        path: The .csv file.
        batch_size: Images per step, all replicas together; None: the last column is
            left out.

    Raises:
        ValueError: When training begins, if the file is there and no such table.
    """

    def __init__(self, path: str | os.PathLike, batch_size: int | None = None):
        super().__init__()
        self._path = pathlib.Path(path)
        self._batch_size = batch_size
        self._rows, self._resumed = [], False
        self._begin = self._trained = self._steps = None

    def on_train_begin(self, logs=None):
        """Read what is there; which rows stay shows when the first epoch begins."""
        self._rows = _rows(self._path) if self._path.exists() else []
        self._resumed = False

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        if not self._resumed:
            self._rows = [row for row in self._rows if int(row[EPOCH]) < epoch]
            self._resumed = True
        self._steps = self._trained = None
        self._begin = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        """Count steps, where Keras need not wait for results, unlike at their end."""
        first = batch if self._steps is None else self._steps.start
        stop = batch + self.model.steps_per_execution
        self._steps = range(first, min(stop, self.params["steps"] or stop))

    def on_test_begin(self, logs=None):
        """Stop the clock of the training."""
        if self._trained is None and self._steps is not None:
            self._trained = time.perf_counter() - self._begin

    def on_epoch_end(self, epoch, logs=None):
        """Write the row."""
        seconds = time.perf_counter() - self._begin
        row = {EPOCH: epoch, **{name: logs[name] for name in sorted(logs)}}
        row[RATE] = _learning_rate(self.model)
        row[SECONDS] = seconds
        if self._batch_size is not None:
            images = len(self._steps) * self._batch_size
            row[THROUGHPUT] = images / (self._trained or seconds)
        self._rows.append(row)
        _write(self._path, self._rows)


def read(path: str | os.PathLike) -> dict[str, list[float]]:
    """Read what `CSVLog` wrote.

    Args:
        path: The .csv file.

    Returns:
        One list per column, with one number per row; nan where the row has none.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is no such table.
    """
    rows = _rows(pathlib.Path(path))
    return {
        name: [float(row[name] or "nan") for row in rows]
        for name in (rows[0] if rows else ())
    }


def tensorboard(folder: str | os.PathLike) -> keras.callbacks.TensorBoard:
    """TensorBoard's callback: metrics and learning rate of every epoch, nothing else.

    No graph, no profile and no histograms, which cost time and megabytes. The step of
    every value is the epoch, or for "evaluation_..._vs_iterations" the optimizer's
    step: a resumed run goes on where the first one was. An epoch that both of them
    trained stands there twice.

    Args:
        folder: Where train/ and validation/ are written.

    Returns:
        The callback. Writing takes TensorFlow on every backend.
    """
    return keras.callbacks.TensorBoard(
        os.fspath(folder),
        histogram_freq=0,
        write_graph=False,
        update_freq="epoch",
        profile_batch=0,
    )


def _learning_rate(model: keras.Model) -> float:
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, restval="")
        titled = (reader.fieldnames or [EPOCH])[0] == EPOCH
        rows = list(reader)
    if not titled or not all(map(_is_epoch, rows)):
        raise ValueError(
            f"{path} is no table of epochs that CSVLog wrote: move it, or choose "
            "another name"
        )
    return rows


def _is_epoch(row: dict[str | None, Any]) -> bool:
    try:
        # More fields than columns stand as a list under None.
        _ = [float(text or "nan") for text in row.values()]
    except (TypeError, ValueError):
        return False
    return row[EPOCH].isdecimal()


def _write(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    # Columns that a later row brings, as with `validation_freq`, stand at their place.
    names = {name for row in rows for name in row}
    last = [name for name in (RATE, SECONDS, THROUGHPUT) if name in names]
    columns = [EPOCH, *sorted(names - {EPOCH, *last}), *last]
    with (
        files.replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)

"""Checkpoints: everything that training needs to go on as if it had not stopped.

A checkpoint holds the value of every variable of the model (seed generators' states
among them), of its optimizer (with the weights' moving averages) and of its metrics;
the position in the data; the recipe; the history of the epochs so far. Restored into a
model that was built alike, on the same data, the steps that follow are bitwise those of
a training that was never stopped, on one device.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from keras_attention.training import checkpoint_files, checkpoint_state
from keras_attention.training.recipe_rules import flat

_FILE_NAME = re.compile(r"epoch(\d+)-step(\d+)" + re.escape(checkpoint_files.SUFFIX))
_GONE = "nothing"


@dataclasses.dataclass(frozen=True, order=True)
class Position:
    """Where training is: the batch that comes next.

    Attributes:
        epoch: Number of the epoch, from 0.
        step: Number of the batch in the epoch, from 0.
    """

    epoch: int = 0
    step: int = 0


class NonFiniteStateError(ValueError):
    """A weight or a metric is NaN or infinite: the state is not worth keeping.

    Attributes:
        position: The batch that comes next.
    """

    def __init__(self, message: str, position: Position):
        super().__init__(message)
        self.position = position


class Checkpoints:
    """The checkpoints of one training run, in one folder.

    The newest `keep` files and the best one stay. With several workers all of them
    call `save` (reading a variable may need them all) and only the chief, the one with
    `write=True`, touches the folder; all of them restore from it.

    Args:
        folder: Where the files are; made by the first `save`.
        keep: How many of the newest to keep.
        mode: "max" or "min": which value is the best.
        write: Whether `save` and `clear` change the folder.

    Raises:
        ValueError: If `keep` is no positive integer or `mode` is unknown.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        keep: int = 3,
        *,
        mode: str = "max",
        write: bool = True,
    ):
        if int(keep) != keep or keep < 1:
            raise ValueError(f"keep must be a positive integer, got {keep!r}")
        if mode not in ("max", "min"):
            raise ValueError(f'mode must be "max" or "min", got {mode!r}')
        self.folder = pathlib.Path(folder)
        self.keep = int(keep)
        self.mode = mode
        self.write = write
        self.history: dict[str, list[float]] = {}
        self._metrics: list[np.ndarray] | None = None
        self._known: dict[tuple[pathlib.Path, int], float | None] = {}
        # What is on the disk belongs to the run that this object goes on with.
        self._joined = False

    @property
    def paths(self) -> list[pathlib.Path]:
        """The checkpoint files, oldest position first."""
        return [path for _, path in self._positions()]

    @property
    def best(self) -> pathlib.Path | None:
        """The checkpoint with the best value; of equal ones the first; None: none has.

        It is found in the files themselves, so that a restarted process knows it.
        """
        values = self._values()
        sign = 1 if self.mode == "max" else -1
        return max(values, key=lambda path: sign * values[path], default=None)

    def save(
        self,
        model: keras.Model,
        position: Position,
        recipe: Any = None,
        *,
        value: float | None = None,
        history: Mapping[str, list[float]] | None = None,
    ) -> pathlib.Path | None:
        """Write a checkpoint, then remove those that are not to be kept.

        Args:
            model: Compiled, its variables built.
            position: The batch that comes next.
            recipe: What is compared on `restore`: a dataclass, or what JSON can hold.
            value: What decides which checkpoint is the best; NaN is never it.
            history: One list per logged value, an entry per epoch.

        Returns:
            The file; None where `write` is off.

        Raises:
            NonFiniteStateError: If a trainable weight or a metric is not finite.
            OSError: If the disk is full or can't be written to; the checkpoints that
                were there are intact.
            ValueError: If the folder holds checkpoints of a run that was not restored.
        """
        if self.write and self.paths and not self._joined:
            raise ValueError(
                f"{self.folder} holds checkpoints of another run: restore them, clear "
                "them, or use another folder"
            )
        arrays = checkpoint_state.read(model)
        if (bad := checkpoint_state.first_non_finite(model, arrays)) is not None:
            raise NonFiniteStateError(
                f"no checkpoint is made: {bad.path} is not finite", position
            )
        if not self.write:
            return None

        path = self.folder / (
            f"epoch{position.epoch:05d}-step{position.step:07d}"
            f"{checkpoint_files.SUFFIX}"
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint_files.remove_partial(self.folder)
        checkpoint_files.write(
            path,
            arrays,
            {
                "position": dataclasses.asdict(position),
                "value": None if value is None else float(value),
                "recipe": _plain(recipe),
                "history": dict(history or {}),
            },
        )
        self._known[path, path.stat().st_mtime_ns] = _comparable(value)
        self._joined = True
        self._rotate(position)
        return path

    def restore(
        self,
        model: keras.Model,
        recipe: Any = None,
        *,
        may_differ: Collection[str] = (),
    ) -> Position | None:
        """Put the newest good checkpoint into a model.

        A damaged file is passed over with a warning for the one before.

        More epochs are another recipe, too: a cosine schedule reaches every rate at
        another step. `may_differ=("epochs",)` allows them; the result is not that of a
        run that had them from the start.

        Args:
            model: Compiled, and built as the saved one was.
            recipe: Compared with the saved one if it is not None.
            may_differ: Dotted names of the recipe's entries that are not compared;
                "augment" stands for all of "augment.*".

        Returns:
            The batch that comes next; None if the folder has no checkpoint.

        Raises:
            ValueError: If there are checkpoints and none is good, or if the recipe or
                a variable's name, shape or dtype differs. The model is then unchanged.
        """
        damaged: list[str] = []
        for position, path in reversed(self._positions()):
            try:
                arrays, metadata = checkpoint_files.read(path)
            except (checkpoint_files.DamagedFileError, OSError) as error:
                damaged.append(str(error))
                continue
            for reason in damaged:
                warnings.warn(f"{reason}; going on from {path.name}", stacklevel=2)
            if recipe is not None:
                _require_same_recipe(metadata["recipe"], recipe, may_differ, path)
            try:
                self._metrics = checkpoint_state.assign(model, arrays)
            except ValueError as error:
                raise ValueError(f"{path} is of another model: {error}") from error
            self.history = metadata["history"]
            self._joined = True
            return position
        if damaged:
            raise ValueError("no checkpoint is good: " + "; ".join(damaged))
        self._joined = True
        return None

    def restore_metrics(self, model: keras.Model) -> None:
        """Put the metrics of the checkpoint last restored into a model.

        Keras resets the metrics when an epoch begins, so for an epoch that was broken
        off this comes after that: the epoch's logs are then of all its batches.

        Args:
            model: The model that was restored, its metrics built.

        Raises:
            ValueError: If nothing was restored, or the metrics are not the saved ones.
        """
        variables = model.metrics_variables
        saved = self._metrics
        if saved is None or [a.shape for a in saved] != [v.shape for v in variables]:
            raise ValueError(
                "the model's metrics are not those of the checkpoint: restore it, and "
                "build the metrics (model.compute_metrics) before fit"
            )
        for variable, array in zip(variables, saved, strict=True):
            variable.assign(array)

    def clear(self) -> None:
        """Remove all checkpoints, to start anew in the same folder."""
        if self.write:
            for path in self.paths:
                path.unlink()
        self._joined = True

    def _positions(self) -> list[tuple[Position, pathlib.Path]]:
        found = []
        for path in self.folder.glob(f"*{checkpoint_files.SUFFIX}"):
            if match := _FILE_NAME.fullmatch(path.name):
                found.append((Position(*map(int, match.groups())), path))
        return sorted(found)

    def _values(self) -> dict[pathlib.Path, float]:
        values = {path: self._value(path) for path in self.paths}
        return {path: value for path, value in values.items() if value is not None}

    def _value(self, path: pathlib.Path) -> float | None:
        key = path, path.stat().st_mtime_ns
        if key not in self._known:
            try:
                value = checkpoint_files.read(path)[1]["value"]
            except checkpoint_files.DamagedFileError:
                value = None  # `restore` warns of it
            self._known[key] = _comparable(value)
        return self._known[key]

    def _rotate(self, saved: Position) -> None:
        # Files ahead of the one just saved were damaged when training went on from an
        # earlier one.
        known = self._positions()
        past = [path for position, path in known if position <= saved]
        kept = {self.best, *past[-self.keep :]}
        for _, path in known:
            if path not in kept:
                path.unlink(missing_ok=True)


def _comparable(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _require_same_recipe(saved, recipe, may_differ, path) -> None:
    then, now = (
        flat(value) if isinstance(value, dict) and value else {"recipe": value}
        for value in map(_plain, (saved, recipe))
    )
    differences = [
        f"{name} was {then.get(name, _GONE)!r} and is {now.get(name, _GONE)!r}"
        for name in sorted({*then, *now})
        if then.get(name, _GONE) != now.get(name, _GONE)
        and not any(name == free or name.startswith(f"{free}.") for free in may_differ)
    ]
    if differences:
        raise ValueError(
            f"{path} was made with another recipe: {'; '.join(differences)}. Use "
            "another folder, or the recipe as it was"
        )


def _plain(recipe: Any) -> Any:
    """The recipe as JSON gives it back."""
    if dataclasses.is_dataclass(recipe):
        recipe = dataclasses.asdict(recipe)
    return json.loads(json.dumps(recipe))

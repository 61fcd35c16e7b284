"""Checkpoints from inside `model.fit`."""

from typing import Any

import keras

from keras_attention.training.checkpoints import Checkpoints, Position


class CheckpointCallback(keras.callbacks.Callback):
    """Saves a checkpoint after every epoch, behind its validation, and inside epochs.

    It restores nothing: `Checkpoints.restore` does, before `fit`, and what it returns
    is `start` here. If that is inside an epoch, the first epoch of `fit` is made of the
    batches that are left, and its logs are nevertheless those of the whole epoch.
    `resuming.fit` does all of this.

    Args:
        checkpoints: Where to save.
        recipe: Stored in each checkpoint, see `Checkpoints.restore`.
        every_steps: Also save when this many steps of an epoch are done, twice this
            many, and so on.
        monitor: Name of the logged value that decides which checkpoint is the best.
        start: The first batch of this `fit`.

    Attributes:
        history: One list per logged value, an entry for every epoch of the run, those
            before a restart included.

    Raises:
        ValueError: If `every_steps` is no positive integer, or a loss would be best
            when largest.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        recipe: Any = None,
        every_steps: int | None = None,
        monitor: str = "val_accuracy",
        start: Position = Position(),  # noqa: B008 - frozen
    ):
        super().__init__()
        if every_steps is not None and (
            int(every_steps) != every_steps or every_steps < 1
        ):
            raise ValueError(
                f"every_steps must be a positive integer or None, got {every_steps!r}"
            )
        if "loss" in monitor and checkpoints.mode == "max":
            raise ValueError(f'the best {monitor} is the smallest: use mode="min"')
        self.checkpoints = checkpoints
        self.recipe = recipe
        self.every_steps = every_steps
        self.monitor = monitor
        self.start = start
        self.history = {name: list(log) for name, log in checkpoints.history.items()}
        self._begun = self._saved = start

    def on_epoch_begin(self, epoch, logs=None):
        """Give the metrics of an epoch that was broken off back."""
        first = epoch == self.start.epoch
        self._begun = self._saved = Position(epoch, self.start.step if first else 0)
        if self._begun.step:
            self.checkpoints.restore_metrics(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        """Save if `every_steps` are done since the last time."""
        # At a batch's end Keras would first fetch the loss from the device, each step.
        position = Position(self._begun.epoch, self._begun.step + batch)
        every = self.every_steps
        if every and position.step // every > self._saved.step // every:
            self._save(position)
            self._saved = position

    def on_epoch_end(self, epoch, logs=None):
        """Save, with the epoch's value of `monitor`."""
        logs = logs or {}
        validated = any(name.startswith("val_") for name in logs)
        if self.monitor not in logs and (
            validated or not self.monitor.startswith("val_")
        ):
            raise ValueError(
                f"monitor is {self.monitor!r}; logged are {', '.join(sorted(logs))}"
            )
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self._save(Position(epoch + 1), logs.get(self.monitor))

    def _save(self, position, value=None):
        self.checkpoints.save(
            self.model, position, self.recipe, value=value, history=self.history
        )

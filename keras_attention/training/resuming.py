"""`fit` that goes on where a killed one was, and knows where a NaN comes from."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_attention.training import ema, non_finite
from keras_attention.training.checkpoint_callback import CheckpointCallback
from keras_attention.training.checkpoints import (
    Checkpoints,
    NonFiniteStateError,
    Position,
)


def fit(
    model: keras.Model,
    dataset: Callable[[Position], Any],
    *,
    checkpoints: Checkpoints,
    epochs: int,
    steps_per_epoch: int,
    start: Position | None = None,
    recipe: Any = None,
    every_steps: int | None = None,
    monitor: str = "val_accuracy",
    validation_data: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    batches: Callable[[Position], Iterable] | None = None,
    **arguments: Any,
) -> dict[str, list[float]]:
    """Train from a position on, with checkpoints, as `model.fit` does.

    Weights and logs are bitwise those of a training that was never stopped, if
    `dataset` depends on the position alone and the device computes reproducibly. Only
    on several replicas may the log of an epoch that was broken off differ in the last
    digit: its metrics' sums were brought together in between. With an optimizer that
    averages the weights, the averages are validated, and are in the model at the end.

    A start inside an epoch makes two calls of `model.fit`: the rest of that epoch, and
    the others. Callbacks see a training that ends and begins again in between.

    Args:
        model: Compiled, and restored if `start` is given.
        dataset: Gives what `model.fit` takes, from a position on and endless, across
            the epochs' ends: `ImageData.epochs`, through a training engine.
        checkpoints: Where to save.
        epochs: Number of the last epoch, those before `start` included.
        steps_per_epoch: Batches in an epoch.
        start: What `checkpoints.restore(model, recipe)` returned.
        recipe: Stored with each checkpoint.
        every_steps: See `CheckpointCallback`.
        monitor: See `CheckpointCallback`.
        validation_data: Pairs (images, labels), as `model.fit` takes them.
        callbacks: More callbacks; they come before the one that saves.
        batches: Gives plain pairs (images, labels) from a position on, to look at when
            the loss is not finite; `dataset` if that gives them.
        **arguments: More arguments of `model.fit`.

    Returns:
        Lists with one value per epoch of the whole run, those before `start` included.

    Raises:
        NonFiniteLoss: If a loss is NaN or infinite: names the step and the layer. The
            model is then back at the last checkpoint.
        OSError: If a checkpoint can't be written.
        ValueError: If the folder holds checkpoints of another run.
    """
    start = start or Position()
    build_metrics(model, dataset(start))
    if start == Position():
        # A failure in the first epoch has a state to begin from, too.
        checkpoints.save(model, start, recipe)

    def run(begin: Position, last: int, steps: int, more: Sequence = ()) -> None:
        saving = CheckpointCallback(checkpoints, recipe, every_steps, monitor, begin)
        saving.history = history
        averages = [ema.EvaluateAverages()] if ema.has_averages(model) else []
        model.fit(
            dataset(begin),
            initial_epoch=begin.epoch,
            epochs=last,
            steps_per_epoch=steps,
            validation_data=validation_data,
            callbacks=[
                # First: a validation that failed leaves the averages in, to look at.
                non_finite.StopAtNonFinite(begin),
                *averages,
                *callbacks,
                saving,
                *more,
            ],
            shuffle=False,
            **arguments,
        )

    history = {name: list(log) for name, log in checkpoints.history.items()}
    try:
        if start.step:
            more = [ema.KeepRawWeights()] if ema.has_averages(model) else []
            run(start, start.epoch + 1, steps_per_epoch - start.step, more)
            start = Position(start.epoch + 1)
            if model.stop_training:
                epochs = start.epoch  # nothing is left but to put the averages in
        run(start, epochs, steps_per_epoch)
    except (non_finite.NonFiniteLoss, NonFiniteStateError) as failure:
        raise non_finite.locate(
            model,
            failure,
            checkpoints=checkpoints,
            dataset=dataset,
            batches=batches,
            steps_per_epoch=steps_per_epoch,
            validation_data=validation_data,
        ) from failure
    ema.detach(model)
    return history


def build_metrics(model: keras.Model, dataset: Any) -> None:
    """Make the variables that Keras would make in the first step.

    They are what a checkpoint's values go to; and TensorFlow would trace the step a
    second time because of them. On JAX, and with several replicas, `fit` makes them.
    """
    if (
        keras.backend.backend() != "tensorflow"
        or model.distribute_strategy.num_replicas_in_sync > 1
    ):
        return
    spec = dataset.element_spec[1]
    answer = np.zeros([side or 1 for side in spec.shape], spec.dtype.as_numpy_dtype)
    guess = np.zeros((len(answer), *model.outputs[0].shape[1:]), "float32")
    with model.distribute_strategy.scope():
        model.compute_metrics(None, answer, guess)
    model.reset_metrics()

"""What to do when the loss is NaN or infinite: stop, and find out where it began.

While all is well this costs nothing but a look at the loss. When it happened, the last
good checkpoint is restored, the batches up to the step in question are trained on
again, and the layers' outputs of that one step are looked at one by one.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_attention.training.checkpoints import (
    Checkpoints,
    NonFiniteStateError,
    Position,
)

Batches = Callable[[Position], Iterable]


class NonFiniteLoss(ValueError):  # noqa: N818 - what happened, and its name in reports
    """Training or validation arrived at a loss that is NaN or infinite.

    Attributes:
        position: Epoch and step of the batch, from 0; of a validation: the epoch that
            comes next.
        validation: Whether it was found in a validation.
        layer: Path of the layer whose output was the first that is not finite, or of
            which a weight is not; None if it is not known, or if it was no layer.
        cause: What was not finite, in words; "" if it is not known.
    """

    def __init__(
        self,
        position: Position,
        *,
        validation: bool = False,
        layer: str | None = None,
        cause: str = "",
        kept: str = "",
    ):
        self.position = position
        self.validation = validation
        self.layer = layer
        self.cause = cause
        place = f"in step {position.step + 1} of epoch {position.epoch + 1}"
        if validation:
            place = f"in the validation after epoch {position.epoch}"
        began = f": it began with {cause}" if cause else ""
        kept = f". The model is back at {kept}" if kept else ""
        super().__init__(f"the loss is not finite {place}{began}{kept}")


class StopAtNonFinite(keras.callbacks.Callback):
    """Ends `fit` with `NonFiniteLoss` when a loss is NaN or infinite.

    The exception goes past the other callbacks, so that nothing is validated, saved or
    logged behind the failure. `locate` then finds the layer.

    Keras may run this beside the training steps: a few more steps can be done before
    `fit` ends. The position in the exception is nevertheless the right one.

    Args:
        start: The first batch of this `fit`, as for `CheckpointCallback`.

    Raises:
        NonFiniteLoss: From `fit`.
    """

    async_safe = True  # Keras: the loss need not be fetched before the next step starts

    def __init__(self, start: Position = Position()):  # noqa: B008 - frozen
        super().__init__()
        self.start = start
        self._begun = start
        self._failure: NonFiniteLoss | None = None

    def on_epoch_begin(self, epoch, logs=None):
        """Note where the epoch begins."""
        step = self.start.step if epoch == self.start.epoch else 0
        self._begun = Position(epoch, step)

    def on_train_batch_end(self, batch, logs=None):
        """Look at the loss: a mean over the epoch, which one NaN makes a NaN."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            begun = self._begun
            position = Position(begun.epoch, begun.step + int(batch))
            if self._failure is None or position < self._failure.position:
                self._failure = NonFiniteLoss(position)
            raise self._failure

    def on_test_begin(self, logs=None):
        """Validate nothing when the epoch's last steps have failed."""
        if self._failure is not None:
            raise self._failure

    def on_test_end(self, logs=None):
        """Look at what the validation found."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise NonFiniteLoss(Position(self._begun.epoch + 1), validation=True)


def locate(
    model: keras.Model,
    failure: NonFiniteLoss | NonFiniteStateError,
    *,
    checkpoints: Checkpoints,
    dataset: Batches,
    steps_per_epoch: int,
    batches: Batches | None = None,
    validation_data: Iterable | None = None,
) -> NonFiniteLoss:
    """Find the step and the layer at which a loss stopped being finite.

    Args:
        model: The model that `fit` left with `failure`. Afterwards it holds the state
            of the last good checkpoint.
        failure: What `fit` raised.
        checkpoints: Hold a state from before the failure.
        dataset: Gives what `fit` takes, from a position on, endless.
        steps_per_epoch: Batches in an epoch.
        batches: Gives plain pairs (images, labels) from a position on; `dataset` if
            that does.
        validation_data: Pairs (images, labels); needed for a failed validation.

    Returns:
        The exception to raise, with everything that was found out.

    Raises:
        ValueError: If no checkpoint can be restored.
    """
    batches = batches or dataset
    if getattr(failure, "validation", False):
        # Nothing was trained since: the weights that failed are still there.
        found = _first_culprit(model, validation_data or (), training=False)
        position = failure.position
    else:
        found, position = _replay(
            model, failure.position, checkpoints, dataset, batches, steps_per_epoch
        )
    back = checkpoints.restore(model)
    layer, cause = found or (None, "")
    kept = f"the checkpoint of epoch {back.epoch}, step {back.step}" if back else ""
    return NonFiniteLoss(
        position,
        validation=getattr(failure, "validation", False),
        layer=layer,
        cause=cause or "something that did not happen again",
        kept=kept,
    )


def _replay(model, position, checkpoints, dataset, batches, steps_per_epoch):
    """Trains again up to the batch at `position`, and examines that one."""
    start = checkpoints.restore(model)
    if start is None:
        raise ValueError(f"{checkpoints.folder} has no checkpoint to begin from")
    epochs = position.epoch - start.epoch
    steps = epochs * steps_per_epoch + position.step - start.step

    def examine():
        return _first_culprit(model, [next(iter(batches(position)))], training=True)

    if steps <= 0:
        return examine(), position
    look = _LookAfter(steps, examine)
    with _single_steps(model):
        model.fit(
            dataset(start),
            epochs=1,
            steps_per_epoch=steps,
            callbacks=[look],
            shuffle=False,
            verbose=0,
        )
    if look.failed is not None:
        epoch, step = divmod(start.step + look.failed, steps_per_epoch)
        earlier = Position(start.epoch + epoch, step)
        return _replay(model, earlier, checkpoints, dataset, batches, steps_per_epoch)
    return look.found, position


@contextlib.contextmanager
def _single_steps(model) -> Iterator[None]:
    """Let `fit` make one step at a time, so that each shows its loss."""
    together = model.steps_per_execution
    if together == 1:
        yield
        return
    model.steps_per_execution, model.train_function = 1, None
    try:
        yield
    finally:
        model.steps_per_execution, model.train_function = together, None


class _LookAfter(keras.callbacks.Callback):
    """Examines the model after so many steps, inside `fit`.

    Behind `fit` the weights' averages have taken the place of the weights.
    """

    def __init__(self, steps, examine):
        super().__init__()
        self._steps = steps
        self._examine = examine
        self.found = None
        self.failed: int | None = None

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.failed = int(batch)
            self.model.stop_training = True
        elif batch + 1 >= self._steps:
            if hasattr(self.model, "jax_state_sync"):
                self.model.jax_state_sync()
            self.found = self._examine()


def _first_culprit(model, batches, *, training) -> tuple[str | None, str] | None:
    """The first layer (or None), and in words what is not finite; None if all is."""
    for variable in model.trainable_variables:
        if not _finite(variable.value):
            owner = variable.path.rpartition("/")[0]
            return owner, f"the variable {variable.path}, in the update before"
    for batch in batches:
        x, y, *_ = (_whole(model, part) for part in batch)
        for name, values in (("input", x), ("target", y)):
            bad = [number for number, one in enumerate(values) if not _finite(one)]
            if bad:
                return None, f"the {name} batch itself, in samples {bad}"
        x, y = ops.convert_to_tensor(x), ops.convert_to_tensor(y)
        with _watching() as culprits:
            outputs = model(x, training=training)
        if culprits:
            return culprits[0], f"the output of the layer {culprits[0]}"
        if not _finite(model.compute_loss(x, y, outputs)):
            return None, "the loss itself: all layers' outputs are finite"
    return None


def _whole(model, values) -> np.ndarray:
    """A batch as one array, also if it is divided between devices."""
    strategy = getattr(model, "distribute_strategy", None)
    parts = strategy.experimental_local_results(values) if strategy else (values,)
    return np.concatenate([np.asarray(part) for part in parts])


@contextlib.contextmanager
def _watching() -> Iterator[list[str]]:
    """Collect the layers and operations with non-finite outputs, inner ones first.

    For the time being every call goes through here: no model has to be taken apart,
    and layers inside of layers are found whoever calls them.
    """
    found: list[str] = []
    original = keras.Operation.__call__

    def call(operation, *args, **kwargs):
        outputs = original(operation, *args, **kwargs)
        if not all(map(_finite, tree.flatten(outputs))):
            found.append(getattr(operation, "path", None) or operation.name)
        return outputs

    keras.Operation.__call__ = call
    try:
        yield found
    finally:
        keras.Operation.__call__ = original


def _finite(values: Any) -> bool:
    if values is None or "float" not in keras.backend.standardize_dtype(values.dtype):
        return True
    return bool(ops.all(ops.isfinite(values)))

"""Evaluation on, and saving of, the moving averages of a model's weights.

Keras' optimizers keep the averages (`use_ema=True`). They are of the trainable weights
alone: statistics of batch normalizations are moving averages already, and stay what
they are. Values are copied out and back, never added and subtracted, so that training
goes on bitwise as if nobody had looked.
"""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np


def has_averages(model: keras.Model) -> bool:
    """Whether the model's optimizer keeps moving averages of its weights."""
    optimizer = model.optimizer
    # What mixed precision in float16 wraps around the optimizer keeps none itself.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return bool(getattr(inner, "use_ema", False))


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[keras.Model]:
    """Let a model have its weights' moving averages for a while.

    Args:
        model: Compiled with an optimizer that has `use_ema=True`, and trained.

    Yields:
        The model, to evaluate or to save.

    Raises:
        ValueError: If the optimizer keeps no averages.
    """
    weights = _swap_in(model)
    try:
        yield model
    finally:
        _assign(model, weights)


def detach(model: keras.Model) -> None:
    """Give a model that has the averages values of its own.

    On JAX its variables share the averages' arrays, and whatever runs the model next
    takes the arrays over: the optimizer would be left without.

    Args:
        model: A model that `fit` has left with the averages.
    """
    if keras.backend.backend() == "jax":
        _assign(model, _copy(model))


class EvaluateAverages(keras.callbacks.Callback):
    """Lets `evaluate`, and the validation inside `fit`, see the averaged weights.

    `fit` itself leaves the averages in the model at its end; this callback takes care
    of the validations before.
    """

    def __init__(self):
        super().__init__()
        self._weights: list[np.ndarray] | None = None

    def on_test_begin(self, logs=None):
        """Put the averages in."""
        self._weights = _swap_in(self.model)

    def on_test_end(self, logs=None):
        """Put the weights back."""
        _assign(self.model, self._weights)
        self._weights = None


class KeepRawWeights(keras.callbacks.Callback):
    """Takes back what the end of `fit` does, for a training that goes on.

    Keras puts the averages into the model when `fit` ends, at any epoch.
    """

    def __init__(self):
        super().__init__()
        self._weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch, logs=None):
        """Copy the weights."""
        self._weights = _copy(self.model)

    def on_train_end(self, logs=None):
        """Put them back."""
        _assign(self.model, self._weights)


def _swap_in(model) -> list[np.ndarray]:
    if not has_averages(model):
        raise ValueError(
            f"the optimizer of {model.name} keeps no averages: it needs use_ema=True"
        )
    weights = _copy(model)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    detach(model)
    return weights


def _copy(model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.trainable_variables]


def _assign(model, weights) -> None:
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)

"""Finds the ranges of a model's tensors by running it on sample data."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

_BATCH = 32


def batches(calibration: Any, limit: int, inputs: int = 1) -> Iterator[Any]:
    """Yields at most `limit` batches of inputs, as numpy arrays.

    Args:
        calibration: an array (samples, ...), a list or dictionary of arrays for
            several inputs, or an iterable of batches x or (x, y): a `tf.data.Dataset`,
            a `keras.utils.PyDataset`, a list of tuples.
        limit: number of batches.
        inputs: number of inputs that the model has.

    Raises:
        ValueError: there is no data, or some of it is not finite.
    """
    if limit < 1:
        raise ValueError(
            f"calibration_batches must be a positive number. Received: {limit}"
        )
    index = -1
    found = _all_batches(calibration, inputs)
    for index, batch in zip(range(limit), found, strict=False):
        batch = tree.map_structure(ops.convert_to_numpy, batch)
        for array in tree.flatten(batch):
            if not len(array):
                raise ValueError(f"Calibration batch {index} is empty.")
            if not np.isfinite(array).all():
                raise ValueError(
                    f"Calibration batch {index} holds values that are not finite "
                    "(NaN or infinity): clean the data first."
                )
        yield batch
    if index < 0:
        raise ValueError("The calibration data is empty: give at least one batch.")


def _all_batches(calibration, inputs):
    if isinstance(calibration, tuple):
        raise ValueError(
            "calibration is a tuple, which may mean (x, y) or two inputs: pass x "
            "alone, or a list or dictionary of arrays for several inputs."
        )
    arrays = calibration
    if isinstance(calibration, dict):
        arrays = list(calibration.values())
    elif hasattr(calibration, "shape"):
        arrays = [calibration]
    if not isinstance(arrays, list) or not all(hasattr(a, "shape") for a in arrays):
        for batch in calibration:
            yield keras.utils.unpack_x_y_sample_weight(batch)[0]
        return
    if len(arrays) not in (0, inputs):
        raise ValueError(
            f"calibration holds {len(arrays)} arrays, the model has {inputs} input(s). "
            "For batches of one input pass an iterator, a dataset or tuples (x, y)."
        )
    for start in range(0, len(arrays[0]) if arrays else 0, _BATCH):
        part = slice(start, start + _BATCH)
        yield tree.map_structure(operator.itemgetter(part), calibration)


def extremes(
    model: keras.Model, tensors: Sequence[keras.KerasTensor], data: Iterator[Any]
) -> list[tuple[float, float]]:
    """Returns the smallest and largest value of each tensor over all batches.

    Args:
        model: functional model.
        tensors: symbolic tensors of the model.
        data: batches of inputs.
    """
    import tensorflow as tf

    # No operations of Keras in the watcher: their names could be those of the model's.
    watcher = keras.Model(model.input, list(tensors))

    @tf.function(reduce_retracing=True)
    def run(x):
        found = tree.flatten(watcher(x, training=False))
        return ops.stack([ops.stack([ops.min(t), ops.max(t)]) for t in found])

    seen = [ops.convert_to_numpy(run(batch)) for batch in data]
    lows, highs = np.min(seen, axis=0)[:, 0], np.max(seen, axis=0)[:, 1]
    return list(zip(lows.tolist(), highs.tolist(), strict=True))

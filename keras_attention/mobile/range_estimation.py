"""How a tensor's range follows from its values on calibration data.

Nagel et al. 2021, arXiv 2106.08295, section 3.1: [min, max] loses nothing at the ends;
a percentile or the smallest squared error give up rare values for smaller steps.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

BINS = 2048
# Shares of [min, max] that are tried for the smallest squared error.
_SHARES = np.linspace(0.2, 1.0, 81)


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How often a tensor had which values.

    Attributes:
        low: its smallest value.
        high: its largest.
        counts: numbers of values in equal parts of [low, high], (BINS,).
    """

    low: float
    high: float
    counts: np.ndarray


Estimator = Callable[[Histogram, int], tuple[float, float]]


def estimator(chosen: str | tuple[str, float]) -> Estimator | None:
    """Returns a function (histogram, bits) -> (low, high), None for [min, max].

    Args:
        chosen: "min_max"; "mse": the range that rounds with the smallest squared error;
            ("percentile", p): that of all values but (100 - p) % at each end, which
            exist; "percentile" means p = 99.99.

    Raises:
        ValueError: it is none of these.
    """
    name, *arguments = chosen if isinstance(chosen, tuple) else (chosen,)
    if name == "percentile":
        (percent,) = arguments or (99.99,)
        if isinstance(percent, int | float) and 50 < percent <= 100:
            return functools.partial(_percentile, percent)
    elif name in ("min_max", "mse") and not arguments:
        return _least_squares if name == "mse" else None
    raise ValueError(
        "range_estimator must be 'min_max', 'mse', 'percentile' or ('percentile', p) "
        f"with 50 < p <= 100. Received: {chosen!r}"
    )


def _percentile(percent, histogram, bits):
    """Returns the range without the rarest values at each end, 0 in it."""
    shares = np.cumsum(histogram.counts) / histogram.counts.sum()
    edges = np.linspace(histogram.low, histogram.high, BINS + 1)
    low = edges[np.searchsorted(shares, 1 - percent / 100, side="right")]
    high = edges[np.searchsorted(shares, percent / 100) + 1]
    return min(low, 0.0), max(high, 0.0)


def _least_squares(histogram, bits):
    """Returns the range of the smallest squared error, one end after the other."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    width = (histogram.high - histogram.low) / BINS
    values = histogram.low + width * (np.arange(BINS) + 0.5)

    def error(low, high):
        step = max(high - low, 1e-30) / (2**bits - 1)
        zero = np.round(-low / step)
        grid = np.clip(np.round(values / step), -zero, 2**bits - 1 - zero) * step
        return histogram.counts @ np.square(grid - values)

    best_low, best_high = low, high
    for _ in range(2):
        best_high = min(_SHARES * high, key=lambda end: error(best_low, end))
        best_low = min(_SHARES * low, key=lambda end: error(end, best_high))
    return float(best_low), float(best_high)


def histograms(
    model: keras.Model,
    groups: Sequence[tuple[Sequence[keras.KerasTensor], float, float]],
    data: Sequence[Any],
) -> list[Histogram]:
    """Returns a histogram of the values of each group of tensors.

    Args:
        model: functional model.
        groups: (tensors of the model, their smallest and their largest value).
        data: batches of inputs.
    """
    import tensorflow as tf

    tensors = [tensor for members, _, _ in groups for tensor in members]
    limits = [pair for members, *pair in groups for _ in members]
    # No operations of Keras in the watcher: their names could be those of the model's.
    watcher = keras.Model(model.input, tensors)

    @tf.function(reduce_retracing=True)
    def run(x):
        found = tree.flatten(watcher(x, training=False))
        pairs = zip(found, limits, strict=True)
        return tf.stack([tf.histogram_fixed_width(t, ends, BINS) for t, ends in pairs])

    counts = sum(ops.convert_to_numpy(run(batch)).astype("int64") for batch in data)
    rows, result = iter(counts), []
    for members, low, high in groups:
        result.append(Histogram(low, high, sum(next(rows) for _ in members)))
    return result

"""Learning curves: what `logs.CSVLog` wrote, as a figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_attention.html_page import BLUE, INK, ORANGE, tidy
from keras_attention.training.logs import EPOCH, RATE, SECONDS, THROUGHPUT

_COLUMNS = 3


def figure(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw every metric over the epochs, on training and test images, and the rate.

    Loss and accuracy come first, then other metrics by name, then the learning rate. A
    line goes over epochs whose value is missing or not finite.

    Args:
        history: What `logs.read` returned, or other lists with one value per epoch by
            the names that `fit` gives: "loss", "val_loss" and so on.

    Returns:
        The figure, up to three curves beside each other, for `html_page.png` or
        `html_page.drawing`.

    Raises:
        ValueError: If there is no epoch, or the lists differ in length.
    """
    lengths = {len(values) for values in history.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "learning curves take lists of one length, one value per epoch; got the "
            f"lengths {sorted(lengths)}"
        )
    metrics = {name.removeprefix("val_") for name in history}
    metrics -= {EPOCH, RATE, SECONDS, THROUGHPUT}
    order = {"loss": 0, "accuracy": 1}
    names = sorted(metrics, key=lambda name: (order.get(name, 2), name))
    names += [RATE] if RATE in history else []
    columns = min(len(names), _COLUMNS)
    rows = -(-len(names) // columns)
    drawn = Figure(figsize=(1 + 2.7 * columns, 2.7 * rows), layout="constrained")
    panels = drawn.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        _draw(axes, name, history)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[0].legend(frameon=False, fontsize=8)
    return drawn


def _draw(axes: Axes, name: str, history: Mapping[str, Sequence[float]]) -> None:
    lines = ((name, "training", ORANGE), (f"val_{name}", "test", BLUE))
    for column, label, colour in lines:
        if column not in history:
            continue
        values = np.asarray(history[column], "float64")
        epochs = 1 + np.asarray(history.get(EPOCH, range(len(values))))
        known = np.isfinite(values)
        axes.plot(
            epochs[known],
            values[known],
            color=INK if name == RATE else colour,
            label=label,
            linewidth=1.6,
            # A single epoch is no line.
            marker="." if known.sum() < 12 else None,
        )
    axes.set_title(name.replace("_", " "), fontsize=10, color=INK)
    axes.set_xlabel("epoch", fontsize=8, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)

"""Pictures of an evaluation: which classes are confused, how far confidence holds."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps, font_manager
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from keras_attention.html_page import BLUE, INK, ORANGE, tidy
from keras_attention.training.evaluation import EvaluationReport

# Up to so many classes every cell tells its count, and every class its name.
_COUNTED = 25
_NAMED = 60
_LONGEST_NAME = 24
_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


def confusion_matrix(report: EvaluationReport) -> Figure:
    """Draw which classes are taken for which.

    A row is a class, a column an answer; the shade of a cell is its share of the row's
    samples, on a scale of roots so that rare mistakes show: blue where the answer is
    right, orange where it is not. Up to 25 classes each cell has its count, up to 60
    each class its name; beyond them axes count classes, and a cell has two pixels or
    more up to 1,000 classes.

    Args:
        report: What `evaluate` returned.

    Returns:
        The figure, for `html_page.png` or its own `savefig`.
    """
    confusion = report.confusion
    classes = len(confusion)
    named = classes <= _NAMED
    names = _drawable([entry.label for entry in report.classes]) if named else []
    # 160 pixels an inch: 1,000 classes get 2,000 pixels and the margins theirs.
    side = float(np.clip(2.5 + 0.4 * classes, 5, 9 if named else 15))
    side += 0.07 * max(map(len, names), default=0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    right = np.eye(classes, dtype=bool)
    for name, hidden in (("Blues", ~right), ("Oranges", right)):
        axes.imshow(
            np.ma.masked_where(hidden | (confusion == 0), shares),
            cmap=colormaps[name],
            norm=PowerNorm(0.5 if named else 0.3, vmin=-0.02, vmax=1),
            interpolation="nearest",
        )
    if classes <= _COUNTED:
        _write_counts(axes, confusion, shares)
    _mark_classes(axes, classes, names)
    axes.set_xlabel("answer", color=INK)
    axes.set_ylabel("class", color=INK)
    title = f"{report.top1:.2%} of {report.count:,} samples right"
    axes.set_title(title, color=INK, fontsize=11)
    # Below the cells, of which it would hide those of two pixels.
    axes.spines[:].set(color="#c5ced6", zorder=-1)
    return figure


def reliability_diagram(report: EvaluationReport) -> Figure:
    """Draw how often answers are right, by the probability that the model gives them.

    Where a bar ends below the diagonal the model is surer than it is right. Below: how
    many samples each bin holds.

    Args:
        report: What `evaluate` returned.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(5, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    lows = np.array([bin.low for bin in report.bins])
    widths = np.array([bin.high for bin in report.bins]) - lows
    counts = np.array([bin.count for bin in report.bins])
    filled = [bin for bin in report.bins if bin.count]
    some = counts > 0
    accuracies = [bin.accuracy for bin in filled]
    gaps = [bin.confidence - bin.accuracy for bin in filled]
    style = {"align": "edge", "edgecolor": "white", "linewidth": 0.8}
    upper.bar(lows[some], accuracies, widths[some], color=BLUE, **style)
    upper.bar(
        *(lows[some], gaps, widths[some], accuracies),
        align="edge",
        facecolor=(ORANGE, 0.25),
        edgecolor=ORANGE,
        linewidth=0.6,
        hatch="///",
        label="from accuracy to confidence",
    )
    upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--")
    upper.set(xlim=(0, 1), ylim=(0, 1))
    upper.set_ylabel("share of right answers", color=INK)
    upper.legend(frameon=False, fontsize=9, loc="upper left")
    title = f"expected calibration error {report.calibration_error:.4f}"
    upper.set_title(title, color=INK, fontsize=11)
    lower.bar(lows, counts / report.count, widths, color="#8fa3b5", **style)
    lower.set_ylabel("samples", color=INK)
    lower.set_xlabel("probability of the answer", color=INK)
    for axes in (upper, lower):
        tidy(axes)
    return figure


def _write_counts(axes: Axes, confusion: np.ndarray, shares: np.ndarray) -> None:
    size = float(np.clip(100 / len(confusion), 5, 10))
    for row, column in np.argwhere(confusion):
        axes.text(
            column,
            row,
            str(confusion[row, column]),
            ha="center",
            va="center",
            fontsize=size,
            color="white" if shares[row, column] > 0.35 else INK,
        )


def _mark_classes(axes: Axes, classes: int, names: list[str]) -> None:
    """Give every class its name; without names, some classes their numbers."""
    upright = max(map(len, names), default=0) > 3
    ticks = range(classes)
    if not names:
        step = next(step for step in _STEPS if classes <= 20 * step)
        ticks = range(0, classes, step)
        names = [f"{number:,}" for number in ticks]
    size = float(np.clip(160 / len(ticks), 5, 9))
    # A name may hold dollars, between which matplotlib would look for formulas.
    options = {"fontsize": size, "color": INK, "parse_math": False}
    axes.set_xticks(ticks, names, rotation=90 if upright else 0, **options)
    axes.set_yticks(ticks, names, **options)
    axes.tick_params(length=2, color="#c5ced6")


def _drawable(labels: Sequence[str]) -> list[str]:
    """Names as matplotlib's own font has them, long ones cut."""
    font = FT2Font(font_manager.findfont("DejaVu Sans"))
    known = font.get_charmap()
    return [
        "".join(
            letter if ord(letter) in known else "\N{WHITE SQUARE}" for letter in cut
        )
        for cut in (
            label if len(label) <= _LONGEST_NAME else f"{label[: _LONGEST_NAME - 1]}…"
            for label in labels
        )
    ]

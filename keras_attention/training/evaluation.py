"""How good a classifier is: .keras, quantized .keras and .tflite, by one measure."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_attention import report
from keras_attention.mobile import litert

# So many of the most confused pairs are named.
PAIRS = 10
_TOP = 5


@dataclasses.dataclass(frozen=True)
class ClassFigures(report.Report):
    """How one class is recognized. Fractions go from 0 to 1.

    Attributes:
        label: Name of the class.
        count: Samples of this class.
        precision: Share of right answers among the answers that name this class; None
            if none does.
        recall: Share of this class's samples that are answered right; None if there
            are no samples.
        f1: Harmonic mean of both, 2 right / (answers + samples); None without either.
    """

    label: str
    count: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclasses.dataclass(frozen=True)
class Confusion(report.Report):
    """Two classes of which one is taken for the other.

    Attributes:
        truth: The class of the samples.
        answer: What the model takes them for.
        count: How often.
        share: Of the samples of `truth`.
    """

    truth: str
    answer: str
    count: int
    share: float


@dataclasses.dataclass(frozen=True)
class CalibrationBin(report.Report):
    """The samples whose answer's probability lies in (low, high].

    Attributes:
        low: Probability at which the bin begins, itself not in it.
        high: Probability at which it ends, itself in it.
        count: Samples in it.
        confidence: Mean probability of the answers; None if there are no samples.
        accuracy: Share of right answers, likewise.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclasses.dataclass(frozen=True)
class EvaluationReport(report.Report):
    """What `evaluate` measured. Fractions go from 0 to 1.

    An answer is the class with the largest output; of equal outputs that of the lower
    class number counts as the larger one, as in `numpy.argmax`.

    Attributes:
        model: Path of the file, or name of the model.
        count: Samples.
        top1: Share of samples whose answer is their class.
        top5: Share of samples whose class is among the five largest outputs; None with
            five classes or fewer, where it would be 1.
        loss: Mean negative logarithm of the class's probability.
        calibration_error: Expected calibration error over `bins`, Guo et al. 2017,
            equation 3.
        outputs: "logits", to which a softmax was applied, or "probabilities".
        confused: The most frequent mistakes, the most frequent one first; at most 10.
        classes: Figures of each class.
        bins: What the calibration error is made of.
        confusion: `int64`, (classes, classes): samples by class and answer.
    """

    model: str
    count: int
    top1: float
    top5: float | None
    loss: float
    calibration_error: float
    outputs: str
    confused: tuple[Confusion, ...]
    classes: tuple[ClassFigures, ...] = dataclasses.field(repr=False)
    bins: tuple[CalibrationBin, ...] = dataclasses.field(repr=False)
    confusion: np.ndarray = dataclasses.field(repr=False, compare=False)


def evaluate(
    model: keras.Model | str | os.PathLike,
    data: Any,
    *,
    bins: int = 15,
    labels: Sequence[str] | None = None,
) -> EvaluationReport:
    """Measure a classifier on labelled samples.

    The first output counts: (N, classes), logits or probabilities, at least two
    classes. It is taken for probabilities if no value of it is negative and the classes
    of every sample sum to 1, within half a step of 1/256 per class, which an integer
    softmax rounds to. Probabilities are not taken for less than 1e-7, as in Keras.

    Args:
        model: A Keras model, quantized or not; or the path of its .keras file; or that
            of a .tflite file of batch size 1, whose integers are turned into the
            numbers that they stand for. A .tflite file runs on LiteRT, one sample after
            the other, on any backend.
        data: What `keras_attention.data.load` returned, of which the test part is
            taken; or an iterable (`tf.data.Dataset`) of batches (x, class numbers), x
            as the Keras model takes it, labels of an integer dtype, (N,) or (N, 1).
        bins: Bins of the calibration error, of equal width in probability.
        labels: Class names; those of `data`, or numbers, if None.

    Returns:
        An `EvaluationReport`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the path has another suffix, the file can't be run, the output
            has another shape or is not finite, the number of classes differs from that
            of the names, the data are empty, or a label is no class number.

    Reference: Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599.
    """
    if int(bins) != bins or bins < 1:
        raise ValueError(f"bins must be a positive integer, got {bins!r}")
    name, answer = _answering(model)
    labels = getattr(data, "labels", None) if labels is None else labels
    samples = _Samples(name, labels)
    for x, y in _batches(getattr(data, "test", data)):
        samples.add(answer(x), y)
    if not samples.labels:
        raise ValueError("the data are empty: there is nothing to evaluate on")
    return samples.result(int(bins))


def _answering(model) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """What to call the model, and the function from a batch to its first output."""
    if isinstance(model, keras.Model):
        # Several outputs come in the structure in which the model has them; and under
        # MirroredStrategy those of every replica for the whole batch, one behind the
        # other.
        return (
            model.name,
            lambda x: keras.tree.flatten(model.predict_on_batch(x))[0][: len(x)],
        )
    path = pathlib.Path(model)
    if path.suffix not in (".keras", ".tflite"):
        raise ValueError(
            f"a model is a keras.Model, a .keras or a .tflite file; got {path}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".keras":
        loaded = keras.saving.load_model(path, compile=False)
        return str(path), _answering(loaded)[1]
    runner = litert.Runner(path)
    return str(path), lambda x: litert.dequantize(
        runner(np.asarray(x, "float32"))[0], runner.outputs[0]
    )


def _batches(data: Any) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    if not isinstance(data, Iterable):
        raise ValueError(
            "data must be ImageData or an iterable of batches (x, class numbers), got "
            f"{type(data).__name__}"
        )
    for element in data:
        if not isinstance(element, tuple | list) or len(element) != 2:
            raise ValueError("data must yield pairs: (x, class numbers)")
        x, y = map(np.asarray, element)
        if y.dtype.kind not in "iu" or y.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(
                f"labels must be class numbers, integers of the shape ({len(x)},); got "
                f"{y.dtype} {y.shape}"
            )
        yield x, y.reshape(len(x))


class _Samples:
    """What is kept of each sample: a few numbers, whatever the number of classes.

    Args:
        model: What to call it.
        names: Class names, or None.
    """

    def __init__(self, model: str, names: Sequence[str] | None):
        self._model, self._names = model, names
        self.labels, self._answers, self._ranks = [], [], []
        # Both readings of the output: which one is right shows when all are there.
        self._read = {"logits": [], "probabilities": []}
        self._distributions = True

    def add(self, outputs: np.ndarray, labels: np.ndarray) -> None:
        """Take in a batch: outputs (N, classes) and class numbers (N,)."""
        outputs = np.asarray(outputs, "float64")
        self._check(outputs, labels)
        rows = np.arange(len(labels))
        own = outputs[rows, labels][:, None]
        before = np.arange(outputs.shape[1]) < labels[:, None]
        self.labels.append(labels)
        self._answers.append(outputs.argmax(1))
        self._ranks.append(((outputs > own) | (outputs == own) & before).sum(1))
        self._distributions &= _are_distributions(outputs)
        floor = np.log(np.maximum(outputs, keras.config.epsilon()))
        for name, logits in (("logits", outputs), ("probabilities", floor)):
            logs = logits - logits.max(1, keepdims=True)
            logs -= np.log(np.exp(logs).sum(1, keepdims=True))
            self._read[name].append((logs[rows, labels], np.exp(logs.max(1))))

    def _check(self, outputs: np.ndarray, labels: np.ndarray) -> None:
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            raise ValueError(
                f"{self._model} must give (N, classes) with at least two classes, got "
                f"the shape {outputs.shape}"
            )
        classes = outputs.shape[1]
        if self._names is None:
            self._names = [str(number) for number in range(classes)]
        if len(self._names) != classes:
            shown = ", ".join(self._names[:12]) + ", ..." * (len(self._names) > 12)
            raise ValueError(
                f"{self._model} has {classes} outputs, the data {len(self._names)} "
                f"classes: {shown}"
            )
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
            raise ValueError(
                f"the labels go from {labels.min()} to {labels.max()}, {self._model} "
                f"has the classes 0 to {classes - 1}"
            )
        if not np.isfinite(outputs).all():
            raise ValueError(f"{self._model} gives outputs that are not finite")

    def result(self, bins: int) -> EvaluationReport:
        """Returns the figures over all samples."""
        # Importing scikit-learn takes a second.
        from sklearn import metrics

        labels, answers, ranks = map(
            np.concatenate, (self.labels, self._answers, self._ranks)
        )
        outputs = "probabilities" if self._distributions else "logits"
        logs, confidences = map(np.concatenate, zip(*self._read[outputs], strict=True))
        numbers = range(len(self._names))
        confusion = metrics.confusion_matrix(labels, answers, labels=numbers)
        figures = metrics.precision_recall_fscore_support(
            labels, answers, labels=numbers, zero_division=np.nan
        )
        error, table = _calibration(answers == labels, confidences, bins)
        return EvaluationReport(
            model=self._model,
            count=len(labels),
            top1=float((ranks == 0).mean()),
            top5=float((ranks < _TOP).mean()) if len(numbers) > _TOP else None,
            loss=float(-logs.mean()),
            calibration_error=error,
            outputs=outputs,
            confused=_most_confused(confusion, self._names),
            classes=tuple(
                ClassFigures(name, int(count), *map(_known, fractions))
                for name, *fractions, count in zip(self._names, *figures, strict=True)
            ),
            bins=table,
            confusion=confusion.astype("int64"),
        )


def _are_distributions(rows: np.ndarray) -> bool:
    slack = 1e-3 + rows.shape[1] / 512
    return bool((rows >= 0).all() and (np.abs(rows.sum(1) - 1) <= slack).all())


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _calibration(right: np.ndarray, confidences: np.ndarray, bins: int):
    """The calibration error, and the bins that it is made of."""
    edges = np.linspace(0, 1, bins + 1)
    # Rounding may lift a probability above 1.
    index = np.minimum(np.searchsorted(edges[1:], confidences), bins - 1)
    counts = np.bincount(index, minlength=bins)
    hits, sums = (np.bincount(index, v, minlength=bins) for v in (right, confidences))
    table = tuple(
        CalibrationBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int(counts[i]),
            confidence=float(sums[i] / counts[i]) if counts[i] else None,
            accuracy=float(hits[i] / counts[i]) if counts[i] else None,
        )
        for i in range(bins)
    )
    return float(np.abs(hits - sums).sum() / len(right)), table


def _most_confused(confusion: np.ndarray, names) -> tuple[Confusion, ...]:
    mistakes = confusion - np.diag(np.diag(confusion))
    # Stable: of pairs that come equally often those of the lower class number.
    order = np.argsort(-mistakes, axis=None, kind="stable")[:PAIRS]
    pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    totals = confusion.sum(1)
    return tuple(
        Confusion(
            truth=names[truth],
            answer=names[answer],
            count=int(mistakes[truth, answer]),
            share=float(mistakes[truth, answer] / totals[truth]),
        )
        for truth, answer in pairs
        if mistakes[truth, answer]
    )

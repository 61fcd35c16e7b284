"""Runs a .tflite file and its Keras model on the same data, and compares them."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_attention import report
from keras_attention.mobile import litert
from keras_attention.mobile.convert import is_quantized, with_gates
from keras_attention.mobile.deploy import deploy

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class OutputAgreement(report.Report):
    """How one output of a file agrees with Keras.

    Attributes:
        name: of the output in the file.
        unit: of the differences: "steps" of the file's integer grid, or "absolute"
            for a float output.
        argmax_agreement: fraction of the samples with the same largest element, ties
            counting as equal; None unless the output is (N, classes > 1).
        max_difference: largest |file - Keras| over all elements.
        mean_difference: mean of it.
        within_one_step: fraction of the elements that differ by at most one step; None
            for a float output.
    """

    name: str
    unit: str
    argmax_agreement: float | None
    max_difference: float
    mean_difference: float
    within_one_step: float | None


@dataclasses.dataclass(frozen=True)
class VerifyReport(report.Report):
    """How a file agrees with a Keras model on data. Fractions go from 0 to 1.

    Attributes:
        path: the file.
        samples: number of samples.
        keras_accuracy: of the Keras model's first output; None without labels.
        file_accuracy: of the file's first output, likewise.
        broken: samples that Keras has right and the file wrong; None without labels.
        repaired: samples that Keras has wrong and the file right, likewise.
        argmax_agreement: that of the first output.
        clipped_inputs: fraction of the input values that lie outside of the range of
            an integer input; well above 0, the data are not scaled as the model wants.
        outputs: agreement of each output.
    """

    path: str
    samples: int
    keras_accuracy: float | None
    file_accuracy: float | None
    broken: int | None
    repaired: int | None
    argmax_agreement: float | None
    clipped_inputs: float
    outputs: tuple[OutputAgreement, ...]


def verify(
    path: str | os.PathLike, *, against: keras.Model | str | os.PathLike, data: Any
) -> VerifyReport:
    """Compares a .tflite file with a Keras model on the same samples.

    The file runs in the LiteRT interpreter as it comes (XNNPACK). Both get the same
    float values; an integer input gets them quantized by its own scale and zero point.

    Args:
        path: a file of batch size 1: int8, uint8 or float.
        against: the Keras model it was made from (the quantized one for an int8 file),
            or the path of its .keras file. Where the file has attention gates or a
            softmax appended (`convert`), they are appended to the model as well.
        data: samples as the Keras model takes them: an array x, a tuple of arrays
            (x, y), or an iterable (tf.data.Dataset) of x or (x, y), batched or not.
            Labels y are class numbers or one-hot rows.

    Returns:
        A `VerifyReport`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it can't be run; its outputs are not those of the model; the data
            are empty, not finite or of another shape; a label is no class of the model.
    """
    runner = litert.Runner(path)
    if not isinstance(against, keras.Model):
        against = keras.saving.load_model(against)
    model = _matching(against, runner.file, str(path))
    softmax = runner.file.made_by(0) == "SOFTMAX"
    compute = _inference(model)
    outputs = [_Comparison(tensor) for tensor in runner.outputs]
    labels = _Labels()
    clipped = values = samples = 0
    for number, (x, y) in enumerate(_batches(data, model)):
        inputs = keras.tree.flatten(x)
        if not all(np.isfinite(array).all() for array in inputs):
            raise ValueError(f"Batch {number} of the data holds NaN or infinity.")
        ours = runner(*inputs)
        reference = [np.asarray(array) for array in keras.tree.flatten(compute(x))]
        if softmax and not _is_distribution(reference[0]):
            reference[0] = _softmax(reference[0])
        for comparison, got, wanted in zip(outputs, ours, reference, strict=True):
            comparison.add(got, wanted)
        if y is not None:
            labels.add(y, reference[0], ours[0])
        samples += len(inputs[0])
        values += sum(array.size for array in inputs)
        clipped += sum(map(_clipped, inputs, runner.inputs))
    if not samples:
        raise ValueError("The data are empty: nothing to compare on.")
    first = outputs[0].result()
    return VerifyReport(
        path=os.fspath(path),
        samples=samples,
        **labels.result(),
        argmax_agreement=first.argmax_agreement,
        clipped_inputs=clipped / values,
        outputs=tuple(comparison.result() for comparison in outputs),
    )


def _matching(model: keras.Model, file: litert.File, path: str) -> keras.Model:
    """Returns the model with as many outputs as the file, and checks their shapes."""
    if len(file.outputs) > len(model.outputs):
        model = with_gates(model if is_quantized(model) else deploy(model))
    wanted = [tuple(tensor.shape[1:]) for tensor in model.outputs]
    shapes = [tensor.shape[1:] for tensor in file.outputs]
    if wanted != shapes:
        raise ValueError(
            f"{path} gives outputs of the shapes {shapes} behind the batch axis, the "
            f"Keras model '{model.name}' {wanted}: the classes or the model differ."
        )
    return model


def _inference(model: keras.Model) -> Callable[[Any], Any]:
    """Returns the model's inference function, as a graph where Keras has those.

    Not `predict`: for a compiled model it may use XLA, which rounds elsewhere.
    """
    compute = functools.partial(model, training=False)
    if keras.backend.backend() != "tensorflow":
        return compute
    import tensorflow as tf

    return tf.function(compute, reduce_retracing=True, autograph=False)


def _batches(data: Any, model: keras.Model) -> Iterator[tuple[Any, Any]]:
    """Yields (x, y) in batches: x float32; y the first output's labels, or None."""
    rank = len(model.inputs[0].shape)
    if isinstance(data, tuple | dict) or hasattr(data, "shape"):
        data = _slices(data)
    elif not isinstance(data, Iterable):
        raise ValueError(f"data must be arrays or an iterable. Received: {data!r}")
    for element in data:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(element)
        x = keras.tree.map_structure(lambda leaf: np.asarray(leaf, "float32"), x)
        y = None if y is None else np.asarray(keras.tree.flatten(y)[0])
        if keras.tree.flatten(x)[0].ndim == rank - 1:  # One sample, not a batch.
            x = keras.tree.map_structure(lambda leaf: leaf[None], x)
            y = None if y is None else y[None]
        yield x, y


def _slices(arrays: Any) -> Iterator[Any]:
    arrays = keras.tree.map_structure(np.asarray, arrays)
    sizes = {len(leaf) for leaf in keras.tree.flatten(arrays)}
    if len(sizes) != 1:
        raise ValueError(f"The arrays must be equally long. Received: {sorted(sizes)}")
    for start in range(0, sizes.pop(), _BATCH):
        yield keras.tree.map_structure(
            lambda leaf, i=start: leaf[i : i + _BATCH], arrays
        )


class _Comparison:
    """Differences of one output, summed over the batches."""

    def __init__(self, tensor: litert.Tensor):
        self.tensor = tensor
        self.samples = self.elements = self.equal = self.near = 0
        self.largest = self.total = 0.0
        self.classes = len(tensor.shape) == 2 and tensor.shape[1] > 1

    def add(self, got: np.ndarray, wanted: np.ndarray) -> None:
        difference = np.abs(
            litert.dequantize(got, self.tensor).astype("float64") - wanted
        )
        if self.tensor.scale is not None:
            difference /= self.tensor.scale
        # Both sides are float32 multiples of the scale: a thousandth is rounding.
        self.near += int((difference <= 1.001).sum())
        self.largest = max(self.largest, float(difference.max()))
        self.total += float(difference.sum())
        self.elements += difference.size
        self.samples += len(got)
        if self.classes:
            best = (got == got.max(1, keepdims=True)) & (
                wanted == wanted.max(1, keepdims=True)
            )
            self.equal += int(best.any(axis=1).sum())

    def result(self) -> OutputAgreement:
        integer = self.tensor.scale is not None
        return OutputAgreement(
            name=self.tensor.name,
            unit="steps" if integer else "absolute",
            argmax_agreement=self.equal / self.samples if self.classes else None,
            max_difference=self.largest,
            mean_difference=self.total / self.elements,
            within_one_step=self.near / self.elements if integer else None,
        )


class _Labels:
    """Right and wrong answers, summed over the batches."""

    def __init__(self):
        self.samples = self.keras = self.file = self.broken = self.repaired = 0

    def add(self, labels: np.ndarray, reference: np.ndarray, got: np.ndarray) -> None:
        labels = _class_numbers(labels, reference)
        wanted, answer = reference.argmax(1) == labels, got.argmax(1) == labels
        self.samples += len(labels)
        self.keras += int(wanted.sum())
        self.file += int(answer.sum())
        self.broken += int((wanted & ~answer).sum())
        self.repaired += int((answer & ~wanted).sum())

    def result(self) -> dict[str, Any]:
        known = self.samples > 0
        return {
            "keras_accuracy": self.keras / self.samples if known else None,
            "file_accuracy": self.file / self.samples if known else None,
            "broken": self.broken if known else None,
            "repaired": self.repaired if known else None,
        }


def _class_numbers(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(
            "Labels need a first output (N, classes) with at least two classes; it is "
            f"{outputs.shape}. Leave the labels out to compare the outputs only."
        )
    classes = outputs.shape[1]
    if labels.ndim == 2 and labels.shape[1] > 1:
        if labels.shape[1] != classes:
            raise ValueError(
                f"The labels are rows of {labels.shape[1]} classes, the model has "
                f"{classes}."
            )
        return labels.argmax(1)
    labels = labels.reshape(len(labels), -1)[:, 0]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"The labels go from {labels.min()} to {labels.max()}, the model has the "
            f"classes 0 to {classes - 1}."
        )
    return labels


def _clipped(values: np.ndarray, tensor: litert.Tensor) -> int:
    if tensor.scale is None:
        return 0
    limits = np.iinfo(tensor.dtype)
    steps = values.astype("float64") / tensor.scale + tensor.zero_point
    return int(((steps < limits.min - 0.5) | (steps > limits.max + 0.5)).sum())


def _is_distribution(rows: np.ndarray) -> bool:
    # A quantized softmax sums to 1 within half a step of 1/256 per class.
    slack = 1e-3 + rows.shape[-1] / 512
    return bool((rows >= 0).all() and (np.abs(rows.sum(-1) - 1) <= slack).all())


def _softmax(rows: np.ndarray) -> np.ndarray:
    exponents = np.exp(rows - rows.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)

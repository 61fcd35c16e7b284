"""Runs a .tflite file and its Keras model on the same data, and compares them."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_attention import report
from keras_attention.mobile import litert
from keras_attention.mobile.agreement import Answers, Comparison, OutputAgreement
from keras_attention.mobile.convert import is_quantized, with_gates
from keras_attention.mobile.deploy import deploy
from keras_attention.mobile.layer_errors import LayerError, layer_errors

_BATCH = 64
# Samples of an integer file that run on the reference kernels, too, 40 times as slow as
# XNNPACK, and samples of which the layers are compared.
REFERENCE_SAMPLES = 100
LAYER_SAMPLES = 8


@dataclasses.dataclass(frozen=True)
class ReferenceAgreement(report.Report):
    """How a file answers on LiteRT's reference kernels instead of XNNPACK.

    As these do microcontrollers compute, and nearly so runtimes without XNNPACK. Both
    kinds of kernels are right to one step; not always to the same.

    Attributes:
        samples: number of samples, the first ones; all else is about these.
        keras_accuracy, file_accuracy, broken, repaired: as in `VerifyReport`, of the
            file on the reference kernels; None without labels.
        xnnpack_accuracy: of the file on XNNPACK, likewise.
        argmax_agreement: of the file's first output with Keras; None unless it is
            (N, classes > 1).
        xnnpack_agreement: of the same with XNNPACK, likewise.
        max_difference: largest difference between the two kinds of kernels in the first
            output, in its `OutputAgreement.unit`.
        mean_difference: mean of it.
    """

    samples: int
    keras_accuracy: float | None
    file_accuracy: float | None
    broken: int | None
    repaired: int | None
    xnnpack_accuracy: float | None
    argmax_agreement: float | None
    xnnpack_agreement: float | None
    max_difference: float
    mean_difference: float


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
        reference: the same on the reference kernels; None if they were not run.
        compared_layers: number of layers whose outputs were compared.
        worst_layers: those that differ most, by signal-to-noise ratio on the first 8
            samples, see `layer_errors.layer_errors`.
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
    reference: ReferenceAgreement | None
    compared_layers: int
    worst_layers: tuple[LayerError, ...]


def verify(
    path: str | os.PathLike,
    *,
    against: keras.Model | str | os.PathLike,
    data: Any,
    reference_samples: int | None = None,
    worst_layers: int = 5,
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
        reference_samples: so many samples run on LiteRT's reference kernels, too; 0:
            none. None: 100 for an integer file, none for a float one, where kernels
            differ by the order of a sum.
        worst_layers: so many layers are named whose outputs in the file are furthest
            from those in Keras; 0: layers are not compared.

    Returns:
        A `VerifyReport`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it can't be run; its outputs are not those of the model; the data
            are empty, not finite or of another shape; a label is no class of the model;
            a number is negative; or layers are compared of a float model that `deploy`
            can't take.
    """
    for name, number in (
        ("reference_samples", reference_samples),
        ("worst_layers", worst_layers),
    ):
        if number is not None and number < 0:
            raise ValueError(f"{name} must not be negative. Received: {number}")
    runner = litert.Runner(path)
    if not isinstance(against, keras.Model):
        against = keras.saving.load_model(against)
    model = _matching(against, runner.file, str(path))
    softmax = runner.file.made_by(0) == "SOFTMAX"
    compute = _inference(model)
    outputs = [Comparison(tensor) for tensor in runner.outputs]
    labels = Answers()
    if reference_samples is None:
        integer = any(tensor.scale is not None for tensor in runner.inputs)
        reference_samples = REFERENCE_SAMPLES if integer else 0
    kernels = _ReferenceKernels(path, reference_samples) if reference_samples else None
    shown = []
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
        if kernels is not None:
            kernels.add(inputs, y, reference[0], ours[0])
        if worst_layers and samples < LAYER_SAMPLES:
            shown.append([array[: LAYER_SAMPLES - samples] for array in inputs])
        samples += len(inputs[0])
        values += sum(array.size for array in inputs)
        clipped += sum(map(_clipped, inputs, runner.inputs))
    if not samples:
        raise ValueError("The data are empty: nothing to compare on.")
    first_samples = [np.concatenate(arrays) for arrays in zip(*shown, strict=True)]
    errors = layer_errors(path, against, first_samples) if worst_layers else []
    first = outputs[0].result()
    return VerifyReport(
        path=os.fspath(path),
        samples=samples,
        **labels.result(),
        argmax_agreement=first.argmax_agreement,
        clipped_inputs=clipped / values,
        outputs=tuple(comparison.result() for comparison in outputs),
        reference=None if kernels is None else kernels.result(),
        compared_layers=len(errors),
        worst_layers=tuple(errors[:worst_layers]),
    )


class _ReferenceKernels:
    """The first samples of the data on the reference kernels."""

    def __init__(self, path: str | os.PathLike, samples: int):
        self._runner = litert.Runner(path, reference=True)
        self._left = samples
        self._keras, self._xnnpack = (
            Comparison(self._runner.outputs[0]) for _ in range(2)
        )
        self._answers, self._xnnpack_answers = Answers(), Answers()

    def add(
        self,
        inputs: Sequence[np.ndarray],
        labels: np.ndarray | None,
        wanted: np.ndarray,
        xnnpack: np.ndarray,
    ) -> None:
        """Runs what is left to run of a batch.

        Args:
            inputs: one array per input.
            labels: of the batch, or None.
            wanted: Keras' first output.
            xnnpack: the file's, in its dtype.
        """
        count = min(self._left, len(wanted))
        if not count:
            return
        self._left -= count
        wanted, xnnpack = wanted[:count], xnnpack[:count]
        got = self._runner(*(array[:count] for array in inputs))[0]
        self._keras.add(got, wanted)
        self._xnnpack.add(got, litert.dequantize(xnnpack, self._runner.outputs[0]))
        if labels is not None:
            self._answers.add(labels[:count], wanted, got)
            self._xnnpack_answers.add(labels[:count], wanted, xnnpack)

    def result(self) -> ReferenceAgreement:
        xnnpack = self._xnnpack.result()
        return ReferenceAgreement(
            samples=self._keras.samples,
            **self._answers.result(),
            xnnpack_accuracy=self._xnnpack_answers.result()["file_accuracy"],
            argmax_agreement=self._keras.result().argmax_agreement,
            xnnpack_agreement=xnnpack.argmax_agreement,
            max_difference=xnnpack.max_difference,
            mean_difference=xnnpack.mean_difference,
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

"""How the answers of a file agree with those of Keras, summed over batches."""

import dataclasses
from typing import Any

import numpy as np

from keras_attention import report
from keras_attention.mobile import litert


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


class Comparison:
    """Differences of one output, summed over the batches."""

    def __init__(self, tensor: litert.Tensor):
        self.tensor = tensor
        self.samples = self.elements = self.equal = self.near = 0
        self.largest = self.total = 0.0
        self.classes = len(tensor.shape) == 2 and tensor.shape[1] > 1

    def add(self, got: np.ndarray, wanted: np.ndarray) -> None:
        """Takes in a batch: `got` in the tensor's dtype, `wanted` in real numbers."""
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
        """Returns the agreement over all batches."""
        integer = self.tensor.scale is not None
        return OutputAgreement(
            name=self.tensor.name,
            unit="steps" if integer else "absolute",
            argmax_agreement=self.equal / self.samples if self.classes else None,
            max_difference=self.largest,
            mean_difference=self.total / self.elements,
            within_one_step=self.near / self.elements if integer else None,
        )


class Answers:
    """Right and wrong answers, summed over the batches."""

    def __init__(self):
        self.samples = self.keras = self.file = self.broken = self.repaired = 0

    def add(self, labels: np.ndarray, reference: np.ndarray, got: np.ndarray) -> None:
        """Takes in a batch of labels, and the first outputs of Keras and the file."""
        labels = _class_numbers(labels, reference)
        wanted, answer = reference.argmax(1) == labels, got.argmax(1) == labels
        self.samples += len(labels)
        self.keras += int(wanted.sum())
        self.file += int(answer.sum())
        self.broken += int((wanted & ~answer).sum())
        self.repaired += int((answer & ~wanted).sum())

    def result(self) -> dict[str, Any]:
        """Returns accuracies and counts; None where there were no labels."""
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

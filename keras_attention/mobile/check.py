"""Static facts of a .tflite file, and what in them would stop it on a phone."""

import dataclasses
import os
import re
from collections.abc import Collection

from keras_attention import report
from keras_attention.mobile import litert

# By the dtype at the ends of an integer file, what its tensors may be: shapes, axes
# and biases are int32, and biases of int16 activations int64.
_INTEGER = {"int8": ("int8", "int32"), "int16": ("int8", "int16", "int32", "int64")}
_MAX_RANK = 4


@dataclasses.dataclass(frozen=True)
class CheckReport(report.Report):
    """What `check` found in a file.

    Attributes:
        path: the file.
        bytes: its size.
        operators: number of operators of each kind.
        dtypes: number of tensors of each dtype.
        max_rank: largest number of axes of a tensor.
        inputs: tensors at its beginning.
        outputs: tensors at its end.
        problems: what would stop or slow it on a phone, one sentence each.
    """

    path: str
    bytes: int
    operators: dict[str, int]
    dtypes: dict[str, int]
    max_rank: int
    inputs: tuple[litert.Tensor, ...]
    outputs: tuple[litert.Tensor, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def to_dict(self):
        """Returns the report as plain values, `ok` among them."""
        return super().to_dict() | {"ok": self.ok}


def check(path: str | os.PathLike) -> CheckReport:
    """Reads a .tflite file, of any origin, without running it.

    A file whose inputs or outputs are int8, uint8 or int16 counts as an integer file:
    all its tensors must be int8 or int32 (in an int16 file also int16 or int64), and
    uint8 may stand at its two ends only.

    Args:
        path: the file.

    Returns:
        A `CheckReport`; its `ok` is False if an operator is outside of TFLite's own
        set (Flex, custom), a tensor has more than 4 axes (video: more than its input),
        the batch size is not fixed, or an integer file holds a tensor of another dtype.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .tflite file, or a damaged one.
    """
    file = litert.File(path)
    ends = {tensor.dtype for tensor in (*file.inputs, *file.outputs)}
    return CheckReport(
        path=os.fspath(path),
        bytes=file.size,
        operators=file.operators,
        dtypes=file.dtypes,
        max_rank=file.max_rank,
        inputs=file.inputs,
        outputs=file.outputs,
        problems=tuple(problems(file, integer=bool(ends & {"int8", "uint8", "int16"}))),
    )


def problems(
    file: litert.File,
    integer: bool,
    layers: Collection[str] = (),
    float_layers: Collection[str] = (),
) -> list[str]:
    """Returns what is wrong with a file, one sentence each.

    Args:
        file: the file.
        integer: whether it must hold integers only.
        layers: names of Keras layers; tensors are traced back to them by their names.
        float_layers: those of them that may compute in float in an integer file.
    """
    found = [
        f"Operator {name} is outside of TFLite's own set: phones can't run it."
        for name in file.custom
    ]
    ends = (*file.inputs, *file.outputs)
    for tensor in ends:
        if -1 in tensor.shape:
            found.append(
                f"'{tensor.name}' has a size that may vary, {tensor.shape}: some "
                "runtimes (LiteRT.js) need it fixed."
            )
    # Video has five axes by itself.
    most = max([_MAX_RANK, *(len(tensor.shape) for tensor in file.inputs)])
    wide = any(tensor.dtype == "int16" for tensor in ends)
    integers = _INTEGER["int16" if wide else "int8"]
    declared = _tensors_of(file, float_layers)
    for tensor in file.tensors:
        where = _where(tensor, layers)
        if len(tensor.shape) > most:
            found.append(
                f"{where} has {len(tensor.shape)} axes, {tensor.shape}: mobile "
                f"delegates take at most {_MAX_RANK}."
            )
        allowed = (*integers, "uint8") if tensor in ends else integers
        if integer and tensor.dtype not in allowed and tensor not in declared:
            found.append(f"{where} is {tensor.dtype} in an integer file.")
    return found


def _tensors_of(file: litert.File, layers: Collection[str]) -> set[litert.Tensor]:
    """Returns the tensors that operators of some layers read and write."""
    found = set()
    for reads, writes in file.calls:
        if any(layer_of(tensor.name, layers) for tensor in writes):
            found.update(reads, writes)
    return found


def _where(tensor: litert.Tensor, layers: Collection[str]) -> str:
    layer = layer_of(tensor.name, layers)
    return f"Tensor '{tensor.name}'" + (f" (layer '{layer}')" if layer else "")


def layer_of(tensor: str, layers: Collection[str]) -> str | None:
    """Returns the Keras layer that a tensor comes from, None if its name tells none.

    Tensors are named by scopes, "model/layer/operation;model/layer/...", in which a
    repeated scope gets a number behind it.
    """
    for part in reversed(re.split("[;/]", tensor)):
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in layers:
                return name
    return None

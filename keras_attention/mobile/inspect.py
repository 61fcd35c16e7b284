"""What a .tflite file holds, what it costs, and what of it XNNPACK takes."""

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_attention import report
from keras_attention.mobile import litert
from keras_attention.mobile.arena import arena_bytes, is_constant, stored_shape


@dataclasses.dataclass(frozen=True)
class QuantizedTensor:
    """A tensor that has a scale.

    Attributes:
        name: name in the file.
        shape: as stored; an axis that may vary stands as -1.
        dtype: "int8", "int32", ...
        scales: number of scales: 1, or one per channel.
        smallest_scale: the smallest of them.
        largest_scale: the largest of them.
        zero_point: the integer that stands for 0.0; None if channels differ in it.
        constant: whether its values are stored in the file (kernels, biases).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: int
    smallest_scale: float
    largest_scale: float
    zero_point: int | None
    constant: bool


@dataclasses.dataclass(frozen=True)
class Undelegated:
    """An operator that XNNPACK leaves to LiteRT's own kernels.

    Attributes:
        index: its place in the file's order of operators, from 0.
        operator: its kind.
        output: name of the tensor that it computes, which tells the Keras layer.
    """

    index: int
    operator: str
    output: str


@dataclasses.dataclass(frozen=True)
class InspectReport(report.Report):
    """What `inspect` found in a file.

    Attributes:
        path: the file.
        bytes: its size.
        inputs: tensors at its beginning.
        outputs: tensors at its end.
        operators: number of operators of each kind.
        dtypes: number of tensors of each dtype.
        parameter_bytes: bytes of the stored kernels, biases and other constants.
        multiply_adds: of convolutions and matrix products, see `multiply_adds`.
        arena_bytes: memory for the tensors between operators, see
            `arena.arena_bytes`.
        partitions: number of parts that XNNPACK runs as a whole, 0 if it takes nothing;
            None if the file can't be run here.
        undelegated: the operators that it does not take; empty if it takes all; None
            likewise.
        failure: why the file can't be run here; None if it can.
        tensors: every tensor that has a scale, in the file's order. Not printed.
    """

    path: str
    bytes: int
    inputs: tuple[litert.Tensor, ...]
    outputs: tuple[litert.Tensor, ...]
    operators: dict[str, int]
    dtypes: dict[str, int]
    parameter_bytes: int
    multiply_adds: int
    arena_bytes: int
    partitions: int | None
    undelegated: tuple[Undelegated, ...] | None
    failure: str | None
    tensors: tuple[QuantizedTensor, ...] = dataclasses.field(repr=False)


def inspect(path: str | os.PathLike) -> InspectReport:
    """Reads a .tflite file of any origin, and loads it to see how it is delegated.

    Which operators XNNPACK takes is asked of the LiteRT that is installed: another
    version may take others. Everything else is read from the file.

    Args:
        path: the file.

    Returns:
        An `InspectReport`. A file that can't be run here (an operator that this
        LiteRT does not know) is reported too, without its delegation.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .tflite file, or a damaged one.
    """
    file = litert.File(path)
    partitions = undelegated = failure = None
    try:
        partitions, nodes = delegation(litert.load(path))
    except ValueError as error:
        failure = str(error)
    else:
        names = [tensor.name for tensor in file.tensors]
        undelegated = tuple(
            Undelegated(node["index"], node["op_name"], names[int(node["outputs"][0])])
            for node in nodes
        )
    return InspectReport(
        path=os.fspath(path),
        bytes=file.size,
        inputs=file.inputs,
        outputs=file.outputs,
        operators=file.operators,
        dtypes=file.dtypes,
        parameter_bytes=_parameter_bytes(file),
        multiply_adds=multiply_adds(file),
        arena_bytes=arena_bytes(file),
        partitions=partitions,
        undelegated=undelegated,
        failure=failure,
        tensors=tuple(_quantized_tensors(file)),
    )


def delegation(interpreter: Any) -> tuple[int, list[dict[str, Any]]]:
    """Returns what XNNPACK runs and what it does not.

    The interpreter keeps all nodes of the file and appends one DELEGATE node per
    partition, but does not tell which nodes these replace. So what is still computed
    is followed backwards, from the outputs and from what partitions read, until a
    partition makes it.

    Args:
        interpreter: a LiteRT interpreter with its tensors allocated.

    Returns:
        Number of partitions; the nodes outside of them ("index", "op_name", "inputs",
        "outputs"), in the file's order.
    """
    nodes = interpreter._get_ops_details()  # There is no public way.
    partitions = [node for node in nodes if node["op_name"] == "DELEGATE"]
    makers = {int(t): node for node in nodes for t in node["outputs"]}
    # A tensor that a partition makes has two makers, of which the later one counts.
    needed = [tensor["index"] for tensor in interpreter.get_output_details()]
    needed += [int(t) for node in partitions for t in node["inputs"]]
    outside = {}
    while needed:
        node = makers.get(needed.pop())
        if node is None or node["op_name"] == "DELEGATE" or node["index"] in outside:
            continue
        outside[node["index"]] = node
        needed += map(int, node["inputs"])
    return len(partitions), [outside[index] for index in sorted(outside)]


def multiply_adds(file: litert.File) -> int:
    """Returns the multiply-adds of convolutions and matrix products for one sample.

    Products, sums and means of single elements are not counted, nor are biases.
    """
    total = 0
    for graph in file.model.subgraphs:
        for operator in graph.operators:
            count = _MULTIPLY_ADDS.get(file.kind(operator))
            if count is None:
                continue
            shapes = [
                () if t < 0 else stored_shape(graph.tensors[t]) for t in operator.inputs
            ]
            output = stored_shape(graph.tensors[operator.outputs[0]])
            total += count(operator, shapes, math.prod(output))
    return total


def _batch_matmul(operator, inputs, outputs):
    return outputs * inputs[0][-2 if operator.builtinOptions.adjX else -1]


# Functions of the operator, the shapes of its inputs and its number of output elements.
# Kernels are (out, *window, in / groups), but (1, *window, out) of depthwise
# convolutions, (*window, in, out) of 3D ones and (out, in) of fully connected layers.
_MULTIPLY_ADDS = {
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": lambda _, inputs, outputs: outputs * math.prod(inputs[1][1:]),
    "CONV_3D": lambda _, inputs, outputs: outputs * math.prod(inputs[1][:-1]),
    "DEPTHWISE_CONV_2D": lambda _, inputs, outputs: outputs * math.prod(inputs[1][1:3]),
    "FULLY_CONNECTED": lambda _, inputs, outputs: outputs * inputs[1][1],
    # Every input element is spread over a window of the output.
    "TRANSPOSE_CONV": lambda _, inputs, outputs: (
        math.prod(inputs[2]) * math.prod(inputs[1][:3])
    ),
}


def _quantized_tensors(file: litert.File) -> Iterator[QuantizedTensor]:
    stored = [tensor for graph in file.model.subgraphs for tensor in graph.tensors]
    for raw, tensor in zip(stored, file.tensors, strict=True):
        grid = raw.quantization
        if grid is None or grid.scale is None or not len(grid.scale):
            continue
        zero_points = {int(zero) for zero in grid.zeroPoint}
        yield QuantizedTensor(
            name=tensor.name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            scales=len(grid.scale),
            smallest_scale=float(np.min(grid.scale)),
            largest_scale=float(np.max(grid.scale)),
            zero_point=zero_points.pop() if len(zero_points) == 1 else None,
            constant=is_constant(file, raw),
        )


def _parameter_bytes(file: litert.File) -> int:
    graphs = file.model.subgraphs
    # Tensors of equal values share a buffer.
    buffers = {t.buffer for g in graphs for t in g.tensors if is_constant(file, t)}
    return sum(len(file.model.buffers[index].data) for index in buffers)

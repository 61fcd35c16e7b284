"""How much memory the tensors between a .tflite file's operators take."""

import collections
import math
import re
from typing import Any, NamedTuple

from keras_attention.mobile import litert

# LiteRT begins every tensor at a multiple of so many bytes.
_ALIGNMENT = 64
# What unpacks constants; LiteRT does it once and keeps the result apart.
_UNPACKING = ("DEQUANTIZE", "DENSIFY")
# How many of their first inputs operators may write their result over. Measured: no
# other operator of an attention block's does (LiteRT 2.3, reference and fast kernels).
_IN_PLACE = {"ADD": 2, "DIV": 2, "MUL": 2, "RESHAPE": 1, "SOFTMAX": 1, "SUB": 2}
# LiteRT does not share the memory of scalars.
_SCALAR = 4


def arena_bytes(file: litert.File) -> int:
    """Returns the memory for the tensors between the operators, computed.

    A tensor takes a multiple of 64 bytes from the operator that makes it to the last
    one that reads it; inputs of the file all the time, its outputs to the end. The
    result of a sum, difference, product, quotient, softmax or reshape takes the place
    of an input of its size that nobody else reads. The largest tensors are laid first,
    each into the smallest gap. This is what LiteRT's own kernels ask for, their scratch
    memory aside. Constants, also unpacked ones, and what XNNPACK packs and keeps for
    itself come on top.
    """
    graph = file.model.subgraphs[0]
    end = len(graph.operators)
    sizes = [
        -(-math.prod(stored_shape(raw)) * _bits(tensor.dtype) // 8)
        for raw, tensor in zip(graph.tensors, file.tensors, strict=False)
    ]
    ends = {int(t) for t in graph.inputs}, {int(t) for t in graph.outputs}
    reads = collections.Counter(t for side in ends for t in side)
    for operator in graph.operators:
        reads.update(_indices(operator.inputs))
    apart = {t for t, raw in enumerate(graph.tensors) if is_constant(file, raw)}
    places = {}  # Tensor -> the tensor over which it is written.
    first, last = dict.fromkeys(ends[0], 0), {}

    def may_overwrite(kind: str, tensor: int, output: int) -> bool:
        place = places.get(tensor, tensor)
        if tensor in apart | ends[0] or output in ends[1]:
            return False
        if kind == "RESHAPE":  # Everybody else still finds the same values.
            return True
        alone = reads[tensor] == reads[place] == 1
        return alone and sizes[tensor] == sizes[output] > _SCALAR

    for index, operator in enumerate(graph.operators):
        kind = file.kind(operator)
        inputs, outputs = _indices(operator.inputs), _indices(operator.outputs)
        if kind in _UNPACKING and apart.issuperset(inputs):
            apart.update(outputs)
        for tensor in inputs[: _IN_PLACE.get(kind, 0)]:
            if may_overwrite(kind, tensor, outputs[0]):
                places[outputs[0]] = places.get(tensor, tensor)
                break
        for tensor in outputs:
            first.setdefault(places.get(tensor, tensor), index)
        for tensor in inputs:
            last[places.get(tensor, tensor)] = index
    last |= {tensor: end for side in ends for tensor in side}
    return _layout(
        [
            _Block(-(-sizes[t] // _ALIGNMENT) * _ALIGNMENT, first[t], last.get(t, end))
            for t in sorted(first.keys() - apart)
        ],
        end,
    )


class _Block(NamedTuple):
    """Memory of one tensor: bytes, and the first and the last operator that need it."""

    size: int
    first: int
    last: int


def _layout(blocks: list[_Block], end: int) -> int:
    """Lays blocks so that those alive together don't overlap; returns the bytes."""
    permanent = [block for block in blocks if block[1:] == (0, end)]
    passing = [block for block in blocks if block[1:] != (0, end)]
    laid, total = [], 0
    for block in permanent + sorted(passing, key=lambda b: (-b.size, b.first)):
        best, room, begin = None, None, 0
        for offset, other in sorted(laid):
            if other.first > block.last or block.first > other.last:
                continue
            gap = offset - begin
            if gap >= block.size and (best is None or gap < room):
                best, room = begin, gap
            begin = max(begin, offset + other.size)
        offset = begin if best is None else best
        laid.append((offset, block))
        total = max(total, offset + block.size)
    return total


def is_constant(file: litert.File, tensor: Any) -> bool:
    """Whether a tensor's values are stored in the file."""
    data = file.model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def stored_shape(tensor: Any) -> tuple[int, ...]:
    """Returns the shape for one sample: an axis that may vary is stored as 1."""
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def _indices(tensors: Any) -> list[int]:
    """Returns an operator's tensors without the optional ones that are left out."""
    return [] if tensors is None else [int(t) for t in tensors if t >= 0]


def _bits(dtype: str) -> int:
    """Returns the bits of an element; 0 of strings and handles, which lie apart."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8 * (dtype == "bool")

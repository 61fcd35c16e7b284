"""Reads, edits and runs .tflite files.

LiteRT is imported on first use: `import keras_attention` reads this module.
"""

import collections
import copy
import functools
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

_IDENTIFIER = b"TFL3"


@functools.cache
def schema() -> ModuleType:
    """Returns the module of a file's tables."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@functools.cache
def _names(enumeration: str) -> dict[int, str]:
    """Returns the names of one of the schema's enumerations by their numbers."""
    members = vars(getattr(schema(), enumeration))
    return {code: name for name, code in members.items() if isinstance(code, int)}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file.

    Attributes:
        name: name in the file; converters build it from the names of Keras layers.
        shape: as stored; an axis that may vary stands as -1.
        dtype: "int8", "float32", ...
        scale: real value of one step, None where not quantized or one per channel.
        zero_point: integer that stands for 0.0, None likewise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


class File:
    """The tables of a .tflite file.

    Args:
        source: path of the file, or its bytes.

    Attributes:
        model: the file as objects of LiteRT's schema module.
        size: number of bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .tflite file.
    """

    def __init__(self, source: str | os.PathLike | bytes):
        data, name = read(source)
        self.model = _unpack(data, name)
        self.size = len(data)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Tensors at the beginning, in the file's order."""
        main = self.model.subgraphs[0]
        return tuple(_tensor(main.tensors[index]) for index in main.inputs)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Tensors at the end, in the file's order."""
        main = self.model.subgraphs[0]
        return tuple(_tensor(main.tensors[index]) for index in main.outputs)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, of every subgraph."""
        return [_tensor(t) for g in self.model.subgraphs for t in g.tensors]

    @property
    def operators(self) -> dict[str, int]:
        """Number of operators of each kind; custom ones by their own name."""
        operators = [op for g in self.model.subgraphs for op in g.operators]
        return dict(collections.Counter(map(self.kind, operators)))

    @property
    def custom(self) -> list[str]:
        """Operators outside of TFLite's own set ("FlexErf"), sorted."""
        kinds = [_operator(code) for code in self.model.operatorCodes]
        return sorted({kind for kind, custom in kinds if custom})

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of tensors of each dtype."""
        return dict(collections.Counter(tensor.dtype for tensor in self.tensors))

    @property
    def max_rank(self) -> int:
        """Largest number of axes of a tensor."""
        return max(len(tensor.shape) for tensor in self.tensors)

    @property
    def calls(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """The tensors that each operator reads, and those that it writes."""
        return [
            tuple(
                [_tensor(graph.tensors[index]) for index in indices if index >= 0]
                for indices in (operator.inputs, operator.outputs)
            )
            for graph in self.model.subgraphs
            for operator in graph.operators
        ]

    def kind(self, operator: Any) -> str:
        """Returns the name of an operator, given as an object of the schema."""
        return _operator(self.model.operatorCodes[operator.opcodeIndex])[0]

    def made_by(self, output: int) -> str | None:
        """Returns the operator that computes an output, QUANTIZE looked through."""
        main = self.model.subgraphs[0]
        makers = {int(t): op for op in main.operators for t in op.outputs}
        tensor = int(main.outputs[output])
        while tensor in makers:
            kind = self.kind(makers[tensor])
            if kind not in ("QUANTIZE", "DEQUANTIZE"):
                return kind
            tensor = int(makers[tensor].inputs[0])
        return None


def read(source: str | os.PathLike | bytes) -> tuple[bytes, str]:
    """Returns the bytes of a file, given by its path or as bytes, and its name."""
    if isinstance(source, bytes | bytearray):
        return bytes(source), "the file"
    return pathlib.Path(source).read_bytes(), os.fspath(source)


def _unpack(data: bytes, name: str) -> Any:
    if data[4:8] != _IDENTIFIER:
        raise ValueError(f"{name} is no .tflite file (it does not bear the mark TFL3).")
    try:
        model = schema().ModelT.InitFromPackedBuf(data, 0)
        complete = bool(model.subgraphs) and bool(model.subgraphs[0].tensors)
    except Exception as error:  # The generated reader raises whatever it stumbles on.
        raise ValueError(f"{name} is a damaged .tflite file: {error}") from error
    if not complete:
        raise ValueError(f"{name} is a .tflite file that holds no tensors.")
    return model


def _operator(code: Any) -> tuple[str, bool]:
    """Returns the operator's name, and whether it is outside of TFLite's own set."""
    # Old files have the code in the one-byte field only, new codes exceed that.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema().BuiltinOperator.CUSTOM:
        return code.customCode.decode(), True
    return _names("BuiltinOperator").get(number, f"OPERATOR_{number}"), False


def _tensor(tensor: Any) -> Tensor:
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    scale = zero_point = None
    grid = tensor.quantization
    if grid is not None and grid.scale is not None and len(grid.scale) == 1:
        scale, zero_point = float(grid.scale[0]), int(grid.zeroPoint[0])
    return Tensor(
        name=(tensor.name or b"").decode(),
        shape=() if shape is None else tuple(int(size) for size in shape),
        dtype=_names("TensorType").get(tensor.type, f"type_{tensor.type}").lower(),
        scale=scale,
        zero_point=zero_point,
    )


def pack(model: Any) -> bytes:
    """Returns the bytes of a .tflite file, given as objects of LiteRT's schema."""
    import flatbuffers

    for buffer in model.buffers:
        buffer.Pack = functools.partial(_pack_aligned, buffer)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _pack_aligned(buffer: Any, builder: Any) -> int:
    # The schema demands multiples of 16 bytes, which its Python code does not heed and
    # kernels that load whole vectors may rely on.
    if buffer.data is not None:
        builder.Prep(16, len(buffer.data))
    return type(buffer).Pack(buffer, builder)


def name_ends(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Names a model's inputs and outputs, for interpreters and in a signature.

    Args:
        model: objects of LiteRT's schema; changed in place.
        inputs: one name per input.
        outputs: one name per output, different from each other.
    """
    tables, main = schema(), model.subgraphs[0]
    ends = {}
    for side, names in (("inputs", inputs), ("outputs", outputs)):
        ends[side] = []
        for index, name in zip(getattr(main, side), names, strict=True):
            main.tensors[index].name = name.encode()
            entry = tables.TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), int(index)
            ends[side].append(entry)
    signature = tables.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs, signature.outputs = ends["inputs"], ends["outputs"]
    model.signatureDefs = [signature]


def give_uint8_ends(model: Any) -> None:
    """Makes the int8 inputs and outputs of a model uint8, 128 greater.

    Args:
        model: objects of LiteRT's schema, named by `name_ends`; changed in place.
    """
    tables, main, signature = schema(), model.subgraphs[0], model.signatureDefs[0]
    code = tables.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = tables.BuiltinOperator.QUANTIZE
    code.version = 1
    model.operatorCodes.append(code)

    def outer(inner: int) -> int:
        """Appends the uint8 tensor that stands for an int8 one at the end."""
        tensor = copy.copy(main.tensors[inner])
        tensor.type, tensor.buffer = tables.TensorType.UINT8, 0
        tensor.quantization = copy.copy(tensor.quantization)
        tensor.quantization.zeroPoint = tensor.quantization.zeroPoint + 128
        main.tensors[inner].name += b"_int8"
        main.tensors.append(tensor)
        return len(main.tensors) - 1

    def quantize_operator(source: int, target: int) -> Any:
        operator = tables.OperatorT()
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs, operator.outputs = [source], [target]
        return operator

    inputs, outputs = list(main.inputs), list(main.outputs)
    main.inputs = [outer(index) for index in inputs]
    main.outputs = [outer(index) for index in outputs]
    main.operators = [
        *map(quantize_operator, main.inputs, inputs),
        *main.operators,
        *map(quantize_operator, outputs, main.outputs),
    ]
    for entries, indices in (
        (signature.inputs, main.inputs),
        (signature.outputs, main.outputs),
    ):
        for entry, index in zip(entries, indices, strict=True):
            entry.tensorIndex = index


def load(
    source: str | os.PathLike | bytes, num_threads: int = 1, reference: bool = False
) -> Any:
    """Returns a LiteRT interpreter of a file, with XNNPACK, its tensors allocated.

    Args:
        source: path of the file, or its bytes.
        num_threads: threads of the interpreter.
        reference: whether LiteRT's reference kernels run it, without XNNPACK.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it can't be run, for example for an operator of another runtime.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    data, name = read(source)
    kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    options = {"num_threads": num_threads, "experimental_op_resolver_type": kernels}
    try:
        interpreter = Interpreter(model_content=data, **options)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name} can't be run: {error}") from error
    return interpreter


class Runner:
    """Runs a file on batches with the LiteRT interpreter (XNNPACK, as it comes).

    Args:
        source: path of the file, or its bytes.
        num_threads, reference: as for `load`.

    Attributes:
        file: the file's `File`.
        inputs, outputs: its `Tensor`s at the ends, in the file's order.

    Raises:
        FileNotFoundError, ValueError: as `File`; or the file can't be run (an operator
            that the interpreter does not know, a batch size other than 1).
    """

    def __init__(
        self,
        source: str | os.PathLike | bytes,
        num_threads: int = 1,
        reference: bool = False,
    ):
        self.file = File(source)
        self.inputs, self.outputs = self.file.inputs, self.file.outputs
        for tensor in (*self.inputs, *self.outputs):
            if tensor.shape[:1] not in ((1,), (-1,)):
                raise ValueError(
                    f"{read(source)[1]}: only files of batch size 1 can be run here; "
                    f"'{tensor.name}' has the shape {tensor.shape}."
                )
        self._interpreter = load(source, num_threads, reference)
        self._inputs = [d["index"] for d in self._interpreter.get_input_details()]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]

    def __call__(self, *batches: np.ndarray) -> list[np.ndarray]:
        """Runs the file on each sample of a batch.

        Args:
            *batches: one array (N, ...) per input. Real values, or values that already
                have the dtype of an integer input and then go in as they are.

        Returns:
            One array (N, ...) per output, in the file's dtype.

        Raises:
            ValueError: number or shapes of the arrays are not those of the inputs.
        """
        self._check(batches)
        inputs = [
            batch if batch.dtype == tensor.dtype else quantize(batch, tensor)
            for batch, tensor in zip(batches, self.inputs, strict=True)
        ]
        rows = [
            self._run([batch[i : i + 1] for batch in inputs])
            for i in range(len(inputs[0]))
        ]
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def _run(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        for index, sample in zip(self._inputs, samples, strict=True):
            self._interpreter.set_tensor(index, sample)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def _check(self, batches: Sequence[np.ndarray]) -> None:
        wanted = [tensor.shape[1:] for tensor in self.inputs]
        shapes = [batch.shape[1:] for batch in batches]
        if shapes != wanted or not len(batches[0]):
            raise ValueError(
                f"The file takes arrays (N, ...) of the shapes {wanted} behind the "
                f"batch axis, N > 0. Received: {[batch.shape for batch in batches]}"
            )


def quantize(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Returns real values as the file's tensor holds them.

    Ties round up, as in TensorFlow's fake quantization, so that a file and its
    quantized Keras model get the same input; values on the grid are exact.

    Args:
        values: float array.
        tensor: a quantized tensor, or a float one, whose values are only cast.
    """
    if tensor.scale is None:
        return values.astype(tensor.dtype)
    limits = np.iinfo(tensor.dtype)
    steps = np.floor(values.astype("float64") / tensor.scale + 0.5) + tensor.zero_point
    return np.clip(steps, limits.min, limits.max).astype(tensor.dtype)


def dequantize(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Returns the float32 values that a tensor of the file stands for."""
    if tensor.scale is None:
        return values.astype("float32")
    return ((values.astype("float64") - tensor.zero_point) * tensor.scale).astype(
        "float32"
    )

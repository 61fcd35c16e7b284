"""From a Keras model to a .tflite file that a phone can run."""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_attention import files, report
from keras_attention import graph as graphs
from keras_attention.mobile import litert, rules, sidecar, tf_converter
from keras_attention.mobile.check import problems
from keras_attention.mobile.deploy import deploy
from keras_attention.mobile.fake_quant import QUANTIZING, FakeQuantize
from keras_attention.mobile.overrides import named
from keras_attention.mobile.quantize import quantize

PRECISIONS = ("int8", "int16x8", "dynamic", "float16", "float32")
_INTEGER = ("int8", "int16x8")

# Deployed blocks call the layers that make their gates so.
_GATE = re.compile(r"_gate(_\w+)?$")


@dataclasses.dataclass(frozen=True)
class ConvertReport(report.Report):
    """What `convert` wrote.

    Attributes:
        path: the file.
        uint8_path: its twin with uint8 inputs and outputs; None for floats.
        json_path: what an app must know about them, see docs/file_formats.md.
        labels_path: the class names; None if none were given.
        precision: "int8", "int16x8", "dynamic", "float16" or "float32".
        bytes: size of the file.
        operators: number of operators of each kind.
        dtypes: number of tensors of each dtype.
        inputs: tensors at its beginning, in the order of the model's inputs.
        outputs: tensors at its end: the model's outputs, then the attention gates.
    """

    path: str
    uint8_path: str | None
    json_path: str
    labels_path: str | None
    precision: str
    bytes: int
    operators: dict[str, int]
    dtypes: dict[str, int]
    inputs: tuple[litert.Tensor, ...]
    outputs: tuple[litert.Tensor, ...]


def convert(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    precision: str | None = None,
    calibration: Any = None,
    labels: Sequence[str] | str | os.PathLike | None = None,
    softmax: bool = False,
    attention_outputs: bool = False,
    float_layers: Sequence[str] = (),
) -> ConvertReport:
    """Writes a model as a .tflite file of batch size 1, checked.

    int8: int8 inputs and outputs, every tensor int8 or int32; beside it
    `<stem>_uint8.tflite`, the same operators between uint8 inputs and outputs, into
    which raw image bytes go if the model's `input_range` says so. int16x8: int16
    inputs, outputs and activations between int8 kernels. float32: the deployed model as
    it is; float16: with its weights stored in half the bytes; dynamic: with kernels of
    1,024 numbers or more in int8, and what is multiplied by them rounded as it comes.
    The last three take video models (inputs of rank 5), too.

    `<stem>.json` beside it holds what an app must know: input range, labels, scales,
    digests (docs/file_formats.md). Files appear under their names only when all of them
    are complete; a uint8 twin that an earlier conversion to `path` wrote, and this one
    does not, is removed.

    Args:
        model: quantized by `mobile.quantize`, or a float model. It stays as it is.
        path: the file to write, "*.tflite".
        precision: one of those above; None is what the model was quantized to, and
            "float32" for a float model.
        calibration: representative inputs for a float model and an integer precision,
            as for `mobile.quantize`; not used otherwise.
        labels: class names in the order of the first output, or the path of a file
            with one a line; written as labels.txt beside the file.
        softmax: whether to append a softmax to the first output.
        attention_outputs: whether to append every attention gate as an output.
        float_layers: patterns of the layers that may compute in float in an integer
            file: those that `mobile.quantize` was given.

    Returns:
        A `ConvertReport`.

    Raises:
        OSError: the files can't be written, or `<stem>.json` is a file of other origin.
        RuntimeError: Keras does not run on TensorFlow, or TensorFlow's converter fails.
        TypeError: `model` is no functional or Sequential model.
        ValueError: a precision that the model can't have; labels that are not one per
            class; a softmax behind a softmax; gates of a model without; a range that is
            empty, not finite or not of 8 bits, by layer name; or an operator or tensor
            is left that would stop the file on a phone, by tensor and layer name. And
            what `mobile.deploy` and `mobile.quantize` raise.
    """
    _check_backend()
    quantized = quantized_to(model)
    precision = _precision(precision, quantized, calibration)
    integer = precision in _INTEGER
    target = _target(path)
    flat = model if quantized else deploy(model)
    names = _class_names(labels, flat)
    if softmax:
        _check_softmax(flat)
    files.require_writable(target)
    sidecar.require_own(target)
    if integer and not quantized:
        options = {"scheme": precision, "float_layers": float_layers}
        flat = quantize(flat, calibration, **options)
    if attention_outputs:
        flat = with_gates(flat)
    graph = graphs.trace(flat.inputs, list(flat.outputs))
    floats = named(float_layers, graph, "float_layers")
    if integer:
        tf_converter.check_ranges(graph, precision, floats)
    data = tf_converter.convert(graph, precision, softmax, floats)
    file = litert.File(data)
    found = problems(file, integer, {node.name for node in graph.nodes}, floats)
    if found:
        raise ValueError(
            f"Model '{model.name}' can't become a .tflite file for phones:\n"
            + "\n".join(found)
        )
    litert.name_ends(file.model, *_end_names(graph, softmax))
    operators, dtypes = file.operators, file.dtypes
    inputs, outputs = file.inputs, file.outputs
    contents = {target: litert.pack(file.model)}
    litert.Runner(contents[target])  # A file that can't be loaded is not written.
    twin = None
    if precision == "int8":
        twin = sidecar.twin_of(target)
        litert.give_uint8_ends(file.model)
        contents[twin] = litert.pack(file.model)
    json_path = sidecar.path_of(target)
    contents[json_path] = sidecar.describe(flat, precision, names, contents)
    stale = None if twin else sidecar.stale_twin(target)
    labels_path = _write(contents, target, names)
    if stale:
        stale.unlink()
    return ConvertReport(
        path=str(target),
        uint8_path=None if twin is None else str(twin),
        json_path=str(json_path),
        labels_path=labels_path,
        precision=precision,
        bytes=len(contents[target]),
        operators=operators,
        dtypes=dtypes,
        inputs=inputs,
        outputs=outputs,
    )


def quantized_to(model: keras.Model) -> str | None:
    """Returns the precision that `mobile.quantize` gave a model, None for a float one.

    Fewer bits than 8 are still an "int8" model, which the file would be.
    """
    layers = [x for x in getattr(model, "layers", ()) if isinstance(x, QUANTIZING)]
    activations = [layer for layer in layers if isinstance(layer, FakeQuantize)]
    if not activations:
        return "dynamic" if layers else None
    bits = [getattr(layer.quantizer, "num_bits", 8) for layer in activations]
    return "int16x8" if max(bits) > 8 else "int8"


def is_quantized(model: keras.Model) -> bool:
    """Whether the model comes from `mobile.quantize`."""
    return quantized_to(model) is not None


def with_gates(model: keras.Model) -> keras.Model:
    """Returns the model with every attention gate as a further output.

    Args:
        model: deployed or quantized.

    Returns:
        A model of the same layers: the outputs as they are, then the gates in the
        order of computation, fake-quantized where the model is.

    Raises:
        ValueError: there is no gate.
    """
    gates = _gates(model)
    if not gates:
        raise ValueError(
            f"Model '{model.name}' has no attention gates: after mobile.deploy none of "
            "its layers is called '<block>_gate' or '<block>_gate_<axis>'."
        )
    return keras.Model(model.input, [*model.outputs, *gates], name=model.name)


def _gates(model):
    graph = graphs.trace_model(model)
    readers = graph.consumers()
    gates = []
    for node in graph.nodes:
        if isinstance(node.op, FakeQuantize) or not _GATE.search(node.name):
            continue
        (gate,) = node.output_tensors
        for reader in readers[id(gate)]:
            if reader is not None and isinstance(reader.op, FakeQuantize):
                (gate,) = reader.output_tensors
        gates.append(gate)
    return gates


def _check_backend():
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Conversion needs the TensorFlow backend, not "
            f"{keras.backend.backend()!r}: save the model, set "
            "KERAS_BACKEND=tensorflow and load it there."
        )


def _precision(precision, quantized, calibration):
    if precision is None:
        return quantized or "float32"
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision must be None or one of {PRECISIONS}. Received: {precision!r}"
        )
    if quantized not in (None, precision):
        raise ValueError(
            f"The model is quantized to {quantized} and can't be converted to "
            f"'{precision}': convert the float model that it was made from."
        )
    if precision in _INTEGER and not quantized and calibration is None:
        raise ValueError(
            f"A float model needs calibration data to be converted to '{precision}': "
            "pass calibration=..., or the model that mobile.quantize returns."
        )
    return precision


def _target(path):
    target = pathlib.Path(path)
    if target.suffix != ".tflite":
        raise ValueError(f"path must end in .tflite. Received: {target}")
    return target


def _class_names(labels, model):
    if labels is None:
        return None
    from keras_attention.data.labels import read_labels

    names = read_labels(labels) if isinstance(labels, str | os.PathLike) else labels
    classes = model.outputs[0].shape[-1]
    if len(names) != classes:
        raise ValueError(
            f"There are {len(names)} labels, but the first output of model "
            f"'{model.name}' has {classes} classes."
        )
    return list(names)


def _check_softmax(model):
    shape = model.outputs[0].shape
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(
            "softmax=True needs a first output (N, classes) with at least two "
            f"classes. That of model '{model.name}' is {tuple(shape)}."
        )
    graph = graphs.trace_model(model)
    node = _computed_by(model.outputs[0], graph.producers())
    if node is not None and rules.operation_name(node.op) == "Softmax":
        raise ValueError(
            f"Model '{model.name}' ends in a softmax already: leave softmax=False."
        )


def _computed_by(tensor, producers):
    """Returns the call that computes a tensor, looking through fake quantization."""
    node = producers.get(id(tensor))
    while node is not None and isinstance(node.op, FakeQuantize):
        node = producers.get(id(node.input_tensors[0]))
    return node


def _end_names(graph: graphs.Graph, softmax: bool) -> tuple[list[str], list[str]]:
    """Returns names for the file's inputs and outputs, taken from the Keras layers."""
    producers, names = graph.producers(), graphs.Names()
    inputs = [names.unique(tensor.name) for tensor in graph.inputs]
    makers = [_computed_by(tensor, producers) for tensor in graph.outputs]
    outputs = [maker.name if maker else "output" for maker in makers]
    if softmax:
        outputs[0] += "_softmax"
    return inputs, [names.unique(name) for name in outputs]


def _write(
    contents: dict[pathlib.Path, bytes],
    target: pathlib.Path,
    names: list[str] | None,
) -> str | None:
    """Writes the files, and the labels beside `target`; returns the path of these."""
    from keras_attention.data.labels import LABELS_FILE, write_labels

    # Renamed in the reverse order: once the first file is there, all are.
    with contextlib.ExitStack() as stack:
        for path, data in contents.items():
            stack.enter_context(files.replacing(path)).write_bytes(data)
        if names is None:
            return None
        labels = target.with_name(LABELS_FILE)
        write_labels(stack.enter_context(files.replacing(labels)), names)
        return str(labels)

"""Where a .tflite file and its Keras model part: outputs of layers side by side."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence

import keras
import numpy as np

from keras_attention import graph as graphs
from keras_attention import report
from keras_attention.mobile import litert
from keras_attention.mobile.deploy import deploy
from keras_attention.mobile.fake_quant import QUANTIZING, FakeQuantize

# Decibels of a layer without any difference; float32 itself ends at about 140.
_EQUAL = 200.0
# What TensorFlow appends to a scope that is there already.
_NUMBER = re.compile(r"_\d+")


@dataclasses.dataclass(frozen=True)
class LayerError(report.Report):
    """How the output of one layer differs between a file and Keras.

    Attributes:
        layer: name in the deployed Keras model.
        operator: of the file that computes it, with what is fused into it.
        snr_db: signal-to-noise ratio, 10 log10(sum Keras^2 / sum (file - Keras)^2), in
            decibels, from -200 to 200 (equal).
        max_difference: largest |file - Keras|.
        unit: of it: "steps" of the file's integer grid, or "absolute".
    """

    layer: str
    operator: str
    snr_db: float
    max_difference: float
    unit: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Output:
    """The output of one call in the Keras model; scale None if it is not rounded."""

    tensor: keras.KerasTensor
    maker: graphs.Node
    scale: float | None = None

    @property
    def name(self) -> str:
        return self.maker.name

    @property
    def of_layer(self) -> bool:
        return isinstance(self.maker.op, keras.Layer)

    @property
    def has_bias(self) -> bool:
        return getattr(self.maker.op, "bias", None) is not None


def layer_errors(
    path: str | os.PathLike, model: keras.Model, inputs: Sequence[np.ndarray]
) -> list[LayerError]:
    """Compares what the layers of a Keras model and the operators of its file give.

    The file runs as it comes (XNNPACK), with the tensors in question as further
    outputs, which changes none of the numbers. Differences are those that have come
    together from the input up to a layer. Compared are the fake-quantized outputs of a
    quantized model, and all outputs of a float one; of these, the ones that the
    converter has left as tensors of their own, recognized by layer name, shape and
    scale.

    Args:
        path: the file, of batch size 1.
        model: what it was made from: quantized or float, deployed or not.
        inputs: one float array (N, ...) per input.

    Returns:
        One `LayerError` per output that both have, the worst first; those with equal
        ratios in the order of computation.
    """
    if not any(isinstance(layer, QUANTIZING) for layer in model.layers):
        model = deploy(model)
    outputs = _outputs(model)
    probe = keras.Model(model.inputs, [output.tensor for output in outputs])
    values = keras.tree.flatten(probe(list(inputs), training=False))
    values = [keras.ops.convert_to_numpy(value) for value in values]
    kinds, tensors, run = _exposed(path)
    shapes = [(len(inputs[0]), *tensor.shape[1:]) for tensor in tensors]
    pairs = _pairs(outputs, values, tensors, shapes)
    sums = np.zeros((len(pairs), 3))  # signal, noise, largest difference
    for sample in range(len(inputs[0])):
        found = run([array[sample : sample + 1] for array in inputs])
        for at, (output, tensor) in enumerate(pairs):
            wanted = values[output][sample].astype("float64")
            noise = litert.dequantize(found[tensor][0], tensors[tensor]) - wanted
            sums[at, :2] += np.sum(wanted**2), np.sum(noise**2)
            sums[at, 2] = max(sums[at, 2], np.abs(noise).max())
    errors = [
        LayerError(
            layer=outputs[output].name,
            operator=kinds[tensor],
            snr_db=_decibels(signal, noise),
            max_difference=float(largest / (tensors[tensor].scale or 1)),
            unit="absolute" if tensors[tensor].scale is None else "steps",
        )
        for (output, tensor), (signal, noise, largest) in zip(pairs, sums, strict=True)
    ]
    return sorted(errors, key=lambda error: error.snr_db)


def _outputs(model):
    """Returns the outputs of a flat model that its file may have, too."""
    graph = graphs.trace_model(model)
    rounding = [node for node in graph.nodes if isinstance(node.op, FakeQuantize)]
    if not rounding:
        return [
            _Output(tensor, node)
            for node in graph.nodes
            for tensor in node.output_tensors
        ]
    producers, outputs = graph.producers(), []
    for node in rounding:
        maker = producers.get(id(node.input_tensors[0]))
        if maker is None:  # An input, which the file gets as it is.
            continue
        if node.op.positive:  # Its second rounding is the tensor that is read.
            maker = node
        bounds, scale = node.op.get_range(), None
        if bounds is not None:
            bits = getattr(node.op.quantizer, "num_bits", 8)
            scale = float(bounds[1] - bounds[0]) / (2**bits - 1)
        outputs.append(_Output(node.output_tensors[0], maker, scale))
    return outputs


def _exposed(path):
    """Makes everything that a file computes readable.

    Returns:
        The operators' kinds, the tensors that they compute, and a function from one
        array per input to one array per tensor.
    """
    file = litert.File(path)
    main = file.model.subgraphs[0]
    made = {}
    for operator in main.operators:
        kind = file.kind(operator)
        if kind in ("QUANTIZE", "DEQUANTIZE"):  # Of an operator's output, mostly.
            kind = made.get(int(operator.inputs[0]), kind)
        made |= {int(tensor): kind for tensor in operator.outputs}
    main.outputs = list(made)
    inputs, tensors = file.inputs, file.outputs
    interpreter = litert.load(litert.pack(file.model))
    takes = [details["index"] for details in interpreter.get_input_details()]
    gives = [details["index"] for details in interpreter.get_output_details()]

    def run(samples):
        for index, tensor, sample in zip(takes, inputs, samples, strict=True):
            interpreter.set_tensor(index, litert.quantize(sample, tensor))
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in gives]

    return list(made.values()), tensors, run


def _pairs(outputs, values, tensors, shapes):
    """Returns the pairs (index of an output, index of the tensor that holds it).

    The shapes are those that the tensors have for a batch like that of the values.
    A tensor of which only one output can be the origin is settled first, which settles
    those that might have come of several: of a layer "relu" that is called twice and of
    one "relu_1".
    """
    options = {}
    for index, tensor in enumerate(tensors):
        fitting = [
            at
            for at, output in enumerate(outputs)
            if values[at].shape == shapes[index] and _fits(output, tensor)
        ]
        scope = _scope(tensor)
        # TensorFlow numbers the scopes of layers, which Keras opens twice a call.
        fitting.sort(key=lambda at: outputs[at].of_layer == (outputs[at].name == scope))
        options[index] = fitting
    pairs = []
    while options:
        tensor = min(options, key=lambda index: len(options[index]))
        fitting = options.pop(tensor)
        if fitting:
            pairs.append((fitting[0], tensor))
            for others in options.values():
                if fitting[0] in others:
                    others.remove(fitting[0])
    return sorted(pairs, key=lambda pair: pair[1])


def _scope(tensor):
    # "relu_1/Relu;conv_1/BiasAdd;conv_1/convolution": what was fused, the last first.
    return tensor.name.split(";")[0].split("/")[0]


def _fits(output, tensor):
    scope = _scope(tensor)
    number = scope.removeprefix(output.name)
    if not scope.startswith(output.name) or number and not _NUMBER.fullmatch(number):
        return False
    if output.scale is not None and tensor.scale is not None:
        return math.isclose(output.scale, tensor.scale, rel_tol=1e-4)
    # In float, the converter may move a bias on into the next layer.
    parts = [part for part in tensor.name.split(";") if part.startswith(f"{scope}/")]
    added = not parts or any(part.endswith("Add") for part in parts)
    return added or not output.has_bias


def _decibels(signal, noise):
    if noise == 0:
        return _EQUAL
    if signal == 0:
        return -_EQUAL
    return float(np.clip(10 * math.log10(signal / noise), -_EQUAL, _EQUAL))

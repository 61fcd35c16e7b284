"""Which operation is quantized how: one table, read by `placement`.

To teach the quantizer a new operation, add its line here and its numbers to
tests/mobile/test_rules.py. Where TFLite punishes what, is told in docs/int8.md.
"""

import dataclasses

import keras


@dataclasses.dataclass(frozen=True)
class Rule:
    """How an operation is quantized.

    Attributes:
        output: what grid the result stands on. "own": its own range. "same": that of
            its inputs, which then all share one (TFLite demands equal scales). A pair
            of numbers: a fixed range, which TFLite demands.
        kernel: "channel" for a kernel with a range per output channel, "tensor" for
            one range, None for an operation without a kernel.
        fuses: whether a ReLU behind it becomes part of it: then nothing is rounded
            between the two.
        fusible: whether it is such a ReLU.
        positive: whether its input must not be 0, to which int8 rounds small values:
            there, the smallest value is one step.
    """

    output: str | tuple[float, float] = "own"
    kernel: str | None = None
    fuses: bool = False
    fusible: bool = False
    positive: bool = False


_OWN = Rule()
_SAME = Rule("same")
_CONVOLUTION = Rule(kernel="channel", fuses=True)
_ARITHMETIC = Rule(fuses=True)
_RELU = Rule(fusible=True)
_POSITIVE = Rule(positive=True)
_UNIT = Rule((0.0, 255 / 256))

RULES = {
    # layers with a kernel; per channel, the last axis is none of a transposed one's
    # outputs, and a Dense can't be converted
    "Conv2D": _CONVOLUTION,
    "DepthwiseConv2D": _CONVOLUTION,
    "Conv2DTranspose": Rule(kernel="tensor", fuses=True),
    "Dense": Rule(kernel="tensor", fuses=True),
    # products of two computed tensors
    "Matmul": _OWN,
    # arithmetic, by broadcasting
    "Add": _ARITHMETIC,
    "Subtract": _ARITHMETIC,
    "Multiply": _ARITHMETIC,
    # functions of one value, looked up in a table
    "Abs": _OWN,
    "Exp": _OWN,
    "Log": _POSITIVE,
    "Rsqrt": _POSITIVE,
    "Sqrt": _OWN,
    # activations
    "Relu": _RELU,
    "Relu6": _RELU,
    "Sigmoid": _UNIT,
    "Softmax": _UNIT,
    "Tanh": Rule((-1.0, 127 / 128)),
    # reductions that may rescale
    "Mean": _OWN,
    "Sum": _OWN,
    "GlobalAveragePooling2D": _OWN,
    # what moves or selects values keeps their scale
    "AveragePooling2D": _SAME,
    "Concatenate": _SAME,
    "Cropping2D": _SAME,
    "ExpandDims": _SAME,
    "Flatten": _SAME,
    "GetItem": _SAME,
    "GlobalMaxPooling2D": _SAME,
    "Max": _SAME,
    "Maximum": _SAME,
    "MaxPooling2D": _SAME,
    "Minimum": _SAME,
    "Pad": _SAME,
    "Permute": _SAME,
    "Reshape": _SAME,
    "Resize": _SAME,
    "Squeeze": _SAME,
    "Take": _SAME,
    "Transpose": _SAME,
    "ZeroPadding2D": _SAME,
}

# Same mathematics under other names: Keras has activations as layers, as functions
# inside `Activation` and as operations.
_SYNONYMS = {
    "Absolute": "Abs",
    "GetitemOp": "GetItem",
    "Moveaxis": "Transpose",
    "ReLU": "Relu",
    "Swapaxes": "Transpose",
}


def operation_name(op: keras.Operation) -> str:
    """Returns the name under which `RULES` knows a layer or operation."""
    if isinstance(op, keras.layers.Activation):
        return op.activation.__name__.replace("_", " ").title().replace(" ", "")
    if isinstance(op, keras.layers.ReLU):
        return _relu_name(op)
    if isinstance(op, keras.layers.Softmax) and not isinstance(op.axis, int):
        return f"Softmax(axis={tuple(op.axis)})"
    classes = [c for c in type(op).__mro__ if c.__module__.startswith("keras.")]
    name = classes[0].__name__
    return _SYNONYMS.get(name, name)


def rule_of(op: keras.Operation, name: str) -> Rule:
    """Returns the rule of an operation.

    Raises:
        ValueError: there is none; the message names the layer and what to do.
    """
    known = operation_name(op)
    if known not in RULES:
        raise ValueError(
            f"Layer '{name}': operation {known} can't be quantized to int8. "
            "Replace it by operations that can be "
            f"({', '.join(sorted(RULES))}), or give the layer that contains it a "
            "method deploy(self) that does."
        )
    return RULES[known]


def _relu_name(layer):
    if layer.negative_slope == 0 and layer.threshold == 0:
        limit = layer.max_value
        if limit is None:
            return "Relu"
        if limit == 6:
            return "Relu6"
    return (
        f"ReLU(max_value={layer.max_value}, negative_slope={layer.negative_slope}, "
        f"threshold={layer.threshold})"
    )

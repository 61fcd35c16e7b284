"""Which operation is quantized how: one table, read by `placement`.

To teach the quantizer a new operation, add its line here and its numbers to
tests/mobile/test_rule_table.py. Where TFLite punishes what, is told in docs/int8.md.
An operation of your own gets its rule by `register_rule`.
"""

import dataclasses

import keras

from keras_attention.mobile.refusals import reason


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
        positive: whether its last input must not be 0, to which int8 rounds small
            values: there, the smallest value is one step.

    Raises:
        ValueError: an attribute is none of these; the message names it.
    """

    output: str | tuple[float, float] = "own"
    kernel: str | None = None
    fuses: bool = False
    fusible: bool = False
    positive: bool = False

    def __post_init__(self):
        fixed = isinstance(self.output, tuple) and len(self.output) == 2
        if not (fixed or self.output in ("own", "same")):
            raise ValueError(
                "output must be 'own', 'same' or a pair of numbers. Received: "
                f"{self.output!r}"
            )
        if self.kernel not in (None, "channel", "tensor"):
            raise ValueError(
                f"kernel must be None, 'channel' or 'tensor'. Received: {self.kernel!r}"
            )


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
    "Divide": _POSITIVE,
    # functions of one value, looked up in a table
    "Abs": _OWN,
    "Exp": _OWN,
    "Gelu": _OWN,
    "LeakyRelu": _OWN,
    "Log": _POSITIVE,
    "Rsqrt": _POSITIVE,
    "Sqrt": _OWN,
    # activations
    "HardTanh": _RELU,
    "Relu": _RELU,
    "Relu6": _RELU,
    "Sigmoid": _UNIT,
    "Softmax": _UNIT,
    "Tanh": Rule((-1.0, 127 / 128)),
    # reductions that may rescale
    "Mean": _OWN,
    "Prod": _OWN,
    "Sum": _OWN,
    "GlobalAveragePooling2D": _OWN,
    # what moves or selects values keeps their scale
    "AveragePool": _SAME,
    "AveragePooling2D": _SAME,
    "Concatenate": _SAME,
    "CropImages": _SAME,
    "Cropping1D": _SAME,
    "Cropping2D": _SAME,
    "DepthToSpace": _SAME,
    "ExpandDims": _SAME,
    "Flatten": _SAME,
    "GetItem": _SAME,
    "GlobalMaxPooling2D": _SAME,
    "Max": _SAME,
    "MaxPool": _SAME,
    "Maximum": _SAME,
    "MaxPooling2D": _SAME,
    "Min": _SAME,
    "Minimum": _SAME,
    "Pad": _SAME,
    "PadImages": _SAME,
    "Permute": _SAME,
    "Reshape": _SAME,
    "Resize": _SAME,
    "Roll": _SAME,
    "SpaceToDepth": _SAME,
    "Squeeze": _SAME,
    "Stack": _SAME,
    "Take": _SAME,
    "Tile": _SAME,
    "Transpose": _SAME,
    "ZeroPadding1D": _SAME,
    "ZeroPadding2D": _SAME,
}

# Same mathematics under other names: Keras has activations as layers, as functions
# inside `Activation` and as operations.
_SYNONYMS = {
    "Absolute": "Abs",
    "Amax": "Max",
    "Amin": "Min",
    "ELU": "Elu",
    "Exponential": "Exp",
    "GetitemOp": "GetItem",
    "LeakyReLU": "LeakyRelu",
    "Moveaxis": "Transpose",
    "Swapaxes": "Transpose",
    "TrueDivide": "Divide",
}

_REGISTERED: dict[type | str, Rule] = {}


def register_rule(operation: type | str, rule: Rule | None) -> None:
    """Says how an operation or layer of your own is quantized.

    `deploy` then leaves it as it is, whatever it is made of, and `quantize` places fake
    quantization around it by the rule. TFLite must have an int8 kernel for what its
    `call` computes; if not, `convert` says which of its tensors stay float.

    Args:
        operation: a layer or operation class, which means its subclasses, too; or the
            name of a class.
        rule: the rule, in front of that of this package if it has one. Registering
            again replaces it; None forgets it.

    Raises:
        TypeError: `rule` is no `Rule`, or `operation` neither a class nor a name.
    """
    is_class = isinstance(operation, type) and issubclass(operation, keras.Operation)
    if not (is_class or isinstance(operation, str)):
        raise TypeError(
            "operation must be a keras.Operation or keras.Layer class, or the name of "
            f"one. Received: {operation!r}"
        )
    if rule is None:
        _REGISTERED.pop(operation, None)
    elif isinstance(rule, Rule):
        _REGISTERED[operation] = rule
    else:
        raise TypeError(f"rule must be a mobile.Rule or None. Received: {rule!r}")


def registered(op: keras.Operation) -> Rule | None:
    """Returns the rule that the user registered for an operation."""
    for cls in type(op).__mro__:
        for key in (cls, cls.__name__):
            if key in _REGISTERED:
                return _REGISTERED[key]
    return None


def operation_name(op: keras.Operation) -> str:
    """Returns the name under which `RULES` knows a layer or operation."""
    if isinstance(op, keras.layers.Activation):
        name = op.activation.__name__.replace("_", " ").title().replace(" ", "")
        return _SYNONYMS.get(name, name)
    classes = [c for c in type(op).__mro__ if c.__module__.startswith("keras.")]
    name = classes[0].__name__
    if name in _VARIANTS:
        return _VARIANTS[name](op)
    if name in ("Layer", "Operation"):  # the user's own, whatever its name
        return f"{type(op).__module__}.{type(op).__name__}"
    return _SYNONYMS.get(name, name)


def rule_of(op: keras.Operation, name: str) -> Rule:
    """Returns the rule of an operation.

    Raises:
        ValueError: there is none; the message names the layer and what to do.
    """
    own = registered(op)
    if own is not None:
        return own
    known = operation_name(op)
    if known not in RULES:
        raise ValueError(
            f"Layer '{name}': operation {known} can't be quantized to int8"
            f"{reason(known)}. Replace it by operations that can be (docs/int8.md), "
            "give the layer that contains it a method deploy(self) that does, or, if "
            "TFLite has an int8 kernel for it, give it a rule with "
            "mobile.register_rule."
        )
    return RULES[known]


def _relu_name(op):
    if op.negative_slope == 0 and op.threshold == 0:
        if op.max_value is None:
            return "Relu"
        if op.max_value == 6:
            return "Relu6"
    return (
        f"ReLU(max_value={op.max_value}, negative_slope={op.negative_slope}, "
        f"threshold={op.threshold})"
    )


def _softmax_name(op):
    return "Softmax" if isinstance(op.axis, int) else "SoftmaxOverAxes"


def _clip_name(op):
    return "HardTanh" if (op.x_min, op.x_max) == (-1, 1) else "Clip"


def _resize_name(op):
    plain = op.interpolation in ("nearest", "bilinear") and not op.antialias
    plain = plain and not (op.crop_to_aspect_ratio or op.pad_to_aspect_ratio)
    how = f"({op.interpolation}, antialias={op.antialias})"
    return "Resize" if plain else f"Resize{how}"


def _conv_transpose_name(op):
    dilated = set(op.dilation_rate) != {1}
    return "Conv2DTranspose" + f"(dilation_rate={op.dilation_rate})" * dilated


# Classes whose arguments decide.
_VARIANTS = {
    "Clip": _clip_name,
    "Conv2DTranspose": _conv_transpose_name,
    "ReLU": _relu_name,
    "Resize": _resize_name,
    "Softmax": _softmax_name,
}

"""MobileNeXt: the names of zhoudaquan/rethinking_bottleneck_design.

Of a network with attention no code of the authors is known: a block is an attribute of
its unit under its registry name.
"""

import re

from keras_attention.models.placement import REPLACING
from keras_attention.weights.torch_names import block_of

_LAYER = re.compile(r"block_(?P<unit>\d+)_(?P<layer>\w+?)")
_ENDS = {
    "stem_conv": "features.0.0",
    "stem_bn": "features.0.1",
    "classifier": "classifier.1",
}
# Of a unit with the first depthwise convolution; then of one without.
_UNITS = (
    {
        "depthwise_1_conv": "0",
        "depthwise_1_bn": "1",
        "reduce_conv": "3",
        "reduce_bn": "4",
        "expand_conv": "5",
        "expand_bn": "6",
        "depthwise_2_conv": "8",
        "depthwise_2_bn": "9",
    },
    {
        "reduce_conv": "0",
        "reduce_bn": "1",
        "expand_conv": "2",
        "expand_bn": "3",
        "depthwise_2_conv": "5",
        "depthwise_2_bn": "6",
    },
)


def recognizes(names):
    """Whether a network with layers of these names is one of this family."""
    return {"block_1_depthwise_1_bn", "block_1_reduce_conv"} <= names


def modules(layers):
    """Yields (the authors' name or None, layer) of layers with weights."""
    names = {layer.name for layer in layers}
    for layer in layers:
        yield _module(layer, names), layer


def _module(layer, names):
    match = _LAYER.fullmatch(layer.name)
    if match is None:
        return _ENDS.get(layer.name)
    unit = f"features.{match['unit']}"
    if "attention" in match["layer"]:
        block = block_of(layer)
        own = "conv.0" if block in REPLACING else block
    else:
        starts_wide = f"block_{match['unit']}_depthwise_1_bn" in names
        own = _UNITS[not starts_wide].get(match["layer"])
        own = own and f"conv.{own}"
    return own and f"{unit}.{own}"

"""MobileNetV2: torchvision's names, and houqb's of the one with CoordAttention."""

import re

from keras_attention.weights.torch_names import block_of

_LAYER = re.compile(r"block_(?P<unit>\d+)_(?P<layer>\w+?)")
# Of a unit's layers; then of those of the first unit, which does not expand.
_TORCHVISION = (
    {
        "expand_conv": "0.0",
        "expand_bn": "0.1",
        "depthwise_conv": "1.0",
        "depthwise_bn": "1.1",
        "project_conv": "2",
        "project_bn": "3",
    },
    {
        "depthwise_conv": "0.0",
        "depthwise_bn": "0.1",
        "project_conv": "1",
        "project_bn": "2",
    },
)
_COORD_ATTENTION = (
    {
        "expand_conv": "0",
        "expand_bn": "1",
        "depthwise_conv": "3",
        "depthwise_bn": "4",
        "project_conv": "7",
        "project_bn": "8",
    },
    {
        "depthwise_conv": "0",
        "depthwise_bn": "1",
        "project_conv": "3",
        "project_bn": "4",
    },
)
_COORD_PARTS = {
    "conv1": "reduce",
    "bn1": "norm",
    "conv2": "expand_h",
    "conv3": "expand_w",
}


def recognizes(names):
    """Whether a network with layers of these names is one of this family."""
    return {"block_1_depthwise_conv", "block_2_project_conv"} <= names


def modules(layers):
    """Yields (the authors' name or None, layer) of layers with weights."""
    coord = any(block_of(layer) == "coord" for layer in layers)
    for layer in layers:
        name = _module(layer, coord)
        if name and block_of(layer) == "coord":
            for part, ours in _COORD_PARTS.items():
                yield f"{name}.{part}", getattr(layer, ours)
        else:
            yield name, layer


def _module(layer, coord):
    head = "conv" if coord else "features.18"
    ends = {"stem_conv": "features.0.0", "stem_bn": "features.0.1"}
    ends |= {"head_conv": f"{head}.0", "head_bn": f"{head}.1"}
    ends |= {"classifier": "classifier.1"}
    match = _LAYER.fullmatch(layer.name)
    if match is None:
        return ends.get(layer.name)
    names = (_COORD_ATTENTION if coord else _TORCHVISION)[match["unit"] == "1"]
    if match["layer"] == "attention" and block_of(layer) == "coord":
        own = "6"
    else:
        own = names.get(match["layer"])
    return own and f"features.{match['unit']}.conv.{own}"

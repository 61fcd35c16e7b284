"""What the authors call the layers of whole networks.

torchvision's names, which the papers' ResNets extend by their blocks: an attribute of
the unit, or of the network for blocks behind a stage. MobileNetV2 with CoordAttention
has those of houqb/CoordAttention.
"""

import re

import keras

from keras_attention.models.placement import REPLACING
from keras_attention.weights.torch_names import block_of

# Attributes by the blocks' registry names, where they differ from these.
_ATTRIBUTES = {
    "triplet": "triplet_attention",  # landskape-ai/triplet-attention
    "gc": "context_block",  # xvjiarui/GCNet
}
_RESNET = re.compile(
    r"stem_(?P<stem>conv|bn)"
    r"|stage_(?P<stage>\d+)(_unit_(?P<unit>\d+))?_"
    r"(?P<layer>(conv|bn)_\d|shortcut_conv|shortcut_bn|attention(_\d+)?)"
    r"|classifier"
)

_MOBILENET_V2 = re.compile(r"block_(?P<unit>\d+)_(?P<layer>\w+?)")
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


def modules(model: keras.Model) -> dict[str, keras.Layer]:
    """Returns the layers with weights by the names of the authors' modules.

    Args:
        model: A ResNet, a ResNeXt, or a MobileNetV2 without attention or with
            CoordAttention, of this package, with or without top.

    Raises:
        TypeError: A layer has no such name, or shares it with another one.
    """
    layers = [layer for layer in model.layers if layer.weights]
    mobilenet = any(layer.name == "block_1_depthwise_conv" for layer in layers)
    coord = any(block_of(layer) == "coord" for layer in layers)
    found = {}
    for layer in layers:
        name = _mobilenet_v2(layer, coord) if mobilenet else _resnet(layer)
        if name is None or name in found:
            raise TypeError(
                "load_torch knows the blocks of this package, its MobileNetV2 without "
                "a block or with CoordAttention behind the depthwise convolutions, and "
                "its ResNets with at most one of each block in a unit. Received: model "
                f"'{model.name}' with layer '{layer.name}' ({type(layer).__name__})"
            )
        if mobilenet and block_of(layer) == "coord":
            parts = _COORD_PARTS.items()
            found |= {f"{name}.{part}": getattr(layer, ours) for part, ours in parts}
        else:
            found[name] = layer
    return found


def _mobilenet_v2(layer, coord):
    """Returns the name of a MobileNetV2's module, or None."""
    head = "conv" if coord else "features.18"
    ends = {"stem_conv": "features.0.0", "stem_bn": "features.0.1"}
    ends |= {"head_conv": f"{head}.0", "head_bn": f"{head}.1"}
    ends |= {"classifier": "classifier.1"}
    match = _MOBILENET_V2.fullmatch(layer.name)
    if match is None:
        return ends.get(layer.name)
    names = (_COORD_ATTENTION if coord else _TORCHVISION)[match["unit"] == "1"]
    if match["layer"] == "attention" and block_of(layer) == "coord":
        own = "6"
    else:
        own = names.get(match["layer"])
    return own and f"features.{match['unit']}.conv.{own}"


def _resnet(layer):
    """Returns the name of a ResNet's module, or None."""
    match = _RESNET.fullmatch(layer.name)
    if match is None:
        return None
    if match["stem"]:
        return f"{match['stem']}1"
    if match["layer"] is None:
        return "fc"
    own = _in_unit(match["layer"], layer)
    if match["unit"] is None:
        return own and own + match["stage"]  # "bam1"
    return own and f"layer{match['stage']}.{int(match['unit']) - 1}.{own}"


def _in_unit(name, layer):
    """Returns the name of a module in its unit, or None."""
    if name.startswith("attention"):
        block = block_of(layer)
        return "conv2" if block in REPLACING else _ATTRIBUTES.get(block, block)
    if name.startswith("shortcut"):
        return "downsample.0" if name.endswith("conv") else "downsample.1"
    return name.replace("_", "")

"""ResNet and ResNeXt: torchvision's names.

The papers extend them by their blocks: an attribute of the unit, or of the network for
blocks behind a stage. So do BangguWu/ECANet (eca), Jongchan/attention-module (cbam,
bam1 to bam3), wofmanaf/SA-Net (sa), implus/PytorchInsight (se, sge), Christian-lyc/NAM
(nam), landskape-ai/triplet-attention and xvjiarui/GCNet. The other blocks are called
like in the registry.
"""

import re

from keras_attention.models.placement import REPLACING
from keras_attention.weights.torch_names import block_of

# Attributes by the blocks' registry names, where they differ from these.
_ATTRIBUTES = {
    "triplet": "triplet_attention",  # landskape-ai/triplet-attention
    "gc": "context_block",  # xvjiarui/GCNet
}
_LAYER = re.compile(
    r"stem_(?P<stem>conv|bn)"
    r"|stage_(?P<stage>\d+)(_unit_(?P<unit>\d+))?_"
    r"(?P<layer>(conv|bn)_\d|shortcut_conv|shortcut_bn|(\w+_)?attention(_\d+)?)"
    r"|classifier"
)


def recognizes(names):
    """Whether a network with layers of these names is one of this family."""
    return "stage_1_unit_1_conv_1" in names


def modules(layers):
    """Yields (the authors' name or None, layer) of layers with weights."""
    for layer in layers:
        yield _module(layer), layer


def _module(layer):
    match = _LAYER.fullmatch(layer.name)
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
    if "attention" in name:
        block = block_of(layer)
        return "conv2" if block in REPLACING else _ATTRIBUTES.get(block, block)
    if name.startswith("shortcut"):
        return "downsample.0" if name.endswith("conv") else "downsample.1"
    return name.replace("_", "")

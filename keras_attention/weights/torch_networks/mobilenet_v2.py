"""MobileNetV2: torchvision's names, d-li14's, and houqb's with CoordAttention.

pytorch/vision; d-li14/mobilenetv2.pytorch; houqb/CoordAttention. Blocks extend them: in
BangguWu/ECANet and landskape-ai/triplet-attention a block is the next module of the
unit's `conv`, other blocks are an attribute of the unit called like in the registry.
"""

import dataclasses
import re

from keras_attention.models.placement import REPLACING
from keras_attention.weights.torch_names import block_of

_LAYER = re.compile(
    r"block_(?P<unit>\d+)_"
    r"(?P<layer>(expand|depthwise|project)_(conv|bn)|(\w+_)?attention(_\d+)?)"
)
_COORD_PARTS = {
    "conv1": "reduce",
    "bn1": "norm",
    "conv2": "expand_h",
    "conv3": "expand_w",
}


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One repository's names of the modules.

    Attributes:
        ends: By the names of the layers outside of the units.
        expanding: By the layers and blocks of a unit that expands.
        first: By those of the first unit, which does not.
        coord: Of the parts of "coord", where they have other names than elsewhere.
    """

    ends: dict[str, str]
    expanding: dict[str, str]
    first: dict[str, str]
    coord: dict[str, str] = dataclasses.field(default_factory=dict)

    def recognizes(self, names):
        """Whether a network with layers of these names is one of this family."""
        return {"block_1_depthwise_conv", "block_2_project_conv"} <= names

    def modules(self, layers):
        """Yields (the authors' name or None, layer) of layers with weights."""
        for layer in layers:
            name = self._module(layer)
            if name and self.coord and block_of(layer) == "coord":
                for part, ours in self.coord.items():
                    yield f"{name}.{part}", getattr(layer, ours)
            else:
                yield name, layer

    def _module(self, layer):
        match = _LAYER.fullmatch(layer.name)
        if match is None:
            return self.ends.get(layer.name)
        unit = f"features.{match['unit']}"
        names = self.first if match["unit"] == "1" else self.expanding
        own, block = match["layer"], block_of(layer)
        if "attention" in own:
            own = "depthwise_conv" if block in REPLACING else block
        if own not in names:
            return own and f"{unit}.{own}"
        return f"{unit}.conv.{names[own]}"


def _ends(head, classifier):
    return {
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        "head_conv": f"{head}.0",
        "head_bn": f"{head}.1",
        "classifier": classifier,
    }


def _unit(*names, **blocks):
    """Returns the names of a unit's layers, from the last one on."""
    layers = ["project_bn", "project_conv", "depthwise_bn", "depthwise_conv"]
    layers += ["expand_bn", "expand_conv"]
    return dict(zip(layers, names, strict=False)) | blocks


TORCHVISION = Scheme(
    ends=_ends("features.18", "classifier.1"),
    expanding=_unit("3", "2", "1.1", "1.0", "0.1", "0.0", eca="4", triplet="4"),
    first=_unit("2", "1", "0.1", "0.0", eca="3", triplet="3"),
)
LI = Scheme(
    ends=_ends("conv", "classifier"),
    expanding=_unit("7", "6", "4", "3", "1", "0"),
    first=_unit("4", "3", "1", "0"),
)
COORD_ATTENTION = Scheme(
    ends=_ends("conv", "classifier.1"),
    expanding=_unit("8", "7", "4", "3", "1", "0", coord="6"),
    first=_unit("4", "3", "1", "0"),
    coord=_COORD_PARTS,
)
SCHEMES = (TORCHVISION, LI, COORD_ATTENTION)

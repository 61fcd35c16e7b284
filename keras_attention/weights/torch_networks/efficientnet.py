"""EfficientNet and EfficientNet-Lite: timm's names, and those of efficientnet_pytorch.

huggingface/pytorch-image-models; lukemelas/EfficientNet-PyTorch, whose names the ports
of the Lite networks have, too.
"""

import dataclasses
import re

from keras_attention.models.placement import REPLACING
from keras_attention.weights.torch_names import block_of

_LAYER = re.compile(
    r"(?P<prefix>stage_(?P<stage>\d+)_unit_(?P<unit>\d+))_"
    r"(?P<layer>(expand|depthwise|project)_(conv|bn)|(\w+_)?attention(_\d+)?)"
)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One package's names of the modules.

    Attributes:
        ends: By the names of the layers outside of the units.
        unit: Of a unit: by `stage` and `unit`, or by `number` in the whole network, all
            counted from 0.
        expanding: By the layers of a unit that expands.
        plain: By those of a unit that does not.
        attention: Of the block.
        squeeze: By the parts of squeeze-and-excitation, which is no module of its own
            here, or of which the parts have other names than elsewhere.
    """

    ends: dict[str, str]
    unit: str
    expanding: dict[str, str]
    plain: dict[str, str]
    attention: str
    squeeze: dict[str, str]

    def recognizes(self, names):
        """Whether a network with layers of these names is one of this family."""
        return {"stage_1_unit_1_depthwise_bn", "head_conv"} <= names

    def modules(self, layers):
        """Yields (the authors' name or None, layer) of layers with weights."""
        names = {layer.name for layer in layers}
        units = []  # prefixes, in order
        for layer in layers:
            match = _LAYER.fullmatch(layer.name)
            if match is None:
                yield self.ends.get(layer.name), layer
                continue
            if match["prefix"] not in units:
                units.append(match["prefix"])
            unit = self.unit.format(
                stage=int(match["stage"]) - 1,
                unit=int(match["unit"]) - 1,
                number=units.index(match["prefix"]),
            )
            expands = f"{match['prefix']}_expand_conv" in names
            own = self.expanding if expands else self.plain
            block = block_of(layer)
            if "attention" not in match["layer"]:
                yield f"{unit}.{own[match['layer']]}", layer
            elif block == "se":
                for part, theirs in self.squeeze.items():
                    yield f"{unit}.{theirs}", getattr(layer, part)
            elif block in REPLACING:
                yield f"{unit}.{own['depthwise_conv']}", layer
            else:
                yield block and f"{unit}.{self.attention}", layer


TIMM = Scheme(
    ends={
        "stem_conv": "conv_stem",
        "stem_bn": "bn1",
        "head_conv": "conv_head",
        "head_bn": "bn2",
        "classifier": "classifier",
    },
    unit="blocks.{stage}.{unit}",
    expanding={
        "expand_conv": "conv_pw",
        "expand_bn": "bn1",
        "depthwise_conv": "conv_dw",
        "depthwise_bn": "bn2",
        "project_conv": "conv_pwl",
        "project_bn": "bn3",
    },
    plain={
        "depthwise_conv": "conv_dw",
        "depthwise_bn": "bn1",
        "project_conv": "conv_pw",
        "project_bn": "bn2",
    },
    attention="se",
    squeeze={"reduce": "se.conv_reduce", "expand": "se.conv_expand"},
)

_LUKEMELAS_UNIT = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}
LUKEMELAS = Scheme(
    ends={
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "head_conv": "_conv_head",
        "head_bn": "_bn1",
        "classifier": "_fc",
    },
    unit="_blocks.{number}",
    expanding=_LUKEMELAS_UNIT,
    plain=_LUKEMELAS_UNIT,
    attention="_se",
    squeeze={"reduce": "_se_reduce", "expand": "_se_expand"},
)
SCHEMES = (TIMM, LUKEMELAS)

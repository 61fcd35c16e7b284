"""Where the units of known networks are, found by the names of their layers: a table.

The networks are those of this package's builders and of `keras.applications`. Positions
and units are those of `placement`.
"""

import re

# How names count: a stage from 1, or as c2 to c5 of the papers; a unit from 1, or as a
# letter from a.
_STAGE, _C = r"(?P<stage>\d+)", r"(?P<c>[2-5])"
_UNIT, _LETTER = r"(?P<unit>\d+)", "(?P<letter>[a-z])"

_BLOCK = f"block_{_UNIT}_"
_OWN = f"stage_{_STAGE}_unit_{_UNIT}_"
_KERAS_RESNET = f"conv{_C}_block{_UNIT}_"
_KERAS_EFFICIENTNET = f"block{_STAGE}{_LETTER}_"

_RESNET = {
    "units": (f"{_OWN}conv_1", f"{_KERAS_RESNET}1_conv"),
    "replace_spatial": (f"{_OWN}conv_2", f"{_KERAS_RESNET}2_conv"),
    # A unit of two 3x3 convolutions has no ReLU behind the last one.
    "after_spatial": (f"{_OWN}relu_2", f"{_OWN}bn_2", f"{_KERAS_RESNET}2_relu"),
    # The units of ResNet V2 end with a convolution.
    "after_project": (
        f"{_OWN}bn_3",
        f"{_OWN}bn_2",
        f"{_KERAS_RESNET}3_bn",
        f"{_KERAS_RESNET}3_conv",
    ),
    "after_sum": (f"{_OWN}relu", f"{_KERAS_RESNET}out"),
    "after_stage": (f"{_OWN}relu", f"{_KERAS_RESNET}out"),
}

# By backbone and position: patterns of whole names. Of those that are found in a unit,
# the first counts. "units" says which units there are.
PATTERNS = {
    "mobilenet_v2": {
        "units": (f"{_BLOCK}expand_relu",),  # those that expand
        "replace_spatial": (f"{_BLOCK}depthwise(_conv)?",),
        "after_depthwise": (f"{_BLOCK}depthwise_relu",),
        "after_project": (f"{_BLOCK}project_(BN|bn)",),
    },
    "mobilenext": {
        "units": (f"{_BLOCK}reduce_conv",),
        "replace_spatial": (f"{_BLOCK}depthwise_1_conv",),
        "after_depthwise": (f"{_BLOCK}depthwise_1_relu",),
    },
    "resnet": _RESNET,
    "resnet_3d": _RESNET,
    "efficientnet": {
        "units": (f"{_OWN}project_bn", f"{_KERAS_EFFICIENTNET}project_bn"),
        # EfficientNet V2 has fused units: one k x k convolution, that expands if any
        # does, is what elsewhere an expanding and a depthwise convolution are.
        "replace_spatial": (
            f"{_OWN}depthwise_conv",
            f"{_KERAS_EFFICIENTNET}dwconv2?(_attention)?",
            f"{_KERAS_EFFICIENTNET}expand_conv",
            f"{_KERAS_EFFICIENTNET}project_conv",
        ),
        # Behind the squeeze-and-excitation of keras.applications; that of the builders
        # is a block, behind which `insert` goes itself.
        "after_depthwise": (
            f"{_OWN}depthwise_act",
            f"{_KERAS_EFFICIENTNET}se_excite",
            f"{_KERAS_EFFICIENTNET}activation",
            f"{_KERAS_EFFICIENTNET}expand_activation",
        ),
    },
}


def find(backbone, position, names):
    """Returns the layers behind or in whose place a block stands at a position.

    Args:
        backbone: A key of the table.
        position: E.g. "after_depthwise".
        names: Names of a network's layers.

    Returns:
        {name of a layer: {"stage", "unit", "units"}, as in `Site`}. At "after_stage"
        these are the last units of the stages.
    """
    patterns = PATTERNS[backbone]
    units = _by_unit(patterns["units"], names)
    found = _by_unit(patterns.get(position, ()), names)
    chosen = {}
    for (stage, unit), name in found.items():
        if (stage, unit) not in units:
            continue
        count = None
        if stage is not None:
            count = sum(other == stage for other, _ in units)
            if position == "after_stage" and unit != count:
                continue
        chosen[name] = {"stage": stage, "unit": unit, "units": count}
    return chosen


def _by_unit(patterns, names):
    """Returns {(stage or None, unit): name that the first of the patterns fits}."""
    found = {}
    for pattern in patterns:
        for name in names:
            if match := re.fullmatch(pattern, name):
                found.setdefault(_numbers(match.groupdict()), name)
    return found


def _numbers(groups):
    """Returns (stage or None, unit) of a name, both counted from 1."""
    stage = groups.get("stage")
    if "c" in groups:
        stage = int(groups["c"]) - 1
    unit = ord(groups["letter"]) - ord("`") if "letter" in groups else groups["unit"]
    return None if stage is None else int(stage), int(unit)

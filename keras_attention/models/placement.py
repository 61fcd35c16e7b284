"""Where each block goes in each backbone, and what must fit there: tables.

Keys are a backbone and the registry names of blocks; the entry None is for every other
block. A position is a name from the backbone's list of positions. Stages are counted
from 1: stage 1 of a ResNet is c2 of the papers, layer1 of torchvision.
"""

from keras_attention.layers._common import largest_divisor

PLACEMENT = {
    "mobilenet_v2": {
        None: "after_depthwise",
        "coord": "after_depthwise",  # arXiv 2103.02907, every unit that expands
        "eca": "after_project",  # BangguWu/ECANet
        "triplet": "after_project",  # landskape-ai/triplet-attention
        "aw": "replace_spatial",  # arXiv 2108.08205: a convolution itself
        "sk": "replace_spatial",  # arXiv 1903.06586, in the place of the 3x3
    },
    "mobilenext": {
        # arXiv 2103.02907: behind the first depthwise convolution of units that have it
        None: "after_depthwise",
        "aw": "replace_spatial",
        "sk": "replace_spatial",
    },
    "resnet": {
        None: "after_project",  # SE, CBAM, ECA, SGE, SA: at the end of the branch
        "simam": "after_spatial",  # ZjjConan/SimAM
        "sp": "after_spatial",  # houqb/SPNet
        "bam": "after_stage",  # Jongchan/attention-module
        "aw": "replace_spatial",
        "sk": "replace_spatial",
    },
    "resnet_3d": {
        None: "after_project",
        "simam": "after_spatial",
        "nl": "after_sum",  # facebookresearch/video-nonlocal-net
        "a2": "after_sum",  # as facebookresearch/GloRe, by arXiv 1810.11579's author
        "aw": "replace_spatial",
        "sk": "replace_spatial",
    },
    "efficientnet": {
        None: "after_depthwise",  # where the network has its own "se"
        "aw": "replace_spatial",
        "sk": "replace_spatial",
    },
}


def _spread(site):
    """Whether a unit is one of 2 in c3 or of 3 in c4, every second one at most.

    facebookresearch/video-nonlocal-net: units 2 and 4, and 2, 4 and 6, of ResNet-50;
    every seventh in c4 of ResNet-101.
    """
    most = {2: 2, 3: 3}.get(site.stage)
    return most is not None and site.unit % max(2, site.units // most) == 0


# Which units, or at "after_stage" which stages, have a block in its own place; the
# others have it in all of them.
UNITS = {
    "resnet": {
        "gc": lambda site: site.stage >= 2,  # arXiv 1904.11492: c3, c4 and c5
        "nl": _spread,
        "a2": _spread,  # the layout that fits arXiv 1810.11579's budget
        # Of each stage the last unit, of the last stage every unit.
        "sp": lambda site: site.stage == 4 or site.unit == site.units,
        "bam": lambda site: site.stage <= 3,
    },
    "resnet_3d": {
        "gc": lambda site: site.stage >= 2,
        "nl": _spread,
        "a2": _spread,
    },
}

# Blocks that are convolutions, and stand nowhere else than in the place of one.
REPLACING = ("aw", "sk")

# Those of them that pad the map themselves, symmetrically.
PADDING = ("sk",)


def _squeeze(site):
    """The arguments of EfficientNet's own "se": a quarter of the unit's input."""
    if site.backbone != "efficientnet" or site.inputs is None:
        return {}
    reduction = max(1, 4 * site.channels // site.inputs)
    return {"reduction": reduction, "activation": "swish"}


# Arguments that follow from the site, by registry name. Widths of MobileNetV2 such as
# 144 are no multiples of the defaults, 32 and 64.
_FITTED = {
    "ema": lambda site: {"groups": largest_divisor(site.channels, 32)},
    "sa": lambda site: {"groups": largest_divisor(site.channels // 2, 64)},
    "sge": lambda site: {"groups": largest_divisor(site.channels, 64)},
    "se": _squeeze,
    "aw": lambda site: site.conv,
    "sk": lambda site: {
        "groups": largest_divisor(site.channels, 32),
        "strides": site.conv["strides"],
    },
}


def position_of(backbone, block):
    """Returns the position of a block in a backbone.

    Args:
        backbone: A key of the table, e.g. "mobilenet_v2".
        block: A registry name, or None for a layer that has none.
    """
    positions = PLACEMENT[backbone]
    return positions.get(block, positions[None])


def is_place(block, site):
    """Returns whether a block stands at a site if no position is asked for.

    Args:
        block: A registry name, or None for a layer that has none.
        site: A `Site` at the block's own position.
    """
    rule = UNITS.get(site.backbone, {}).get(block)
    return rule is None or rule(site)


def fitted(block, site):
    """Returns the arguments that make a block fit a site.

    Args:
        block: A registry name, or None for a layer that has none.
        site: A `Site`.

    Returns:
        A dict, for example {"groups": 24} for "ema" on 144 channels.

    Raises:
        ValueError: The block is a convolution of images, and the site one of video.
    """
    if block in REPLACING and len(site.shape) != 4:
        raise ValueError(
            f"attention {block!r} is a convolution of images and can't take the place "
            f"of one of video; received {site.name!r}, whose input has the shape "
            f"{tuple(site.shape)}"
        )
    return _FITTED[block](site) if block in _FITTED else {}

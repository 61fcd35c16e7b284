"""Where each block goes in each backbone, and what must fit there: tables.

Keys are a backbone and the registry names of blocks; the entry None is for every other
block. A position is a name from the backbone's list of positions.
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
}

# Blocks that are convolutions, and stand nowhere else than in the place of one.
REPLACING = ("aw", "sk")

# Those of them that pad the map themselves, symmetrically.
PADDING = ("sk",)

# Arguments that follow from the site, by registry name. Widths of MobileNetV2 such as
# 144 are no multiples of the defaults, 32 and 64.
_FITTED = {
    "ema": lambda site: {"groups": largest_divisor(site.channels, 32)},
    "sa": lambda site: {"groups": largest_divisor(site.channels // 2, 64)},
    "sge": lambda site: {"groups": largest_divisor(site.channels, 64)},
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


def fitted(block, site):
    """Returns the arguments that make a block fit a site.

    Args:
        block: A registry name, or None for a layer that has none.
        site: A `Site`.

    Returns:
        A dict, for example {"groups": 24} for "ema" on 144 channels.
    """
    return _FITTED[block](site) if block in _FITTED else {}

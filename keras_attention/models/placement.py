"""Where each block goes in each backbone: one table.

Keys are a backbone and the registry names of blocks; the entry None is for every other
block. A position is a name from the backbone's list of positions.
"""

PLACEMENT = {
    "mobilenet_v2": {
        None: "after_depthwise",
        "coord": "after_depthwise",  # arXiv 2103.02907, every unit that expands
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

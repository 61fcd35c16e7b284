"""The maps that heads for detection and segmentation take from a network."""

import math
import re

import keras
import numpy as np

# The parts of the builders' networks, by the beginnings of their layers' names.
_PART = re.compile(r"stem|block_\d+|stage_\d+|head(?!_pool|_dropout)")


def feature_levels(model):
    """Returns the last map of each stride.

    Args:
        model: A network of one of the builders, with or without top, loaded ones too.

    Returns:
        {stride: name of a layer}, strides ascending, by which
        `keras.Model(model.input, [model.get_layer(name).output, ...])` has the maps.
        Strides are 4, 8, 16 and 32 in a ResNet, also 2 in MobileNetV2 and MobileNeXt,
        and smaller by what a stem for small images leaves out. Those of video are the
        strides of height and width. An attention block behind a unit or a stage belongs
        to it.

    Raises:
        ValueError: The model is none of these networks.
    """
    parts = {}
    for layer in model.layers:  # each behind those that it depends on
        if part := _PART.match(layer.name):
            parts.setdefault(part[0], []).append(layer)
    if "stem" not in parts:
        raise ValueError(
            "feature_levels needs a network of a builder in keras_attention.models; "
            f"received {model.name!r}, whose layers have other names"
        )
    levels, stride = {}, 1
    for part in parts.values():
        stride *= math.prod(map(_stride, part))
        levels[stride] = part[-1].name
    return levels


def _stride(layer: keras.Layer) -> int:
    """Returns by what a layer divides the size of the maps."""
    if "_shortcut_" in layer.name:  # beside the convolution that counts
        return 1
    return int(np.ravel(getattr(layer, "strides", 1))[-1])  # time comes first

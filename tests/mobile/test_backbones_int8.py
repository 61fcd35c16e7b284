"""Attention blocks inside of every backbone, as int8 files: whole, and as good."""

import keras
import numpy as np
import pytest
from support.comparing import relative_error
from support.mobile_nets import images, randomize, scaled, settle

import keras_attention
from keras_attention import mobile, models
from keras_attention.mobile import litert
from keras_attention.models import placement

# The papers' blocks in MobileNetV2, by unit: maps of 16, 8, 4 and 2 pixels.
DEPTHS = {3: "coord", 6: "ema", 10: "a2", 15: "aw"}


def papers_blocks(site):
    """Coord, EMA and A2 behind depthwise convolutions, AW in the place of one."""
    name = DEPTHS.get(site.unit)
    replacing = site.position == "replace_spatial"
    if name is None or replacing != (name in placement.REPLACING):
        return None
    return keras_attention.get(name, **placement.fitted(name, site), name=site.name)

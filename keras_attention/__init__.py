"""Attention blocks for convolutional networks in Keras 3, up to full-int8 TFLite.

Importing this package registers every class that a saved model may need. The parts that
build, feed and train models are imported on first use; so are TensorFlow and LiteRT by
those that convert them.
"""

import importlib

from keras_attention import image_input as image_input
from keras_attention import optimization as optimization
from keras_attention import stock as stock
from keras_attention.layers import (
    BAM,
    CBAM,
    ECA,
    GAM,
    NAM,
    AWConv2D,
    CoordAttention,
    DoubleAttention,
    EfficientMultiScaleAttention,
    GatherExcite,
    GlobalContext,
    NonLocal,
    SelectiveKernel,
    ShuffleAttention,
    SimAM,
    SpatialGroupEnhance,
    SqueezeExcite,
    StripPooling,
    TripletAttention,
)
from keras_attention.mobile import fake_quant as fake_quant
from keras_attention.registry import get, names, register
from keras_attention.regularizers import GammaL1, penalize_gammas

__version__ = "0.1.0"

__all__ = [
    "AWConv2D",
    "BAM",
    "CBAM",
    "CoordAttention",
    "DoubleAttention",
    "ECA",
    "EfficientMultiScaleAttention",
    "GAM",
    "GammaL1",
    "GatherExcite",
    "GlobalContext",
    "NAM",
    "NonLocal",
    "SelectiveKernel",
    "ShuffleAttention",
    "SimAM",
    "SpatialGroupEnhance",
    "SqueezeExcite",
    "StripPooling",
    "TripletAttention",
    "get",
    "names",
    "penalize_gammas",
    "register",
]

_LAZY = ("data", "models", "training", "weights")


def __getattr__(name):
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})

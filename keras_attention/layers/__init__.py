"""Attention blocks as Keras layers: one class per file."""

from keras_attention.layers.aw_conv2d import AWConv2D
from keras_attention.layers.bam import BAM
from keras_attention.layers.cbam import CBAM
from keras_attention.layers.coord_attention import CoordAttention
from keras_attention.layers.double_attention import DoubleAttention
from keras_attention.layers.eca import ECA
from keras_attention.layers.efficient_multiscale_attention import (
    EfficientMultiScaleAttention,
)
from keras_attention.layers.gam import GAM
from keras_attention.layers.gather_excite import GatherExcite
from keras_attention.layers.global_context import GlobalContext
from keras_attention.layers.nam import NAM
from keras_attention.layers.non_local import NonLocal
from keras_attention.layers.selective_kernel import SelectiveKernel
from keras_attention.layers.shuffle_attention import ShuffleAttention
from keras_attention.layers.simam import SimAM
from keras_attention.layers.spatial_group_enhance import SpatialGroupEnhance
from keras_attention.layers.squeeze_excite import SqueezeExcite
from keras_attention.layers.strip_pooling import StripPooling
from keras_attention.layers.triplet_attention import TripletAttention

__all__ = [
    "AWConv2D",
    "BAM",
    "CBAM",
    "CoordAttention",
    "DoubleAttention",
    "ECA",
    "EfficientMultiScaleAttention",
    "GAM",
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
]

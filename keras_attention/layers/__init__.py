"""Attention blocks as Keras layers: one class per file."""

from keras_attention.layers.aw_conv2d import AWConv2D
from keras_attention.layers.coord_attention import CoordAttention
from keras_attention.layers.double_attention import DoubleAttention
from keras_attention.layers.efficient_multiscale_attention import (
    EfficientMultiScaleAttention,
)

__all__ = [
    "AWConv2D",
    "CoordAttention",
    "DoubleAttention",
    "EfficientMultiScaleAttention",
]

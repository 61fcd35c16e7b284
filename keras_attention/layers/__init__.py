"""Attention blocks as Keras layers: one class per file."""

from keras_attention.layers.coord_attention import CoordAttention

__all__ = ["CoordAttention"]

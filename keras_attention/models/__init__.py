"""Backbones with attention blocks in the places of their papers."""

from keras_attention.models._attention import Site
from keras_attention.models.mobilenet_v2 import MobileNetV2

__all__ = ["MobileNetV2", "Site"]

"""Backbones with attention blocks in the places of their papers."""

from keras_attention.models._attention import Site
from keras_attention.models.features import feature_levels
from keras_attention.models.mobilenet_v2 import MobileNetV2
from keras_attention.models.resnet import (
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
    ResNeXt50,
)

__all__ = [
    "MobileNetV2",
    "ResNeXt50",
    "ResNet101",
    "ResNet152",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "Site",
    "feature_levels",
]

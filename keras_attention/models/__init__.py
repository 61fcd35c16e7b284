"""Backbones with attention blocks in the places of their papers."""

from keras_attention.models._attention import Site
from keras_attention.models.counting import count_multiply_adds
from keras_attention.models.efficientnet import (
    EfficientNetB0,
    EfficientNetB1,
    EfficientNetB2,
    EfficientNetB3,
    EfficientNetB4,
    EfficientNetB5,
    EfficientNetB6,
    EfficientNetB7,
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
)
from keras_attention.models.features import feature_levels
from keras_attention.models.insertion import insert
from keras_attention.models.mobilenet_v2 import MobileNetV2
from keras_attention.models.mobilenext import MobileNeXt
from keras_attention.models.normalization import normalized
from keras_attention.models.presets import preset, presets
from keras_attention.models.resnet import (
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
    ResNeXt50,
)
from keras_attention.models.resnet_3d import ResNet26_3D, ResNet29_3D, ResNet50_3D

__all__ = [
    "EfficientNetB0",
    "EfficientNetB1",
    "EfficientNetB2",
    "EfficientNetB3",
    "EfficientNetB4",
    "EfficientNetB5",
    "EfficientNetB6",
    "EfficientNetB7",
    "EfficientNetLite0",
    "EfficientNetLite1",
    "EfficientNetLite2",
    "EfficientNetLite3",
    "EfficientNetLite4",
    "MobileNeXt",
    "MobileNetV2",
    "ResNeXt50",
    "ResNet101",
    "ResNet152",
    "ResNet18",
    "ResNet26_3D",
    "ResNet29_3D",
    "ResNet34",
    "ResNet50",
    "ResNet50_3D",
    "Site",
    "count_multiply_adds",
    "feature_levels",
    "insert",
    "normalized",
    "preset",
    "presets",
]

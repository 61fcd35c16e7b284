"""A ResNet of video of few units and channels."""

import dataclasses

import pytest

from keras_attention import models
from keras_attention.models import resnet_3d

CLIP = (4, 32, 32, 3)


def narrow_resnet_3d(
    build="ResNet26_3D",
    units=(2, 2, 1, 1),
    channels=(4, 8, 12, 16),
    stem=8,
    **arguments,
):
    """A ResNet of video of few units and channels, from a builder."""
    layout = resnet_3d.LAYOUTS[build]
    small = dataclasses.replace(layout, units=units, channels=channels, stem=stem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet_3d.LAYOUTS, build, small)
        size = {"input_shape": CLIP, "classes": 5}
        return getattr(models, build)(**size | arguments)

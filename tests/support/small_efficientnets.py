"""Narrow EfficientNets: few units and channels."""

import pytest

from keras_attention import models
from keras_attention.models import efficientnet

# With and without expansion, stride and residual sum; both kernel sizes; stride 8.
STAGES = ((1, 3, 8, 1, 1), (4, 5, 16, 2, 2), (4, 3, 24, 1, 2))
UNITS = [(1, 1), (2, 1), (2, 2), (3, 1)]
# The strides of the real ones.
DEEP = (
    *((1, 3, 8, 1, 1), (4, 3, 8, 2, 2), (4, 5, 16, 1, 2), (4, 3, 16, 1, 2)),
    *((4, 5, 24, 1, 1), (4, 5, 24, 1, 2), (4, 3, 32, 1, 1)),
)


def narrow_efficientnet(build="EfficientNetB0", stages=STAGES, **arguments):
    """An EfficientNet of few units and channels, from a builder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", stages)
        patch.setattr(efficientnet, "STEM_CHANNELS", 16)
        patch.setattr(efficientnet, "HEAD_CHANNELS", 48)
        size = {"input_shape": (32, 32, 3), "classes": 5}
        return getattr(models, build)(**size | arguments)

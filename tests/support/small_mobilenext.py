"""A MobileNeXt of few units."""

import pytest

from keras_attention import models
from keras_attention.models import mobilenext

# Of units with both depthwise convolutions 1, 3, 5 and 6, with the last one alone 2,
# with none 4; sums in 3 and 5.
STAGES = ((2, 24, 1, 2), (6, 32, 2, 2), (6, 40, 2, 1), (6, 48, 1, 1))
NO_FIRST = (2, 4)


def narrow_mobilenext(stages=STAGES, **arguments):
    """A MobileNeXt of six narrow units, or of other stages, from its builder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenext, "STAGES", stages)
        size = {"input_shape": (32, 32, 3), "classes": 5}
        return models.MobileNeXt(**size | arguments)

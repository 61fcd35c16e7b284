"""Every block on maps of one position and of a few, as an int8 file.

What is always 0 there, as the difference between a value and the mean of it alone, has
no int8 grid: mobile forms have to leave it out.
"""

import numpy as np
import pytest
from backends.cases import ARGUMENTS
from support.comparing import CLOSE, difference, features, relative_error
from support.deploy_suite import deployed, int8_file
from support.torch_weights import live

from keras_attention import get, names

SIZES = {"1x1": (1, 1), "5x3": (5, 3)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("block", names())
def test_small_map(block, size, tmp_path):
    shape = (32, *SIZES[size], 32)
    layer, _ = live(get(block, **ARGUMENTS[block][0]), shape)
    # Others may close both channels of a ReLU in BAM, whose range is empty then.
    x = features(*shape, seed=3)
    model = deployed(layer, shape[1:])
    y = np.asarray(model(x))
    assert difference(y, layer(x)) <= CLOSE
    # The block does something to its input, in each channel.
    assert (y.std((0, 1, 2)) > 0).all()
    if y.shape == x.shape:
        assert relative_error(x, y) >= 0.1
    # asserts that all tensors are int8
    quantized, actual, runner = int8_file(model, x, tmp_path / "block.tflite")
    steps = np.abs(actual - np.asarray(quantized(x))) / runner.outputs[0].scale
    assert steps.max() < 4.1
    assert relative_error(actual, y) <= 0.05

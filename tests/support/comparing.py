"""How tests compare arrays, and what they feed to layers."""

import keras
import numpy as np
from keras import ops

# float32, sums of some hundred terms: the tolerance of the golden files
CLOSE = 1e-5


def array(value):
    """Returns a tensor of any backend, a variable or a list of numbers as an array."""
    if isinstance(value, keras.Variable):
        value = value.value
    return ops.convert_to_numpy(value) if ops.is_tensor(value) else np.asarray(value)


def difference(actual, expected, scale=None):
    """Returns the largest difference relative to the largest expected value."""
    actual, expected = array(actual), array(expected)
    scale = np.abs(expected).max() if scale is None else scale
    return np.abs(actual - expected).max() / scale


def relative_error(actual, expected):
    """Returns the norm of the difference relative to that of the expected values."""
    actual, expected = array(actual), array(expected)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def features(*shape, seed=1):
    """Returns normal numbers, float32."""
    return np.random.default_rng(seed).normal(0, 1, shape).astype("float32")

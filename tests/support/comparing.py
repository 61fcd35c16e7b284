"""How tests compare arrays, and what they feed to layers."""

import numpy as np

# float32, sums of some hundred terms: the tolerance of the golden files
CLOSE = 1e-5


def difference(actual, expected, scale=None):
    """Returns the largest difference relative to the largest expected value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    scale = np.abs(expected).max() if scale is None else scale
    return np.abs(actual - expected).max() / scale


def relative_error(actual, expected):
    """Returns the norm of the difference relative to that of the expected values."""
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def features(*shape, seed=1):
    """Returns normal numbers, float32."""
    return np.random.default_rng(seed).normal(0, 1, shape).astype("float32")

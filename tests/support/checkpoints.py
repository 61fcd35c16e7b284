"""What the tests of checkpoint files share."""

import numpy as np
import pytest

from keras_attention.weights import read_state_dict

STATE = {
    "weight": np.arange(6, dtype="float32").reshape(2, 3),
    "bias": np.array([0.5, -2.0]),
}


def assert_same(actual, expected):
    """Checks names, their order, types, shapes and numbers."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype and actual[name].shape == array.shape
        np.testing.assert_array_equal(actual[name], array)


def raises(path, message):
    """Checks that a file is refused by its name and for the given reason."""
    with pytest.raises(ValueError, match=message) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)

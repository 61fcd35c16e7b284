"""load_torch: names, layouts, and what it refuses. The golden tests use it, too."""

import keras
import numpy as np
import pytest
from support.comparing import features
from support.torch_weights import random_weights

from keras_attention import CoordAttention, names, weights
from keras_attention.weights.torch_names import NAMES
from keras_attention.weights.torch_state import Parameter


@pytest.fixture
def layer():
    layer = CoordAttention(name="coord")
    layer.build((None, 4, 4, 16))
    return layer


@pytest.fixture
def state(layer):
    return random_weights(layer)


def test_every_block_has_names():
    assert set(NAMES) == set(names())


def test_loads_every_weight(layer, state):
    report = weights.load_torch(layer, state)
    assert set(report.loaded) == set(state)
    assert report.missing == report.unexpected == ()
    expected = state["conv_h.weight"][:, :, 0, 0].T
    np.testing.assert_array_equal(layer.expand_h.kernel[0, 0], expected)
    np.testing.assert_array_equal(layer.norm.moving_variance, state["bn1.running_var"])
    np.testing.assert_array_equal(layer.reduce.bias, state["conv1.bias"])
    assert report.to_dict()["loaded"] == list(report.loaded)
    assert "conv1.weight" in str(report)


def test_takes_tensors_and_ignores_the_counter_of_batches(layer, state):
    class Tensor:  # as torch's: on some device, with a history
        def __init__(self, array):
            self._array = array

        def detach(self):
            return self

        cpu = float = detach

        def numpy(self):
            return self._array

    tensors = {name: Tensor(array) for name, array in state.items()}
    report = weights.load_torch(
        layer, tensors | {"bn1.num_batches_tracked": Tensor(np.array(7))}
    )
    assert len(report.loaded) == len(state) and not report.unexpected
    np.testing.assert_array_equal(layer.expand_w.bias, state["conv_w.bias"])


def test_a_matrix_or_a_kernel_of_video_fits_a_pointwise_convolution(layer, state):
    weights.load_torch(layer, state)
    before = layer.get_weights()
    for tail in [(), (1,), (1, 1, 1)]:
        reshaped = {
            name: array.reshape(array.shape[:2] + tail) if array.ndim == 4 else array
            for name, array in state.items()
        }
        weights.load_torch(layer, reshaped)
        assert all(map(np.array_equal, before, layer.get_weights()))


def test_missing_and_unexpected_names(layer, state):
    before = layer.get_weights()
    given = {name: array for name, array in state.items() if name != "conv_w.bias"}
    given["conv9.bias"] = state["conv1.bias"]
    message = (
        r"does not fit layer 'coord': missing \['conv_w.bias'\], "
        r"unexpected \['conv9.bias'\]"
    )
    with pytest.raises(ValueError, match=message):
        weights.load_torch(layer, given)
    assert all(map(np.array_equal, before, layer.get_weights()))
    report = weights.load_torch(layer, given, strict=False)
    assert report.missing == ("conv_w.bias",)
    assert report.unexpected == ("conv9.bias",)
    np.testing.assert_array_equal(layer.reduce.bias, state["conv1.bias"])
    assert not np.any(layer.expand_w.bias)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv1.weight", (16, 8, 1, 1)),
        ("conv1.weight", (8, 16, 3, 3)),
        ("conv_h.weight", (128,)),
        ("bn1.running_mean", (16,)),
        ("conv_w.bias", (2, 8)),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_refuses_shapes_and_changes_nothing(layer, state, name, shape, strict):
    before = layer.get_weights()
    with pytest.raises(ValueError, match=f"'{name}' has the shape.*'coord' needs"):
        weights.load_torch(layer, state | {name: np.zeros(shape)}, strict=strict)
    assert all(map(np.array_equal, before, layer.get_weights()))


def test_refuses_other_layers_and_unbuilt_ones(state):
    dense = keras.layers.Dense(3)
    with pytest.raises(TypeError, match="knows the blocks .*coord.*Received: Dense"):
        weights.load_torch(dense, state)
    with pytest.raises(ValueError, match="Layer 'raw' must be built before"):
        weights.load_torch(CoordAttention(name="raw"), state)


@pytest.mark.parametrize("given", [None, [("conv1.weight", 0)]])
def test_refuses_what_is_no_state_dict(layer, given):
    message = f"needs .*: array.* or the path .*Received: {type(given).__name__}"
    with pytest.raises(TypeError, match=message):
        weights.load_torch(layer, given)


def test_subclasses_load_as_their_block(state):
    class Mine(CoordAttention):
        pass

    layer = Mine()
    layer.build((None, 4, 4, 16))
    assert len(weights.load_torch(layer, state).loaded) == len(state)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_layout(multiplier):
    # PyTorch's output channel c * multiplier + m reads input channel c, as Keras' does
    layer = keras.layers.DepthwiseConv2D(3, depth_multiplier=multiplier)
    layer.build((None, 5, 5, 4))
    parameter = Parameter(layer.kernel, depthwise=True)
    theirs = features(*parameter.torch_shape)
    assert theirs.shape == (4 * multiplier, 1, 3, 3)
    layer.kernel.assign(parameter.to_keras(theirs))
    np.testing.assert_array_equal(parameter.to_torch(layer.kernel.numpy()), theirs)
    x = features(1, 3, 3, 4)
    expected = [
        (x[0, :, :, channel // multiplier] * theirs[channel, 0]).sum()
        for channel in range(4 * multiplier)
    ]
    y = layer(x)[0, 0, 0]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)

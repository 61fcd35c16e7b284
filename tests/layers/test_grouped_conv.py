"""GroupedConv2D: equal to a loop over its groups, and to Keras' own convolution."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from support.comparing import CLOSE, difference, features
from support.gradients import gradients

from keras_attention.layers._grouped_conv import GroupedConv2D

# groups, input channels, filters: one run, runs of one group, even and uneven runs
WIDTHS = ((1, 6, 4), (3, 6, 9), (4, 80, 4), (32, 64, 64), (14, 168, 28), (6, 90, 12))


def live(groups, channels, filters, kernel_size=3, **arguments):
    """Returns a layer with random weights."""
    layer = GroupedConv2D(filters, kernel_size, groups=groups, **arguments)
    first = layer.data_format == "channels_first"
    layer.build((None, channels, 9, 9) if first else (None, None, None, channels))
    shapes = [tuple(w.shape) for w in layer.weights]
    scale = np.prod(shapes[0][:-1]) ** -0.5
    layer.set_weights([scale * features(*s, seed=i) for i, s in enumerate(shapes)])
    return layer


def loop(x, kernel, bias, groups, strides=1, dilation=1):
    """Convolves "valid" in float64: group by group, and position by position."""
    x, kernel = x.astype("float64"), kernel.astype("float64")
    height, width, inputs, filters = kernel.shape
    own = filters // groups
    rows = (x.shape[1] - (height - 1) * dilation - 1) // strides + 1
    columns = (x.shape[2] - (width - 1) * dilation - 1) // strides + 1
    y = np.zeros((len(x), rows, columns, filters))
    for group in range(groups):
        seen = x[..., group * inputs : (group + 1) * inputs]
        part = kernel[..., group * own : (group + 1) * own]
        for i in range(rows):
            for j in range(columns):
                top, left = i * strides, j * strides
                bottom = top + (height - 1) * dilation + 1
                right = left + (width - 1) * dilation + 1
                window = seen[:, top:bottom:dilation, left:right:dilation]
                value = np.einsum("nhwc,hwcf->nf", window, part)
                y[:, i, j, group * own : (group + 1) * own] = value
    return y + bias


@pytest.mark.parametrize("widths", WIDTHS)
def test_equals_loop_over_groups(widths):
    layer = live(*widths)
    kernel, bias = layer.get_weights()
    assert kernel.shape == (3, 3, widths[1] // widths[0], widths[2])
    x = features(2, 6, 5, widths[1])
    y = ops.convert_to_numpy(layer(x))
    assert difference(y, loop(x, kernel, bias, widths[0])) <= CLOSE


@pytest.mark.parametrize("strides, dilation", [(2, 1), (1, 2), (1, 3)])
def test_strides_and_dilation(strides, dilation):
    layer = live(4, 80, 12, strides=strides, dilation_rate=dilation)
    x = features(2, 10, 9, 80)
    expected = loop(x, *layer.get_weights(), 4, strides, dilation)
    assert difference(ops.convert_to_numpy(layer(x)), expected) <= CLOSE


@given(
    groups=st.integers(1, 12),
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 4),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 1000),
)
def test_any_widths(groups, inputs, outputs, size, seed):
    layer = live(groups, groups * inputs, groups * outputs, size)
    x = features(2, 4, 4, groups * inputs, seed=seed)
    y = ops.convert_to_numpy(layer(x))
    expected = loop(x, *layer.get_weights(), groups)
    # what is summed may cancel; its terms are of the order of 1
    assert difference(y, expected, max(1, np.abs(expected).max())) <= CLOSE


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_gradients_equal_those_of_parts(data_format, padding):
    """Parts: a convolution without groups for each group."""
    groups, channels, filters = 6, 90, 12
    layer = live(groups, channels, filters, padding=padding, data_format=data_format)
    first = data_format == "channels_first"
    x = features(2, 7, 6, channels)
    cotangent = features(2, *((7, 6) if padding == "same" else (5, 4)), filters, seed=9)

    def turned(array, back=False):
        return np.moveaxis(array, *((1, -1) if back else (-1, 1))) if first else array

    y, dx, found = gradients(layer, turned(x), turned(cotangent))
    kernel, bias = layer.get_weights()
    for group in range(groups):
        seen, made = slice(group * 15, group * 15 + 15), slice(group * 2, group * 2 + 2)
        part = keras.layers.Conv2D(
            2, 3, padding=padding, data_format="channels_last", dtype="float32"
        )
        part.build((None, None, None, 15))
        part.set_weights([kernel[..., made], bias[made]])
        inputs = np.ascontiguousarray(x[..., seen])
        expected = gradients(part, inputs, np.ascontiguousarray(cotangent[..., made]))
        assert difference(turned(y, True)[..., made], expected[0]) <= CLOSE
        assert difference(turned(dx, True)[..., seen], expected[1]) <= CLOSE
        for own, theirs in zip(layer.weights, part.weights, strict=True):
            actual = found[id(own)][..., made]
            assert difference(actual, expected[2][id(theirs)]) <= CLOSE


def test_equals_keras_own():
    """Activation, bias and padding included."""
    layer = live(4, 80, 8, padding="same", activation="relu", kernel_regularizer="l2")
    own = keras.layers.Conv2D.from_config(layer.get_config())
    own.build((None, None, None, 80))
    own.set_weights(layer.get_weights())
    x, cotangent = features(4, 6, 5, 80), features(4, 6, 5, 8, seed=2)
    y, dx, found = gradients(layer, x, cotangent)
    expected = gradients(own, x, cotangent)
    assert difference(y, expected[0]) <= CLOSE
    assert difference(dx, expected[1]) <= CLOSE
    for mine, theirs in zip(layer.weights, own.weights, strict=True):
        assert difference(found[id(mine)], expected[2][id(theirs)]) <= CLOSE
    losses = [float(one.losses[0]) for one in (layer, own)]
    assert losses[0] == pytest.approx(losses[1], rel=CLOSE)


def test_mixed_precision():
    layer, exact = live(4, 80, 8, dtype="mixed_bfloat16"), live(4, 80, 8)
    y = layer(features(2, 6, 5, 80))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert layer.kernel.dtype == "float32"
    y = ops.convert_to_numpy(ops.cast(y, "float32"))
    # 8 significant bits
    assert difference(y, exact(features(2, 6, 5, 80))) <= 0.02


def test_keras_file_and_config(tmp_path):
    layer = live(4, 80, 8, padding="same", strides=2)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is GroupedConv2D and again.get_config() == layer.get_config()
    x = keras.Input((None, None, 80))
    model = keras.Model(x, layer(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = features(2, 7, 6, 80)
    y = ops.convert_to_numpy(model(images))
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(images)), y)
    assert layer.compute_output_shape((2, 7, 6, 80)) == y.shape == (2, 4, 3, 8)


def test_refuses():
    with pytest.raises(ValueError, match="evenly divisible.*groups=3, filters=8"):
        GroupedConv2D(8, 3, groups=3)
    with pytest.raises(ValueError, match="groups=4, but the input has 6 channels"):
        GroupedConv2D(8, 3, groups=4).build((None, 4, 4, 6))

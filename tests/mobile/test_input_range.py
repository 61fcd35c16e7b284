"""Input ranges of `mobile.quantize`: given, stored, refused."""

import keras
import numpy as np
import pytest
from support.mobile_nets import (
    SIDE,
    images,
    randomize,
    scaled,
    several,
)
from support.quantizing import DATA, span

from keras_attention import image_input
from keras_attention.mobile import quantize
from keras_attention.mobile.quantize import check_input_range


@pytest.mark.parametrize(
    "given", [(0, 1), (0, 255), (-1, 127 / 128), (-128, 127), (-0.5, 0.5 * 127 / 128)]
)
def test_input_ranges_that_are_grids_of_bytes(given):
    low, high = check_input_range(*given)
    assert (low, high) == given
    values = low + np.arange(256) * (high - low) / 255
    assert np.abs(values).min() < 1e-9  # 0 is a byte


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            (-1, 1),
            r"\(-1, 1\) is no grid of bytes.*nearest valid range is \(-1, 0.9921875\)",
        ),
        ((-1, 2), r"nearest valid range is \(-1, 2\)"),
        ((-2, 1), r"nearest valid range is \(-2, 1\)"),
        ((-0.1, 300), r"nearest valid range is "),
        ((1, 2), "must be finite, low < high, and hold 0"),
        ((-2, -1), "must be finite, low < high, and hold 0"),
        ((1, -1), "must be finite, low < high, and hold 0"),
        ((0, 0), "must be finite, low < high, and hold 0"),
        ((-1, np.inf), "must be finite, low < high, and hold 0"),
        ((np.nan, 1), "must be finite, low < high, and hold 0"),
    ],
)
def test_input_ranges_that_are_not(given, message):
    if given in ((-1, 2), (-2, 1)):  # 85 and 170 of 255: these are
        assert check_input_range(*given) == given
        return
    with pytest.raises(ValueError, match=message) as error:
        check_input_range(*given)
    if "nearest" in message:
        text = str(error.value).split("range is (")[1].split(")")[0]
        check_input_range(*map(float, text.split(",")))  # what it names is valid


def test_a_fixed_input_range(net):
    model = quantize(net, DATA / 2, input_range=(-1, 127 / 128))
    assert span(model, "image_quant") == (-1, 127 / 128)
    assert image_input.input_range_of(model) == (-1, 127 / 128)
    grid = keras.Model(model.input, model.get_layer("image_quant").output)
    every = np.resize(np.arange(256), (2, 8, 8, 3)).astype("uint8")
    np.testing.assert_array_equal(grid(scaled(every)), scaled(every))  # not a bit lost
    assert model.get_layer("image_quant").weights == []


def test_the_stored_range_is_used(net):
    inputs = image_input.make_input((8, 8, 3), (0, 255), name="image")
    model = keras.Model(inputs, net(inputs))
    photos = images(8, 8).astype("float32") / 2
    assert span(quantize(model, photos), "image_quant") == (0, 255)
    other = quantize(model, photos, input_range=(0, 127.5))
    assert span(other, "image_quant") == (0, 127.5)
    assert image_input.input_range_of(other) == (0, 127.5)
    with pytest.raises(
        ValueError, match=r"\[0, 255\], outside of its fixed range \[0, 1"
    ):
        quantize(model, photos * 2, input_range=(0, 127.5))


def test_an_invalid_stored_range_is_refused(net):
    inputs = image_input.make_input((8, 8, 3), (-1, 1), name="image")
    with pytest.raises(ValueError, match="no grid of bytes"):
        quantize(keras.Model(inputs, net(inputs)), DATA)


@pytest.mark.parametrize("data", [1.01 * DATA, DATA + 0.02])
def test_data_outside_of_a_fixed_range(net, data):
    with pytest.raises(
        ValueError, match=r"of input 'image' lies in \[.*\], outside of its fixed range"
    ):
        quantize(net, data, input_range=(-1, 127 / 128))


def test_ranges_of_several_inputs():
    image = image_input.make_input((16, 16, 3), name="image")
    side, plain = keras.Input((4,), name="side"), several()
    model = randomize(keras.Model([image, side], plain([image, side])))
    data = [scaled(images(8)), SIDE]
    quantized = quantize(model, data)  # the image's stored range is not the vector's
    assert span(quantized, "image_quant") == (-1, 127 / 128)
    assert span(quantized, "side_quant") == pytest.approx((SIDE.min(), SIDE.max()))
    quantized = quantize(model, data, input_range={"side": (-128, 127)})
    assert span(quantized, "image_quant") == (-1, 127 / 128)
    assert span(quantized, "side_quant") == (-128, 127)
    with pytest.raises(
        ValueError, match="input_range names .'other'.; inputs are .'imag"
    ):
        quantize(model, data, input_range={"other": (0, 1)})

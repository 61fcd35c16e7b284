"""Calibration brings channels to equal variance where a mobile form asks for it."""

import keras
import numpy as np
import pytest
from keras import ops
from support.comparing import CLOSE, difference, features
from support.torch_weights import live

from keras_attention import EfficientMultiScaleAttention, mobile
from keras_attention.mobile import equalizing

# standard deviations from 1/10 to 1
DATA = features(8, 8, 8, 16) * np.geomspace(0.1, 1, 16).astype("float32")


@pytest.fixture(scope="module")
def net():
    layer, _ = live(EfficientMultiScaleAttention(4, name="ema"), (1, 8, 8, 16))
    x = keras.Input((8, 8, 16), name="x")
    return keras.Model(x, layer(layer(x)))


def test_what_deploy_makes_is_neutral(net):
    ((equalizer, variance, floor),) = equalizing.equalizers(mobile.deploy(net))
    assert (ops.convert_to_numpy(equalizer.kernel) == 1).all()
    assert (ops.convert_to_numpy(variance.bias) == np.float32(1e-5)).all()
    assert (ops.convert_to_numpy(floor.bias) == 0).all()
    assert not any(x.trainable for x in (equalizer, variance, floor))


def test_equal_variances_and_the_same_function(net):
    deployed = mobile.deploy(net)
    before = deployed(DATA)
    equalizing.equalize(deployed, [DATA[:4], DATA[4:]])
    ((equalizer, variance, floor),) = equalizing.equalizers(deployed)
    scale = ops.convert_to_numpy(equalizer.kernel).ravel()
    # ten times the deviation and more, by the gates; a ratio of 16 at most
    assert 8 <= scale.max() / scale.min() <= 16 * (1 + CLOSE)
    assert np.argmax(scale) < 8 <= np.argmin(scale)
    np.testing.assert_allclose(floor.bias, 1 / 16)
    expected = 1e-5 * scale**2 - 1 / 16
    np.testing.assert_allclose(variance.bias, expected, rtol=1e-6)
    assert difference(deployed(DATA), before) <= CLOSE


def test_quantize_equalizes_from_an_iterator(net):
    quantized = mobile.quantize(net, iter([DATA[:4], DATA[4:]]))
    ((equalizer, *_),) = equalizing.equalizers(quantized)
    scale = ops.convert_to_numpy(equalizer.layer.kernel)
    assert scale.max() / scale.min() >= 5
    error = np.linalg.norm(quantized(DATA) - net(DATA)) / np.linalg.norm(net(DATA))
    assert 1e-4 < error <= 0.05


def test_dead_features_leave_everything_neutral(net):
    deployed = mobile.deploy(net)
    equalizing.equalize(deployed, [np.zeros_like(DATA)])
    ((equalizer, *_),) = equalizing.equalizers(deployed)
    assert (ops.convert_to_numpy(equalizer.kernel) == 1).all()


def test_other_layers_of_these_names_are_left_alone():
    x = keras.Input((4, 4, 3))
    y = keras.layers.DepthwiseConv2D(1, name="my_equalizer")(x)
    assert equalizing.equalizers(keras.Model(x, y)) == []

"""CoordAttention on weights with which its gates are far from constant."""

import keras
import numpy as np
from reference import coord_attention as reference

from keras_attention import CoordAttention


def set_weights(layer, w):
    layer.reduce.set_weights([w["f1"][None, None], w["f1_bias"]])
    layer.norm.set_weights([w[k] for k in ("gamma", "beta", "mean", "variance")])
    layer.expand_h.set_weights([w["f_h"][None, None], w["f_h_bias"]])
    layer.expand_w.set_weights([w["f_w"][None, None], w["f_w_bias"]])


def live_layer(channels, seed=0, **arguments):
    """Returns a channels-last layer on random weights, and these weights."""
    layer = CoordAttention(**arguments)
    layer.build((None, None, None, channels))
    rng = np.random.default_rng(seed)
    bottleneck = max(layer.min_channels, channels // layer.reduction)
    weights = reference.random_weights(rng, channels, bottleneck)
    set_weights(layer, weights)
    return layer, weights


def deployed(layer, shape):
    x = keras.Input(shape)
    return keras.Model(x, layer.deploy()(x))

"""Random parameters of blocks under the authors' names, and their way into layers."""

import keras
import numpy as np

from keras_attention.weights.torch_state import load_torch, torch_parameters

FIRST = "channels_first"


def built(layer, shape):
    """Builds a layer for channels-last inputs of `shape`, unless it is; returns it."""
    if layer.built:
        return layer
    first = getattr(layer, "data_format", None) == FIRST
    layer.build((None, shape[-1], *shape[1:-1]) if first else (None, *shape[1:]))
    return layer


def random_weights(layer, seed=0, gain=1.5):
    """Returns random parameters, {authors' name: array}, that keep signals alive.

    Initial ones would hide mistakes: zero biases, means of 0, variances of 1, gammas of
    0. With `gain` above 1 sigmoids and softmaxes are far from constant.
    """
    rng = np.random.default_rng(seed)
    state = {}
    for name, parameter in torch_parameters(layer).items():
        shape, kind = parameter.torch_shape, parameter.variable.name
        if len(shape) > 1:
            value = rng.normal(0, gain / np.sqrt(np.prod(shape[1:])), shape)
        elif kind in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.3, shape)
        state[name] = value.astype("float32")
    return state


def live(layer, shape, seed=0, gain=1.5):
    """Builds a layer and gives it random weights; returns it and these."""
    state = random_weights(built(layer, shape), seed, gain)
    load_torch(layer, state)
    return layer, state


def apply(layer, x, training=False):
    """Calls a layer of either data format on a channels-last array; returns one."""
    first = getattr(layer, "data_format", None) == FIRST
    y = layer(np.moveaxis(x, -1, 1) if first else x, training=training)
    y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
    return np.moveaxis(y, 1, -1) if first else y

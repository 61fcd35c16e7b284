"""How tests compare a model with what `mobile.deploy` makes of it."""

import keras
import numpy as np
from keras import ops
from support.mobile_nets import randomize

from keras_attention import graph as graphs

# Float32 rounding of another order of summation, as a part of the largest output.
CLOSE = 1e-5


def outputs(model, data):
    flat = keras.tree.flatten(model(data, training=False))
    return [ops.convert_to_numpy(ops.cast(tensor, "float32")) for tensor in flat]


def difference(model, deployed, data):
    """Returns the largest difference as a part of the largest output."""
    pairs = zip(outputs(model, data), outputs(deployed, data), strict=True)
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in pairs)


def names(model):
    return [layer.name for layer in model.layers]


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype("float32")


def layer_calls(model, name):
    nodes = graphs.trace_model(model).nodes
    return [node for node in nodes if node.op is model.get_layer(name)]


def chain(*chained, shape=(8, 6, 4)):
    """Returns a model of a chain of layers, with random weights."""
    inputs = x = keras.Input(shape, name="x")
    for layer in chained:
        x = layer(x)
    return randomize(keras.Model(inputs, x))

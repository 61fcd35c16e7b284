"""Small models for `models.insert`, and what tests read off its results."""

import re

import keras
import numpy as np
from keras import layers, ops

from keras_attention import graph as graphs


def chain(*stack, shape=(8, 8, 4), name="chain"):
    """A functional model of layers one after the other."""
    x = inputs = keras.Input(shape, name="image")
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def conv(name, filters=4, **arguments):
    settings = {"kernel_size": 3, "padding": "same"} | arguments
    return layers.Conv2D(filters, name=name, **settings)


def outputs(model, x):
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


def blocks(model):
    """{name of a block: names of what it reads, and of what reads it}."""
    graph = graphs.trace_model(model)
    makers, readers = graph.producers(), graph.consumers()
    found = {}
    for node in graph.nodes:
        if re.search(r"_attention(_\d+)?$", node.name):
            (x,), (y,) = node.input_tensors, node.output_tensors
            maker = makers[id(x)].name if id(x) in makers else None
            reading = sorted(r.name if r else "" for r in readers[id(y)])
            found.setdefault(node.name, []).append((maker, reading))
    return found


@keras.saving.register_keras_serializable("test_insertion")
class SimpleGate(keras.layers.Layer):
    """x * sigmoid(w), w = 0 at the start, for tensors of any rank."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), initializer="zeros", name="w")

    def call(self, x):
        return x * ops.sigmoid(self.w)


# float32: some dozens of products by constants that were divided out before.
UNCHANGED = 1e-5


def change(new, old, x, training=False):
    """The largest change of the outputs, relative to the largest output."""
    new, old = (
        ops.convert_to_numpy(model(x, training=training)) for model in (new, old)
    )
    return np.abs(new - old).max() / np.abs(old).max()

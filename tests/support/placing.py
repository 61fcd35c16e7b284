"""Small graphs, and where fake quantization stands in them."""

import keras
from keras import layers, ops
from support.mobile_nets import images, randomize, scaled

from keras_attention import graph as graphs
from keras_attention.mobile import quantize
from keras_attention.mobile.fake_quant import FakeQuantize, QuantizedKernel

DATA = scaled(images(4, 8))


def image(name="x"):
    return keras.Input((8, 8, 3), name=name)


def conv(x, name, filters=3, **arguments):
    return layers.Conv2D(filters, 3, padding="same", name=name, **arguments)(x)


def quantized(inputs, outputs, data=DATA, **arguments):
    return quantize(randomize(keras.Model(inputs, outputs)), data, **arguments)


def rounded(model):
    """Returns {name of a FakeQuantize: names of what it rounds}, in order."""
    graph = graphs.trace_model(model)
    makers = graph.producers()
    found = {}
    for node in graph.nodes:
        if isinstance(node.op, FakeQuantize):
            (tensor,) = node.input_tensors
            maker = makers.get(id(tensor))
            name = maker.name if maker else graphs.input_name(tensor)
            found.setdefault(node.name, []).append(name)
    return found


def kernels(model):
    return [x.name for x in model.layers if isinstance(x, QuantizedKernel)]


def span(model, name):
    return tuple(float(bound) for bound in model.get_layer(name).get_range())


def value(model, name):
    """Returns what a layer of the model gives on the data."""
    output = model.get_layer(name).output
    return ops.convert_to_numpy(keras.Model(model.input, output)(DATA, training=False))

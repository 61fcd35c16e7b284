"""What the tests of `mobile.quantize` share."""

import keras
import numpy as np
from keras import ops
from support.mobile_nets import images, scaled

from keras_attention.mobile.fake_quant import FakeQuantize, QuantizedKernel

DATA = scaled(images(8, 8))


def outputs(model, data=DATA):
    flat = keras.tree.flatten(model(data, training=False))
    return [ops.convert_to_numpy(tensor) for tensor in flat]


def span(model, name):
    return tuple(np.float32(bound) for bound in model.get_layer(name).get_range())


def ranges(model):
    """Returns {layer: (low, high)} of all activation ranges."""
    return {x.name: span(model, x.name) for x in model.layers if is_rounding(x)}


def is_rounding(layer):
    return isinstance(layer, FakeQuantize)


def inside(model, name):
    return [w for w in model.get_layer(name).weights if "range" not in w.path]


def chosen(model):
    """Returns {layer: (class, bits) of its quantizer}."""
    return {
        layer.name: (type(layer.quantizer).__name__, layer.quantizer.num_bits)
        for layer in model.layers
        if isinstance(layer, FakeQuantize | QuantizedKernel)
    }

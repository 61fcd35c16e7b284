"""Stock layers as several stock layers, before batch normalizations are folded.

What these return may hold a convolution in front of which or behind which a batch
normalization stands, and a `BatchNormalization` itself, which is folded where it can.
"""

import keras
import numpy as np
from keras import ops

from keras_attention import graph as graphs
from keras_attention import stock
from keras_attention.mobile import convolutions
from keras_attention.mobile.activations import above, below
from keras_attention.mobile.normalizations import over_last_axes


def opened(op: keras.Operation):
    """Returns a function of the same arguments, or None: the operation is a leaf."""
    classes = [c for c in type(op).__mro__ if c.__module__.startswith("keras.")]
    make = _OPENED.get(classes[0].__name__)
    return make and make(op)


def _separable(layer):
    first, last = convolutions.separable(layer)
    return lambda x: last(first(x))


def _prelu(layer):
    """relu(x) - slope * relu(-x), the slope per channel."""
    alpha = stock.numbers(layer.alpha)
    if alpha.shape[-1] != alpha.size:
        return None
    trainable = not graphs.is_frozen(layer)
    slope = stock.scale_shift(
        alpha.ravel(), name=f"{layer.name}_slope", trainable=trainable
    )
    sloped = over_last_axes(slope, -1)
    return lambda x: above(x) - sloped(below(x))


def _gain(scale, shift, shape, name):
    """Returns x * scale + shift as a batch normalization, which folds."""
    channels = shape[-1]
    norm = keras.layers.BatchNormalization(
        dtype="float32", name=name, trainable=False, epsilon=0.0
    )
    numbers = [np.full(channels, value) for value in (scale, shift, 0.0, 1.0)]
    return stock.filled(norm, shape, numbers)


def clipped(x, low, high, name):
    """Returns x clipped to [low, high], by a ReLU6: that is a part of a convolution.

    Its grid ends at the bounds whatever the range of x is.
    """
    scale = 6 / (high - low)
    x = _gain(scale, -low * scale, x.shape, f"{name}_to_6")(x)
    x = keras.layers.ReLU(6.0, dtype="float32", name=f"{name}_relu6")(x) * (1 / scale)
    return x + low if low else x


def _relu(op):
    slope, limit = float(op.negative_slope), op.max_value
    if op.threshold or (not slope and limit in (None, 6)):
        return None
    if limit is None:
        return keras.layers.LeakyReLU(slope, dtype="float32", name=op.name)

    def function(x):
        upper = clipped(x, 0.0, float(limit), op.name)
        return upper - below(x) * slope if slope else upper

    return function


def _clip(op):
    low, high = op.x_min, op.x_max
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        return None
    if (low, high) == (-1, 1) or not low < high:
        return None
    return lambda x: clipped(x, float(low), float(high), op.name)


def _einsum_dense(layer):
    """A Dense over the last axes, if the equation says no more than that."""
    given, output = layer.equation.replace(" ", "").split("->")
    given, kernel = given.split(",")
    contracted = [axis for axis in kernel if axis not in output]
    count, new = len(contracted), [axis for axis in kernel if axis in output]
    kept = given[: len(given) - count]
    plain = (
        given.endswith("".join(contracted))
        and kernel == "".join(contracted + new)
        and output == kept + "".join(new)
        and not set(new) & set(kept)
    )
    if not plain:
        return None
    weights = layer.kernel
    shape = weights.shape[count:]
    kernel, *bias = layer.get_weights()
    units = int(np.prod(shape))
    bias = [np.broadcast_to(b, shape).reshape(units) for b in bias]
    inputs = int(np.prod(kernel.shape[:count]))
    dense = keras.layers.Dense(
        units,
        use_bias=bool(bias),
        kernel_regularizer=layer.kernel_regularizer,
        bias_regularizer=layer.bias_regularizer,
        trainable=not graphs.is_frozen(layer),
        dtype="float32",
        name=layer.name,
    )
    stock.filled(dense, (None, inputs), [kernel.reshape(inputs, units), *bias])

    def function(x):
        kept = x.shape[1:-count]
        if count > 1:
            x = ops.reshape(x, (-1, *kept, inputs))
        y = dense(x)
        return ops.reshape(y, (-1, *kept, *shape)) if len(shape) > 1 else y

    return function


_OPENED = {
    "Clip": _clip,
    "EinsumDense": _einsum_dense,
    "PReLU": _prelu,
    "ReLU": _relu,
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
}

"""Layers over sequences (N, L, C) as layers over maps (N, 1, L, C) of height 1.

Each entry of `SEQUENCES` gets the layer and its name, and returns a function of the
sequence that computes the same.
"""

import keras
from keras import ops

from keras_attention import graph as graphs
from keras_attention import stock
from keras_attention.mobile import convolutions


class _OnMap(convolutions.Rectifying):
    """A function of sequences that applies one of maps (N, 1, L, C)."""

    def __init__(self, function):
        self._function = function

    def __call__(self, x, relu=None):
        """Returns a sequence; a ReLU stands in front of the reshape."""
        y = self._function(ops.reshape(x, (-1, 1, *x.shape[1:])))
        y = convolutions.rectified(y, relu)
        return ops.reshape(y, (-1, *y.shape[2:]))


def _conv(layer, name):
    padding, before = layer.padding, 0
    if padding == "causal":
        padding, before = "valid", (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
    kernel, *bias = layer.get_weights()
    conv = convolutions.conv_2d(
        layer,
        name,
        kernel[None],
        *(bias or [None]),
        layer.groups,
        strides=(1, *layer.strides),
        padding=padding,
        dilation_rate=(1, *layer.dilation_rate),
    )

    def function(x):
        if before:
            x = ops.pad(x, [(0, 0), (0, 0), (before, 0), (0, 0)])
        return conv(x)

    return _OnMap(function)


def _options(layer, name):
    return {
        "use_bias": layer.use_bias,
        "padding": layer.padding,
        "dilation_rate": (1, *layer.dilation_rate),
        "data_format": "channels_last",
        "bias_regularizer": layer.bias_regularizer,
        "trainable": not graphs.is_frozen(layer),
        "dtype": "float32",
        "name": name,
    }


def _conv_transpose(layer, name):
    kernel, *bias = layer.get_weights()
    output_padding = layer.output_padding
    if output_padding is not None:
        output_padding = (0, *_tuple(output_padding))
    conv = keras.layers.Conv2DTranspose(
        layer.filters,
        (1, *layer.kernel_size),
        strides=(1, *layer.strides),
        output_padding=output_padding,
        kernel_regularizer=layer.kernel_regularizer,
        **_options(layer, name),
    )
    stock.filled(conv, (None, None, None, kernel.shape[-1]), [kernel[None], *bias])
    return _OnMap(conv)


def _depthwise(layer, name):
    kernel, *bias = layer.get_weights()
    conv = keras.layers.DepthwiseConv2D(
        (1, *layer.kernel_size),
        # TensorFlow takes equal strides only; one row stays one row.
        strides=layer.strides * 2,
        depth_multiplier=layer.depth_multiplier,
        depthwise_regularizer=layer.depthwise_regularizer,
        **_options(layer, name),
    )
    stock.filled(conv, (None, None, None, kernel.shape[1]), [kernel[None], *bias])
    return _OnMap(conv)


def _tuple(value):
    return (value,) if isinstance(value, int) else tuple(value)


def _pooling(kind):
    def make(layer, name):
        pool = kind(
            (1, *layer.pool_size),
            strides=(1, *layer.strides),
            padding=layer.padding,
            data_format="channels_last",
            dtype="float32",
            name=name,
        )
        return _OnMap(pool)

    return make


def _global(reduce):
    def make(layer, _):
        return lambda x: reduce(x, axis=1, keepdims=layer.keepdims)

    return make


def _adaptive(reduce):
    def make(layer, _):
        (size,) = _tuple(layer.output_size)
        return _OnMap(lambda x: stock.reduce_windows(x, (1, size), reduce))

    return make


def _up_sampling(layer, _):
    def function(x):
        size = (1, x.shape[2] * layer.size)
        return ops.image.resize(x, size, "nearest", data_format="channels_last")

    return _OnMap(function)


SEQUENCES = {
    "AdaptiveAveragePooling1D": _adaptive(ops.mean),
    "AdaptiveMaxPooling1D": _adaptive(ops.max),
    "AveragePooling1D": _pooling(keras.layers.AveragePooling2D),
    "Conv1D": _conv,
    "Conv1DTranspose": _conv_transpose,
    "DepthwiseConv1D": _depthwise,
    "GlobalAveragePooling1D": _global(ops.mean),
    "GlobalMaxPooling1D": _global(ops.max),
    "MaxPooling1D": _pooling(keras.layers.MaxPooling2D),
    "UpSampling1D": _up_sampling,
}

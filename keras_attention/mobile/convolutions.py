"""Convolutions with groups as dense ones, and separable ones in their two parts."""

import keras
import numpy as np
from keras import ops

from keras_attention import graph as graphs
from keras_attention import grouped, stock
from keras_attention.mobile.arithmetic import slices
from keras_attention.mobile.rules import operation_name

RELU_LIMITS = {"Relu": None, "Relu6": 6.0}


def conv_2d(layer, name, kernel, bias, groups, **options):
    """Returns a dense 2D convolution with the options of `layer`.

    Args:
        layer: a convolution.
        name: of the new one.
        kernel: array (h, w, C / groups, F).
        bias: array (F,) or None.
        groups: of the new one.
        **options: arguments of `keras.layers.Conv2D` that differ from the layer's.
    """
    options = {
        "strides": layer.strides,
        "padding": layer.padding,
        "dilation_rate": layer.dilation_rate,
        "kernel_regularizer": layer.kernel_regularizer,
        "bias_regularizer": layer.bias_regularizer,
        "trainable": not graphs.is_frozen(layer),
    } | options
    return stock.convolution(kernel, bias, groups, name=name, **options)


class Rectifying:
    """A function of a tensor behind which, or inside of which, a ReLU may stand.

    Called with `relu`, the node of a ReLU behind it, it applies that, too, and in
    front of what moves values: there, a ReLU is a part of a convolution, and behind it
    an operator of its own, a slow one.
    """


def rectified(x, relu, suffix=""):
    """Returns x, rectified if `relu` is a node that does that."""
    if relu is None:
        return x
    limit = RELU_LIMITS[operation_name(relu.op)]
    return keras.layers.ReLU(limit, name=f"{relu.name}{suffix}")(x)


class Runs(Rectifying):
    """A convolution with groups as dense ones, each of a run of adjacent groups."""

    def __init__(self, convs):
        self._convs = convs

    def __call__(self, x, relu=None):
        """Returns the convolution of x; a ReLU stands behind each run."""
        parts = slices(x, len(self._convs), axis=-1)
        outputs = [
            rectified(conv(part), relu, f"_{run}")
            for run, (conv, part) in enumerate(zip(self._convs, parts, strict=True))
        ]
        while len(outputs) > 1:  # by fours: more than five at once leave XNNPACK
            fours = (outputs[i : i + 4] for i in range(0, len(outputs), 4))
            outputs = [_joined(four) for four in fours]
        return outputs[0]


def _joined(tensors):
    return ops.concatenate(tensors, axis=-1) if len(tensors) > 1 else tensors[0]


def dense(layer, name):
    """Dense convolutions whose kernels have zeros between the groups.

    Returns:
        A function of a map, a `Runs` where there are several, or None for a `Conv2D`
        without groups. With a channel in each group, a depthwise convolution.
    """
    kernel, *bias = layer.get_weights()
    groups, constraint = layer.groups, layer.kernel_constraint
    if type(constraint) is grouped.BlockDiagonal and groups == 1:
        full, groups = kernel, constraint.groups
        kernel = grouped.grouped_kernel(full, groups)
        if not np.array_equal(grouped.dense_kernel(kernel, groups), full):
            return None  # the constraint has not been applied yet
    if layer.groups > 1 and kernel.shape[2] == 1 and _depthwise_can(layer):
        return _depthwise(layer, name, kernel, bias)
    count = grouped.run_count(kernel.shape, groups)
    if count == 1:
        if layer.groups == 1:
            return None
        return conv_2d(layer, name, kernel, *(bias or [None]), groups).__call__
    kernels = np.split(kernel, count, axis=-1)
    biases = np.split(bias[0], count) if bias else [None] * count
    return Runs(
        [
            conv_2d(layer, f"{name}_{run}", kernel, bias, groups // count)
            for run, (kernel, bias) in enumerate(zip(kernels, biases, strict=True))
        ]
    )


def _depthwise_can(layer):
    """Whether TensorFlow has strides and dilation like these in a depthwise one."""
    rows, columns = layer.strides
    return rows == columns and (rows == 1 or set(layer.dilation_rate) == {1})


def _depthwise(layer, name, kernel, bias):
    """A depthwise convolution: a group for each channel, as in ConvNeXt."""
    *size, _, filters = kernel.shape
    multiplier = filters // layer.groups
    conv = keras.layers.DepthwiseConv2D(
        size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=bool(bias),
        depthwise_regularizer=layer.kernel_regularizer,
        bias_regularizer=layer.bias_regularizer,
        data_format="channels_last",
        trainable=not graphs.is_frozen(layer),
        dtype="float32",
        name=name,
    )
    kernel = kernel.reshape(*size, layer.groups, multiplier)
    return stock.filled(conv, (None, None, None, layer.groups), [kernel, *bias])


def separable(layer):
    """Returns the depthwise and the pointwise part of a separable convolution.

    Args:
        layer: a built `SeparableConv1D` or `SeparableConv2D`, linear.
    """
    depthwise, pointwise, *bias = layer.get_weights()
    one = isinstance(layer, keras.layers.SeparableConv1D)
    kinds = keras.layers.DepthwiseConv1D, keras.layers.Conv1D
    if not one:
        kinds = keras.layers.DepthwiseConv2D, keras.layers.Conv2D
    common = {
        "data_format": "channels_last",
        "dtype": "float32",
        "trainable": not graphs.is_frozen(layer),
    }
    first = kinds[0](
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        depthwise_regularizer=layer.depthwise_regularizer,
        name=f"{layer.name}_depthwise",
        **common,
    )
    last = kinds[1](
        layer.filters,
        1,
        use_bias=layer.use_bias,
        kernel_regularizer=layer.pointwise_regularizer,
        bias_regularizer=layer.bias_regularizer,
        name=layer.name,
        **common,
    )
    shape = (None,) * (2 if one else 3)
    stock.filled(first, (*shape, depthwise.shape[-2]), [depthwise])
    stock.filled(last, (*shape, pointwise.shape[-2]), [pointwise, *bias])
    return first, last

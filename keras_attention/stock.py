"""Stock layers that mobile forms are made of, filled with given numbers.

Every function returns one built, named float32 Keras layer for channels-last maps. A
mobile form (`deploy`) holds nothing else, so that each of its numbers is the kernel or
the bias of a convolution: what fake quantization and the TFLite converter handle.
"""

import keras
import numpy as np
from keras import ops

from keras_attention.grouped import BlockDiagonal, dense_kernel


def filled(layer, input_shape, weights):
    """Builds a layer and gives it its numbers.

    Args:
        layer: An unbuilt Keras layer.
        input_shape: The shape to build it for, batch axis included.
        weights: Arrays in the order of `layer.weights`.

    Returns:
        The same layer, built.
    """
    layer.build(input_shape)
    layer.set_weights([np.asarray(weight, "float32") for weight in weights])
    return layer


def pointwise(kernel, bias=None, *, name, trainable=True, kernel_constraint=None):
    """Returns a 1x1 convolution with the given numbers.

    Args:
        kernel: Array (in, out).
        bias: Array (out,), or None for a convolution without bias.
        name: Name of the layer.
        trainable: Whether the layer may be trained.
        kernel_constraint: A Keras constraint for the kernel, e.g. `BlockDiagonal`.

    Returns:
        A built `Conv2D`, (N, H, W, in) -> (N, H, W, out).
    """
    kernel = np.asarray(kernel)
    inputs, outputs = kernel.shape
    layer = keras.layers.Conv2D(
        outputs,
        1,
        use_bias=bias is not None,
        kernel_constraint=kernel_constraint,
        data_format="channels_last",
        dtype="float32",
        name=name,
        trainable=trainable,
    )
    weights = [kernel[None, None]] + ([] if bias is None else [bias])
    return filled(layer, (None, None, None, inputs), weights)


def pointwise_copy(conv, *, name):
    """Returns a float32 copy of a built 1x1 convolution, frozen if that is.

    Args:
        conv: A built `keras.layers.Conv2D` with a 1x1 kernel.
        name: Name of the copy.
    """
    kernel, bias = kernel_and_bias(conv)
    bias = bias if conv.use_bias else None
    return pointwise(kernel, bias, name=name, trainable=conv.trainable)


def scale_shift(scale, shift=None, *, name, trainable=True):
    """Returns y = x * scale + shift per channel, as a 1x1 depthwise convolution.

    Args:
        scale: Array (C,).
        shift: Array (C,), or None for a scale alone.
        name: Name of the layer.
        trainable: Whether the layer may be trained.

    Returns:
        A built `DepthwiseConv2D`, (N, H, W, C) -> (N, H, W, C).
    """
    scale = np.asarray(scale)
    layer = keras.layers.DepthwiseConv2D(
        1,
        use_bias=shift is not None,
        data_format="channels_last",
        dtype="float32",
        name=name,
        trainable=trainable,
    )
    weights = [scale[None, None, :, None]] + ([] if shift is None else [shift])
    return filled(layer, (None, None, None, scale.size), weights)


def group_sum(channels, groups, *, name):
    """Returns the sums over `groups` contiguous runs of channels.

    Args:
        channels: Number of input channels, a multiple of `groups`.
        groups: Number of groups, the number of output channels.
        name: Name of the layer.

    Returns:
        A built 1x1 `Conv2D` with a constant 0/1 kernel, (N, H, W, channels) ->
        (N, H, W, groups).

    Raises:
        ValueError: `groups` does not divide `channels`.
    """
    return pointwise(_membership(channels, groups), name=name, trainable=False)


def group_spread(groups, channels, *, name):
    """Returns each group's value repeated over the channels of the group.

    Args:
        groups: Number of groups, the number of input channels.
        channels: Number of output channels, a multiple of `groups`.
        name: Name of the layer.

    Returns:
        A built 1x1 `Conv2D` with a constant 0/1 kernel, (N, H, W, groups) ->
        (N, H, W, channels).

    Raises:
        ValueError: `groups` does not divide `channels`.
    """
    return pointwise(_membership(channels, groups).T, name=name, trainable=False)


def equalizer(channels, *, name):
    """Returns a frozen scale per channel, 1, which `mobile.quantize` sets.

    An int8 tensor has one scale for all channels, so it can't hold variances of 1 and
    of 1/400. A form that normalizes by a variance therefore scales the channels by e
    before, by this layer, and takes the variance through `equalized_variance` of the
    same name. Its result must not depend on e.

    Args:
        channels: Number of channels.
        name: Name of the block: the layer is called `<name>_equalizer`.

    Returns:
        A built `DepthwiseConv2D`, (N, H, W, C) -> (N, H, W, C).
    """
    return scale_shift(np.ones(channels), name=f"{name}_equalizer", trainable=False)


def equalized_variance(channels, epsilon, *, name):
    """Returns variance -> max(variance + epsilon * e^2, b), e as in `equalizer`.

    e is 1 and b is 0 until `mobile.quantize` sets them: b, which keeps a root or a
    logarithm from what rounding makes of small numbers, is meant for int8 only.

    Args:
        channels: Number of channels.
        epsilon: What the normalization adds to the variance.
        name: Name of the block: the two layers, whose shifts are epsilon * e^2 - b and
            b, are called `<name>_variance` and `<name>_variance_floor`.

    Returns:
        A function of stock layers, (N, H, W, C) -> (N, H, W, C).
    """
    ones, zeros = np.ones(channels), np.zeros(channels)
    shift = scale_shift(ones, zeros + epsilon, name=f"{name}_variance", trainable=False)
    floor = scale_shift(ones, zeros, name=f"{name}_variance_floor", trainable=False)
    return lambda variance: floor(ops.relu(shift(variance)))


def reduce_windows(x, windows, reduce):
    """Reduces a map over windows that divide it as evenly as they can.

    Window i of n on an axis of size s holds the positions floor(i s / n) up to, and not
    including, ceil((i + 1) s / n): those of an adaptive pooling. A pooling layer would
    keep the int8 scale of the map; means may rescale.

    Args:
        x: Symbolic tensor (N, H, W, C), H and W static.
        windows: (h, w), how many windows per axis; they may exceed H and W.
        reduce: `keras.ops.mean`, `keras.ops.max` or alike.

    Returns:
        Tensor (N, h, w, C).
    """
    rows = [
        _joined(
            [
                reduce(x[:, top:bottom, left:right], axis=(1, 2), keepdims=True)
                for left, right in _windows(x.shape[2], windows[1])
            ],
            axis=2,
        )
        for top, bottom in _windows(x.shape[1], windows[0])
    ]
    return _joined(rows, axis=1)


def _windows(size, count):
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _joined(tensors, axis):
    return ops.concatenate(tensors, axis) if len(tensors) > 1 else tensors[0]


def _membership(channels, groups):
    """Returns the (channels, groups) 0/1 matrix: channel c belongs to group g."""
    if groups < 1 or channels % groups:
        raise ValueError(
            f"groups must divide channels; received groups={groups}, "
            f"channels={channels}"
        )
    return np.repeat(np.eye(groups, dtype="float32"), channels // groups, axis=0)


def batch_norm_affine(layer):
    """Returns the affine map that a batch normalization computes at inference.

    Args:
        layer: A built `keras.layers.BatchNormalization`, with or without `scale` and
            `center`.

    Returns:
        Float32 arrays (scale, shift), each (C,): y = x * scale + shift. They are
        computed in float64, so that folding them costs one rounding only.

    Raises:
        ValueError: The layer is not built.
    """
    if not layer.built:
        raise ValueError(f"layer {layer.name!r} must be built before it is folded")
    mean, variance = numbers(layer.moving_mean), numbers(layer.moving_variance)
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * numbers(layer.gamma)
    shift = -mean * scale
    if layer.beta is not None:
        shift = shift + numbers(layer.beta)
    return scale.astype("float32"), shift.astype("float32")


def kernel_and_bias(conv):
    """Returns the numbers of a built 1x1 convolution.

    Args:
        conv: A built `keras.layers.Conv2D` with a 1x1 kernel.

    Returns:
        Float64 arrays (in, out) and (out,); a missing bias is 0.
    """
    kernel = numbers(conv.kernel)[0, 0]
    bias = numbers(conv.bias) if conv.use_bias else np.zeros(kernel.shape[1])
    return kernel, bias


def fold(conv, norm):
    """Returns kernel and bias of norm(conv(x)) at inference, for a 1x1 convolution.

    Args:
        conv: A built `keras.layers.Conv2D` with a 1x1 kernel.
        norm: The built `keras.layers.BatchNormalization` behind it.

    Returns:
        Float64 arrays (in, out) and (out,).

    Raises:
        ValueError: `norm` is not built.
    """
    kernel, bias = kernel_and_bias(conv)
    scale, shift = batch_norm_affine(norm)
    return kernel * scale, bias * scale + shift


def convolution(kernel, bias=None, groups=1, *, name, **options):
    """Returns a dense convolution that computes one with or without groups.

    Args:
        kernel: Array (h, w, C / groups, F).
        bias: Array (F,), or None for a convolution without bias.
        groups: Number of groups: above 1 the layer has zeros between them, and a
            `BlockDiagonal` that keeps them.
        name: Name of the layer.
        **options: Further arguments of `keras.layers.Conv2D`.

    Returns:
        A built `Conv2D`, (N, H, W, C) -> (N, H', W', F).
    """
    kernel = np.asarray(kernel, "float32")
    *size, inputs, filters = kernel.shape
    layer = keras.layers.Conv2D(
        filters,
        size,
        use_bias=bias is not None,
        kernel_constraint=BlockDiagonal(groups) if groups > 1 else None,
        data_format="channels_last",
        dtype="float32",
        name=name,
        **options,
    )
    kernel = ops.convert_to_numpy(dense_kernel(kernel, groups))
    weights = [kernel] if bias is None else [kernel, bias]
    return filled(layer, (None, None, None, inputs * groups), weights)


def folded(conv, norm, *, name, padding=None):
    """Returns one convolution that computes norm(conv(x)) at inference.

    Args:
        conv: A built `keras.layers.Conv2D`, with or without groups, or
            `keras.layers.DepthwiseConv2D`, of any kernel size.
        norm: The built `keras.layers.BatchNormalization` behind it.
        name: Name of the new layer; it is frozen if `conv` is.
        padding: Of the new layer, if not that of `conv`.

    Returns:
        A built `Conv2D` without groups (see `convolution`), or `DepthwiseConv2D`.

    Raises:
        ValueError: `norm` is not built.
    """
    scale, shift = batch_norm_affine(norm)
    kernel = numbers(conv.kernel)
    if conv.use_bias:
        shift = shift + numbers(conv.bias) * scale
    options = {
        "strides": conv.strides,
        "padding": padding or conv.padding,
        "dilation_rate": conv.dilation_rate,
        "trainable": conv.trainable,
        "name": name,
    }
    if not isinstance(conv, keras.layers.DepthwiseConv2D):
        return convolution(kernel * scale, shift, conv.groups, **options)
    layer = keras.layers.DepthwiseConv2D(
        kernel.shape[:2],
        depth_multiplier=kernel.shape[3],
        data_format="channels_last",
        dtype="float32",
        **options,
    )
    kernel = kernel * scale.reshape(kernel.shape[2:])
    return filled(layer, (None, None, None, kernel.shape[2]), [kernel, shift])


def activation(function, *, name):
    """Returns a float32 `Activation` layer of the given name."""
    return keras.layers.Activation(function, dtype="float32", name=name)


def numbers(variable):
    """Returns the float64 array of a variable of any dtype."""
    return ops.convert_to_numpy(variable).astype("float64")

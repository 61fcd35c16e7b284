"""The mobile form of SelectiveKernel, made of stock layers.

The mean of a sum is a sum of means, so the branches are never summed on the map but for
the result. A softmax over two is the sigmoid of their difference, which goes into the
kernel that gives the scores. Over more it stays one: exponentials and their sum, which
are better over many positions, would be rounded more often.
"""

import numpy as np
from keras import layers, ops

from keras_attention import stock


def branch_output(conv, x, dilation, strides, subsample):
    """Returns a branch's convolution, padded by `dilation` on all sides.

    Args:
        conv: With dilation 1 and strides: of "valid" padding and these strides.
            Otherwise of "same" padding, without strides, and of `dilation`, divided by
            the strides where they divide it: then only every strides-th position of x
            is seen.
        x: Tensor (N, H, W, C).
        dilation: Of the branch.
        strides: Of the block.
        subsample: (tensor, strides) -> every strides-th row and column of it.
    """
    if strides == 1:
        return conv(x)
    if dilation == 1:
        return conv(ops.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]))
    if dilation % strides == 0:
        return conv(subsample(x, strides))
    return subsample(conv(x), strides)


def mobile_form(layer):
    """Returns what a built, channels-last `SelectiveKernel` computes at inference.

    Args:
        layer: The `SelectiveKernel`.

    Returns:
        A function (N, H, W, C) -> (N, H', W', C), H and W static. Its layers are called
        `<layer>_<role>`.
    """
    name, strides = layer.name, layer.strides
    channels = layer.convs[0].filters
    convs = [
        _branch(conv, norm, f"{name}_branch_{i}")
        for i, (conv, norm) in enumerate(
            zip(layer.convs, layer.conv_norms, strict=True)
        )
    ]
    reduce = stock.folded(layer.reduce, layer.reduce_norm, name=f"{name}_reduce")
    weights = _weights_of_two(layer) if len(convs) == 2 else _weights_of_more(layer)
    every = _subsampling(layer, channels)

    def function(x):
        branches = [
            branch_output(conv, x, i + 1, strides, every)
            for i, conv in enumerate(convs)
        ]  # (N, H', W', C) each
        s = _sum(ops.mean(u, axis=(1, 2), keepdims=True) for u in branches)
        a = weights(ops.relu(reduce(s)))  # (N, 1, 1, C) each
        return _sum(u * part for u, part in zip(branches, a, strict=True))

    return function


def _branch(conv, norm, name):
    """Returns x -> ReLU(norm(conv(x)))."""
    folded = stock.folded(conv, norm, name=name)
    return lambda x: ops.relu(folded(x))


def _weights_of_two(layer):
    kernel, _ = stock.kernel_and_bias(layer.select)
    first, second = np.split(kernel, 2, axis=1)
    select = stock.pointwise(
        first - second, name=f"{layer.name}_select", trainable=layer.select.trainable
    )
    gate = stock.activation("sigmoid", name=f"{layer.name}_gate")

    def function(z):
        a = gate(select(z))
        return a, 1.0 - a

    return function


def _weights_of_more(layer):
    count, options = layer.branches, {"trainable": layer.select.trainable}
    kernel, _ = stock.kernel_and_bias(layer.select)
    # Channel by channel: a softmax is over the last axis.
    kernel = kernel.reshape(len(kernel), count, -1).swapaxes(1, 2)
    kernel = kernel.reshape(len(kernel), -1)
    select = stock.pointwise(kernel, name=f"{layer.name}_select", **options)
    gate = stock.activation("softmax", name=f"{layer.name}_gate")

    def function(z):
        channels = select.filters // count
        a = gate(ops.reshape(select(z), (-1, 1, channels, count)))
        parts = [a[..., i : i + 1] for i in range(count)]
        return [ops.reshape(part, (-1, 1, 1, channels)) for part in parts]

    return function


def _subsampling(layer, channels):
    """Returns a subsampling that XNNPACK takes, unlike slices with a step."""
    if layer.strides == 1:
        return None
    conv = layers.DepthwiseConv2D(
        1,
        strides=layer.strides,
        use_bias=False,
        data_format="channels_last",
        dtype="float32",
        name=f"{layer.name}_subsample",
        trainable=False,
    )
    conv = stock.filled(
        conv, (None, None, None, channels), [np.ones((1, 1, channels, 1))]
    )
    return lambda x, strides: conv(x)


def _sum(tensors):
    first, *others = tensors
    for tensor in others:
        first = first + tensor
    return first

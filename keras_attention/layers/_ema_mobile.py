"""The mobile form of EfficientMultiScaleAttention.

With u = x * sigmoid(s_h) * sigmoid(s_w) and v the same without sigmoid(s_h):

- a_1 = softmax(beta) is constant, so sum_c a_1 x_2 is a depthwise 3x3 convolution and a
  sum over each group;
- sum_c a_2 x_1 = sum_c k u + o with k = a_2 gamma / sqrt(var(u) + epsilon) and
  o = sum_c (a_2 beta - k mean(u)): one product with the map, v * (sigmoid(s_h) k), and
  the same sum over each group;
- mean and variance of u follow from the means over W of v and of v * v;
- a_2 follows from nine means of x (see `_spatial_weights`);
- on a map of one position u is its mean, and o = sum_c a_2 beta is left: for what is
  always 0 there is no int8 grid.
"""

import keras
import numpy as np
from keras import ops

from keras_attention import stock


def mobile_form(layer, groups, epsilon):
    """Returns x -> y of stock layers, for maps of static height and width.

    Args:
        layer: A built `EfficientMultiScaleAttention`.
        groups: Its number of groups, G.
        epsilon: Of its normalization.
    """
    name, width = layer.name, layer.gamma.shape[0]
    channels = groups * width
    strip_gate = _strip_gate(layer, groups)
    spatial_weights = _spatial_weights(layer, groups) if width > 1 else None
    weighted_norm, offset = _weighted_norm(layer, groups, epsilon)
    spatial = _weighted_spatial(layer, groups)
    group_sum = stock.group_sum(channels, groups, name=f"{name}_group_sum")
    spread = stock.group_spread(groups, channels, name=f"{name}_group_spread")
    gate = stock.activation("sigmoid", name=f"{name}_gate")

    def function(x):
        z_h, z_w = _mean(x, 2), _mean(x, 1)  # (N, H, 1, C), (N, 1, W, C)
        # (N, 1, G, c); the softmax over one channel is 1.
        a_2 = spatial_weights(x, z_h) if spatial_weights else None
        if x.shape[1] * x.shape[2] == 1:
            return x * spread(gate(group_sum(spatial(x)) + offset(a_2)))
        norm, shift = weighted_norm(x, strip_gate(z_h), strip_gate(z_w), a_2)
        logits = group_sum(spatial(x) + norm) + shift  # (N, H, W, G)
        return x * spread(gate(logits))

    return function


def _strip_gate(layer, groups):
    """Returns z -> sigmoid(F1(z)) of a strip of means, (N, H, 1, C) or (N, 1, W, C)."""
    kernel, bias = stock.kernel_and_bias(layer.pointwise)
    conv = stock.pointwise(
        kernel,
        bias,
        name=f"{layer.name}_strip",
        trainable=layer.pointwise.trainable,
    )
    sigmoid = stock.activation("sigmoid", name=f"{layer.name}_strip_sigmoid")

    def function(z):
        _, height, width, channels = z.shape
        # Groups are positions here, so one kernel serves all of them.
        y = ops.reshape(z, (-1, height * width, groups, channels // groups))
        return ops.reshape(sigmoid(conv(y)), (-1, height, width, channels))

    return function


def _spatial_weights(layer, groups):
    """Returns (x, z_h) -> a_2, the softmax of the means of the 3x3 convolution.

    Tap (i, j) of the zero-padded convolution sees all of the map but the row or the
    column, or both, at the opposite border: nine means, one kernel of nine taps.
    """
    spatial = layer.spatial
    kernel, bias = stock.numbers(spatial.kernel), stock.numbers(spatial.bias)
    width = kernel.shape[-1]
    # The order in which `without_borders` gives the offsets -1, 0, 1.
    order = np.array([1, 2, 0])
    kernel = kernel[order][:, order].reshape(9, 1, width, width)
    conv = keras.layers.Conv2D(
        width,
        (9, 1),
        data_format="channels_last",
        dtype="float32",
        name=f"{layer.name}_spatial_means",
        trainable=layer.spatial.trainable,
    )
    conv = stock.filled(conv, (None, 9, groups, width), [kernel, bias])
    softmax = stock.activation("softmax", name=f"{layer.name}_softmax")

    def without_borders(mean, first, last, axis, size):
        # Slices of one end each: a slice with a step would leave XNNPACK.
        ends = [mean - end * (1 / size) for end in (first, last)]
        return ops.concatenate([mean, *ends], axis=axis)

    def function(x, z_h):
        _, height, size, channels = x.shape
        rows = without_borders(z_h, x[:, :, :1], x[:, :, -1:], 2, size)
        taps = without_borders(_mean(rows, 1), rows[:, :1], rows[:, -1:], 1, height)
        taps = ops.reshape(taps, (-1, 9, groups, channels // groups))
        return softmax(conv(taps))

    return function


def _weighted_norm(layer, groups, epsilon):
    """Returns (x, g_h, g_w, a_2) -> (k u, o), shapes (N, H, W, C) and (N, 1, 1, G).

    And a_2 -> o where k mean(u) is left out. o has the bias of the 3x3 convolution in
    it, too. a_2 is None where it is 1.
    """
    name, options = layer.name, {"trainable": layer.trainable}
    gamma, beta = stock.numbers(layer.gamma), stock.numbers(layer.beta)
    width, channels = gamma.size, gamma.size * groups
    bias = _softmax(beta) @ stock.numbers(layer.spatial.bias)
    if width == 1:
        # oneDNN has no depthwise convolution of one channel.
        scale = stock.pointwise(gamma[:, None], name=f"{name}_gamma", **options)
    else:
        scale = stock.scale_shift(gamma, name=f"{name}_gamma", **options)
        shift = stock.pointwise(beta[:, None], [bias], name=f"{name}_beta", **options)
        options = {"trainable": False}
    minus_sum = stock.pointwise(
        -np.ones((width, 1)),
        beta + bias if width == 1 else None,
        name=f"{name}_minus_sum",
        **options,
    )
    equalizer = stock.equalizer(channels, name=name)
    guarded = stock.equalized_variance(channels, epsilon, name=name)

    def function(x, g_h, g_w, a_2):
        v = x * equalizer(g_w)  # (N, H, W, C)
        mean = _mean(_mean(v, 2) * g_h, 1)  # (N, 1, 1, C)
        square = _mean(_mean(v * v, 2) * (g_h * g_h), 1)
        root = ops.exp(ops.log(guarded(square - mean * mean)) * -0.5)
        root = ops.reshape(root, (-1, 1, groups, width))
        k = scale(root) if a_2 is None else scale(a_2) * root  # (N, 1, G, c)
        o = minus_sum(k * ops.reshape(mean, (-1, 1, groups, width)))
        o = o if a_2 is None else shift(a_2) + o
        ku = v * (g_h * ops.reshape(k, (-1, 1, 1, channels)))
        return ku, ops.reshape(o, (-1, 1, 1, groups))

    def offset(a_2):
        if a_2 is None:
            return float(beta[0] + bias)
        return ops.reshape(shift(a_2), (-1, 1, 1, groups))

    return function, offset


def _weighted_spatial(layer, groups):
    """Returns the 3x3 convolution with softmax(beta) in its kernel, one per channel."""
    kernel = stock.numbers(layer.spatial.kernel) @ _softmax(stock.numbers(layer.beta))
    kernel = np.tile(kernel, groups)[..., None]
    conv = keras.layers.DepthwiseConv2D(
        3,
        padding="same",
        use_bias=False,
        data_format="channels_last",
        dtype="float32",
        name=f"{layer.name}_spatial",
        trainable=layer.spatial.trainable,
    )
    return stock.filled(conv, (None, None, None, kernel.shape[2]), [kernel])


def _mean(x, axis):
    return ops.mean(x, axis=axis, keepdims=True)


def _softmax(values):
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()

"""The mobile form of ShuffleAttention, made of stock layers.

Halves of groups are not sliced out of the map: both are gated by sigmoid(k s + o), s
the map without its means. k and o are small tensors (N, 1, 1, C); k is 0 in first
halves, and o does not depend on the sample in second ones. Of a map of one position s
is 0, for which there is no int8 grid, and o is left.
"""

import numpy as np
from keras import ops

from keras_attention import stock


def mobile_form(layer, epsilon):
    """Returns x -> y of stock layers, for maps of static height and width.

    Args:
        layer: A built, channels-last `ShuffleAttention`.
        epsilon: Of its normalization.
    """
    name, channels = layer.name, layer.input_spec.axes[3]
    width = layer.gamma.shape[0]
    groups = channels // (2 * width)
    equalizer = stock.equalizer(channels, name=name)
    guarded = stock.equalized_variance(channels, epsilon, name=name)
    channel, spatial = _affine_maps(layer)
    gate = stock.activation("sigmoid", name=f"{name}_gate")
    order = np.arange(channels).reshape(2, -1).T.ravel()
    kernel = np.eye(channels)[:, order]
    shuffle = stock.pointwise(kernel, name=f"{name}_shuffle", trainable=False)

    def halves(small):
        # Groups are positions here, so that they share their weights.
        small = ops.reshape(small, (-1, 1, groups, 2 * width))
        return small[..., :width], small[..., width:]

    def padded(half, *zeros):
        return ops.pad(half, ((0, 0), (0, 0), (0, 0), zeros))

    def offsets(mean):
        o = channel(padded(halves(mean)[0], 0, width))
        return ops.reshape(o, (-1, 1, 1, channels))

    def function(x):
        if x.shape[1] * x.shape[2] == 1:
            return shuffle(x * gate(offsets(x)))
        u = equalizer(x)  # first, or differences would be rounded to the map's grid
        s = u - _mean(u)  # (N, H, W, C)
        root = ops.exp(ops.log(guarded(_mean(s * s))) * -0.5)  # (N, 1, 1, C)
        k = padded(spatial(halves(root)[1]), width, 0)
        k = ops.reshape(k, (-1, 1, 1, channels))
        return shuffle(x * gate(s * k + offsets(_mean(x))))

    return function


def _mean(x):
    return ops.mean(x, axis=(1, 2), keepdims=True)


def _affine_maps(layer):
    """Returns the layers [w_1 | 1] z + [b_1 | w_2 beta + b_2] and w_2 gamma r."""
    numbers = [
        ops.convert_to_numpy(weight).astype("float64")
        for weight in (
            layer.channel_scale,
            layer.channel_shift,
            layer.spatial_scale,
            layer.spatial_shift,
            layer.gamma,
            layer.beta,
        )
    ]
    w_1, b_1, w_2, b_2, gamma, beta = numbers
    channel = stock.scale_shift(
        np.concatenate([w_1, np.ones_like(w_1)]),
        np.concatenate([b_1, w_2 * beta + b_2]),
        name=f"{layer.name}_channel",
        trainable=layer.trainable,
    )
    scale, options = w_2 * gamma, {"trainable": layer.trainable}
    if scale.size == 1:  # oneDNN has no depthwise convolution of one channel.
        spatial = stock.pointwise(
            scale[:, None], name=f"{layer.name}_spatial", **options
        )
    else:
        spatial = stock.scale_shift(scale, name=f"{layer.name}_spatial", **options)
    return channel, spatial

"""The mobile form of SpatialGroupEnhance, made of stock layers.

The channels of a group share the equalizer's factor e, as they are given the variance
of their group: e on the small means makes t, and so its deviation, e times as large.

On a map of one position t - mean(t) is 0, for which there is no int8 grid: the gates
are constants.
"""

import operator

import numpy as np
from keras import ops

from keras_attention import stock

_TINY = 1e-18  # keeps the logarithm finite; far below any variance beside epsilon^2


def mobile_form(layer, epsilon):
    """Returns x -> y of stock layers, for maps of static height and width.

    Args:
        layer: A built, channels-last `SpatialGroupEnhance`.
        epsilon: What it adds to the deviation. Calibrated, it is added to e times the
            deviation, which is about 1: epsilon does not scale with e, as no int8 grid
            holds it anyway.
    """
    name, channels = layer.name, layer.input_spec.axes[3]
    groups = layer.gamma.shape[0]
    width = channels // groups
    equalizer = stock.equalizer(channels, name=name)
    guarded = stock.equalized_variance(channels, _TINY, name=name)
    norm = _norm(layer)
    gate = stock.activation("sigmoid", name=f"{name}_gate")
    group_sum = spread_variance = first_of_each = spread = _same
    if width > 1:
        group_sum = stock.group_sum(channels, groups, name=f"{name}_group_sum")
        role = f"{name}_group_variance"
        spread_variance = stock.group_spread(groups, channels, name=role)
        first_of_each = operator.itemgetter((..., slice(None, None, width)))
        spread = stock.group_spread(groups, channels, name=f"{name}_group_spread")

    constant = _constant_gates(layer)

    def function(x):
        n = x.shape[1] * x.shape[2]
        if n == 1:
            return constant(x)
        z = equalizer(_mean(x))  # (N, 1, 1, C)
        t = group_sum(x * z)  # (N, H, W, G)
        s = t - _mean(t)
        variance = _mean(s * s) * (n / max(n - 1, 1))  # (N, 1, 1, G)
        log = first_of_each(ops.log(guarded(spread_variance(variance))))
        deviation = ops.exp(log * 0.5) + epsilon
        q = s * ops.exp(ops.log(deviation) * -1.0)
        return x * spread(gate(norm(q)))

    return function


def _norm(layer):
    """Returns q -> gamma q + beta, (N, H, W, G)."""
    gamma, beta = map(ops.convert_to_numpy, (layer.gamma, layer.beta))
    options = {"name": f"{layer.name}_norm", "trainable": layer.trainable}
    if gamma.size == 1:  # oneDNN has no depthwise convolution of one channel.
        return stock.pointwise(gamma[:, None], beta, **options)
    return stock.scale_shift(gamma, beta, **options)


def _constant_gates(layer):
    """Returns x -> sigmoid(beta) x, (N, H, W, C)."""
    gates = 1 / (1 + np.exp(-stock.numbers(layer.beta)))
    width = layer.input_spec.axes[3] // gates.size
    name = f"{layer.name}_constant"
    return stock.scale_shift(
        np.repeat(gates, width), name=name, trainable=layer.trainable
    )


def _same(x):
    return x


def _mean(x):
    return ops.mean(x, axis=(1, 2), keepdims=True)

"""Normalizations by statistics of the sample, as operations that have int8 kernels.

int8 loses what is small beside something large. So channels that are normalized by
themselves, or in groups, are first brought to similar sizes (`stock.equalizer`), and so
are positions that are normalized over their channels (`arithmetic.sized`).
"""

import numpy as np
from keras import ops

from keras_attention import graph as graphs
from keras_attention import stock
from keras_attention.mobile.activations import exp_log
from keras_attention.mobile.arithmetic import again, sized, unit


def _affine(layer, name, scale, shift):
    """Returns x -> x * scale + shift per channel; x as it is if there is neither."""
    if scale is None and shift is None:
        return lambda x: x
    found = [None if v is None else stock.numbers(v).ravel() for v in (scale, shift)]
    scale, shift = found
    scale = np.ones_like(shift) if scale is None else scale
    trainable = not graphs.is_frozen(layer)
    return stock.scale_shift(scale, shift, name=name, trainable=trainable)


def _last_axes(axis, rank):
    """Returns how many last axes `axis` names, None if others are among them."""
    axes = sorted(a % rank for a in np.atleast_1d(axis))
    return len(axes) if axes == list(range(rank - len(axes), rank)) else None


def over_last_axes(function, axis, fallback=None):
    """Applies a function of maps (N, H, W, C) to what has its channels in `axis`.

    Args:
        function: of a map; it treats its positions alike.
        axis: one axis or several, the last ones of the tensor.
        fallback: applied where they are not.

    Returns:
        A function of a tensor of any rank.
    """

    def on_map(x):
        count = _last_axes(axis, len(x.shape))
        if count is None:
            return fallback(x)
        if count == 1 and len(x.shape) == 4:
            return function(x)
        channels = int(np.prod(x.shape[-count:]))
        positions = int(np.prod(x.shape[1:-count], initial=1))
        y = function(ops.reshape(x, (-1, 1, positions, channels)))
        return ops.reshape(y, (-1, *x.shape[1:]))

    return on_map


def _layer_normalization(layer, name):
    """The last axes of each position."""
    if layer.rms_scaling:
        return None
    affine = _affine(layer, name, layer.gamma, layer.beta)

    def function(x):
        x = x - ops.mean(x, axis=-1, keepdims=True)
        x, epsilon = sized(x, -1, layer.epsilon)
        squares = ops.mean(x * x, axis=-1, keepdims=True)
        return affine(x * exp_log(squares + epsilon, -0.5))

    return over_last_axes(function, layer.axis, lambda x: again(layer, x))


def _rms_normalization(layer, name):
    affine = _affine(layer, name, layer.scale, None)

    def function(x):
        x, epsilon = sized(x, -1, layer.epsilon)
        squares = ops.mean(x * x, axis=-1, keepdims=True)
        return affine(x * exp_log(squares + epsilon, -0.5))

    return over_last_axes(function, layer.axis, lambda x: again(layer, x))


def _sample_normalization(layer, name):
    """All channels over all positions."""
    affine = _affine(layer, name, layer.gamma, layer.beta)
    axes = (1, 2, 3)

    def function(x):
        x = x - ops.mean(x, axis=axes, keepdims=True)
        x, epsilon = sized(x, axes, layer.epsilon)
        squares = ops.mean(x * x, axis=axes, keepdims=True)
        return affine(x * exp_log(squares + epsilon, -0.5))

    return over_last_axes(function, -1)


def _group_normalization(layer, name):
    """Groups of channels over all positions, each brought to a variance of 1 first."""
    channels, groups = layer.input_spec.axes[layer.axis], layer.groups
    if groups == 1:
        return _sample_normalization(layer, name)
    equalizer = stock.equalizer(channels, name=name)
    guarded = stock.equalized_variance(channels, layer.epsilon, name=name)
    affine = _affine(layer, name, layer.gamma, layer.beta)
    spread = stock.group_spread(groups, channels, name=f"{name}_spread")

    def of_groups(x):
        """Returns the mean over positions and over each group, (N, 1, 1, C)."""
        mean = ops.mean(x, axis=(1, 2), keepdims=True)
        if groups == channels:
            return mean
        mean = ops.reshape(mean, (-1, 1, groups, channels // groups))
        mean = ops.mean(mean, axis=-1, keepdims=True)
        return spread(ops.reshape(mean, (-1, 1, 1, groups)))

    def function(x):
        x = equalizer(x)
        centered = x - of_groups(x)
        squares = of_groups(centered * centered)
        return affine(centered * exp_log(guarded(squares), -0.5))

    return over_last_axes(function, -1)


def _unit_normalization(layer, _):
    return lambda x: unit(x, layer.axis)


NORMALIZATIONS = {
    "GroupNormalization": _group_normalization,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
    "UnitNormalization": _unit_normalization,
}

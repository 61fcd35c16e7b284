"""The mobile form of DoubleAttention, made of stock layers.

Both softmaxes are left as exponentials, e of the gathering maps and f of the
distribution, and what the products with them give is divided by their sums: the small
(m, n) descriptors, and m values per position. TFLite's int8 softmax is slow and stands
on a grid of 1/256, where a weight near 1/L is 0; exponentials have their largest at 1.

A map of one position has weight 1 in all descriptors, and gets back its own values. Its
scores less their maximum are 0, for which there is no int8 grid.
"""

import math

from keras import ops

from keras_attention import stock


def mobile_form(layer):
    """Returns what a built, channels-last `DoubleAttention` computes at inference.

    Weights that sum to 1 pass a constant through: the bias of `value` moves behind both
    products, into that of `extend`. That of `gather` cancels. Both ranges become
    narrower by it.

    Args:
        layer: The `DoubleAttention`.

    Returns:
        A function of (N, H, W, C) or (N, D, H, W, C), all but N static, to the same
        shape. Its layers are called `<layer>_<role>`, as the layer's own.
    """
    value, gather, distribute, extend = _convolutions(layer)

    def received(x):
        rows, width = x.shape[1:3]
        a, b, v = (
            ops.reshape(conv(x), (-1, rows * width, conv.filters))
            for conv in (value, gather, distribute)
        )  # (N, L, m), (N, L, n), (N, L, n)
        e, f = _exp(b, axis=1), _exp(v, axis=-1)
        g = ops.matmul(ops.transpose(a, (0, 2, 1)), e)  # (N, m, n)
        g = g * _reciprocal_sum(e, axis=1)
        z = ops.matmul(f, ops.transpose(g, (0, 2, 1)))  # (N, L, m)
        z = z * _reciprocal_sum(f, axis=-1)
        return ops.reshape(z, (-1, rows, width, value.filters))

    def function(x):
        shape = x.shape[1:]
        video = len(shape) == 4
        rows, width, channels = math.prod(shape[:-2]), *shape[-2:]
        x = ops.reshape(x, (-1, rows, width, channels)) if video else x
        y = extend(value(x) if rows * width == 1 else received(x))
        y = x + y if layer.residual else y
        return ops.reshape(y, (-1, *shape)) if video else y

    return function


def _convolutions(layer):
    """Returns the four 1x1 convolutions of the mobile form."""

    def pointwise(role, kernel, bias=None):
        name, trainable = f"{layer.name}_{role}", getattr(layer, role).trainable
        return stock.pointwise(kernel, bias, name=name, trainable=trainable)

    value, constant = stock.kernel_and_bias(layer.value)
    gather, _ = stock.kernel_and_bias(layer.gather)
    distribute, scores = stock.kernel_and_bias(layer.distribute)
    if layer.norm is None:
        extend, bias = stock.kernel_and_bias(layer.extend)
    else:
        extend, bias = stock.fold(layer.extend, layer.norm)
    bias = bias + constant @ extend
    # No more biases to train than the layer has.
    has_bias = layer.use_bias or layer.norm is not None
    return (
        pointwise("value", value),
        pointwise("gather", gather),
        pointwise("distribute", distribute, scores if layer.use_bias else None),
        pointwise("extend", extend, bias if has_bias else None),
    )


def _exp(x, axis):
    """Returns the numerators of a softmax: exponentials whose largest is 1."""
    return ops.exp(x - ops.max(x, axis=axis, keepdims=True))


def _reciprocal_sum(x, axis):
    """Returns 1 / sum by a logarithm: there are tables for it, and none for 1 / x."""
    return ops.exp(-1.0 * ops.log(ops.sum(x, axis=axis, keepdims=True)))

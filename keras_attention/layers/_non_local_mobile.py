"""The mobile form of NonLocal, made of stock layers.

- The softmax is left as exponentials, and what the product with them gives is divided
  by their sums: m values per position instead of M. TFLite's int8 softmax is slow and
  stands on a grid of 1/256, where a weight near 1/M is 0; exponentials have their
  largest at 1.
- Keys and values lose their means over the positions. That of the keys shifts all
  scores of a query, which the softmax cancels; that of the values is added again behind
  the product. So positions with flat weights, whose sums are large, have small
  products, and share a range with those that attend to one other.
- A single key has weight 1, whatever the scores: its value is what all positions
  receive. Less its mean it would be 0, for which there is no int8 grid.
"""

import functools
import math

import keras
from keras import ops

from keras_attention import stock


def mobile_form(layer):
    """Returns what a built, channels-last `NonLocal` computes at inference.

    Weights that sum to 1 pass a constant through: the bias of `g` moves behind the
    product, into that of `out`. That of `phi` cancels. Both ranges become narrower by
    it.

    Args:
        layer: The `NonLocal`.

    Returns:
        A function of (N, H, W, C) or (N, D, H, W, C), all but N static, to the same
        shape. Its layers are called `<layer>_<role>`, as the layer's own.
    """
    theta, phi, g, out = _convolutions(layer)
    pooling = functools.cache(functools.partial(_pooling, layer.name))

    def function(x):
        *frames, height, width, channels = shape = x.shape[1:]
        pooled = maps = ops.reshape(x, (-1, *shape[-3:])) if frames else x
        window = (min(height, 2), min(width, 2)) if layer.pool else (1, 1)
        if window != (1, 1):
            pooled = pooling(window)(maps)  # frames are samples
        if frames:  # Now they are put below each other.
            maps, pooled = (
                ops.reshape(t, (-1, frames[0] * t.shape[1], *t.shape[2:]))
                for t in (maps, pooled)
            )
        if math.prod(pooled.shape[1:3]) == 1:
            y = maps + out(g(pooled))
            return ops.reshape(y, (-1, *shape)) if frames else y
        queries, keys, values = (
            ops.reshape(conv(t), (-1, t.shape[1] * t.shape[2], conv.filters))
            for conv, t in ((theta, maps), (phi, pooled), (g, pooled))
        )  # (N, L, m), (N, M, m), (N, M, m)
        mean = ops.mean(values, axis=1, keepdims=True)  # (N, 1, m)
        keys, values = keys - ops.mean(keys, axis=1, keepdims=True), values - mean
        p = ops.matmul(queries, ops.transpose(keys, (0, 2, 1)))  # (N, L, M)
        e = ops.exp(p - ops.max(p, axis=-1, keepdims=True))
        z = ops.matmul(e, values)  # (N, L, m)
        # There are tables for both, and none for 1 / x.
        z = z * ops.exp(-1.0 * ops.log(ops.sum(e, axis=-1, keepdims=True))) + mean
        y = maps + out(ops.reshape(z, (-1, *maps.shape[1:3], g.filters)))
        return ops.reshape(y, (-1, *shape)) if frames else y

    return function


def _pooling(name, window):
    return keras.layers.MaxPooling2D(
        window,
        data_format="channels_last",
        dtype="float32",
        name=f"{name}_pool_{window[0]}x{window[1]}",
    )


def _convolutions(layer):
    """Returns the four 1x1 convolutions of the mobile form."""

    def pointwise(role, kernel, bias=None):
        name, trainable = f"{layer.name}_{role}", getattr(layer, role).trainable
        return stock.pointwise(kernel, bias, name=name, trainable=trainable)

    theta, scores = stock.kernel_and_bias(layer.theta)
    factor = theta.shape[1] ** -0.5 if layer.scale else 1.0
    phi, _ = stock.kernel_and_bias(layer.phi)
    g, constant = stock.kernel_and_bias(layer.g)
    out, bias = stock.fold(layer.out, layer.norm)
    return (
        pointwise("theta", theta * factor, scores * factor if layer.use_bias else None),
        pointwise("phi", phi),
        pointwise("g", g),
        pointwise("out", out, bias + constant @ out),
    )

"""The mobile form of GlobalContext, made of stock layers.

- The softmax over positions is left as exponentials; what the product with them gives,
  C numbers, is divided by their sum. TFLite's int8 softmax is slow and stands on a grid
  of 1/256, where a weight near 1/L is 0. A map of one position is its own mean.
- The normalization subtracts its mean inside of the convolution in front of it, whose
  kernel and bias lose theirs: no operator is left for it.
- Its variance is the mean of squares over the channels, by a convolution that gives it
  to each of them; its root is exp(-log(.) / 2).
"""

import numpy as np
from keras import ops

from keras_attention import stock


def mobile_form(layer, epsilon):
    """Returns what a built, channels-last `GlobalContext` computes at inference.

    Args:
        layer: The `GlobalContext`.
        epsilon: Of its normalization.

    Returns:
        A function of (N, H, W, C), H and W static, to the same shape. Its layers are
        called `<layer>_<role>`.
    """
    if layer.gamma.shape[0] == 1:
        return _constant(layer)
    context, transform = _context(layer), _transform(layer, epsilon)
    if layer.fusion == "add":
        return lambda x: x + transform(context(x))
    gate = stock.activation("sigmoid", name=f"{layer.name}_gate")
    return lambda x: x * gate(transform(context(x)))


def _constant(layer):
    """Returns the form of a bottleneck of one channel, which normalized is beta."""
    kernel, bias = stock.kernel_and_bias(layer.expand)
    beta = ops.convert_to_numpy(layer.beta).astype("float64")
    t = np.maximum(beta, 0) @ kernel + bias
    name, trainable = f"{layer.name}_constant", layer.expand.trainable
    if layer.fusion == "add":
        return stock.scale_shift(np.ones_like(t), t, name=name, trainable=trainable)
    return stock.scale_shift(1 / (1 + np.exp(-t)), name=name, trainable=trainable)


def _context(layer):
    """Returns x -> its weighted means over the positions, (N, 1, 1, C)."""
    kernel, _ = stock.kernel_and_bias(layer.mask)  # The softmax cancels its bias.
    mask = stock.pointwise(
        kernel, name=f"{layer.name}_mask", trainable=layer.mask.trainable
    )

    def function(x):
        _, height, width, channels = x.shape
        if height * width == 1:  # No int8 grid holds scores that are always 0.
            return x
        logits = ops.reshape(mask(x), (-1, 1, height * width))
        e = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))  # (N, 1, L)
        context = ops.matmul(e, ops.reshape(x, (-1, height * width, channels)))
        # There are tables for both, and none for 1 / x.
        context *= ops.exp(-1.0 * ops.log(ops.sum(e, axis=-1, keepdims=True)))
        return ops.reshape(context, (-1, 1, 1, channels))

    return function


def _transform(layer, epsilon):
    """Returns c -> W2 relu(LN(W1 c + b1)) + b2, shapes (N, 1, 1, C)."""
    name = layer.name
    kernel, bias = stock.kernel_and_bias(layer.reduce)
    reduce = stock.pointwise(
        kernel - kernel.mean(1, keepdims=True),
        bias - bias.mean(),
        name=f"{name}_reduce",
        trainable=layer.reduce.trainable,
    )
    width = bias.size
    equalizer = stock.equalizer(width, name=name)
    mean = np.full((width, width), 1 / width)
    mean = stock.pointwise(mean, name=f"{name}_mean", trainable=False)
    guarded = stock.equalized_variance(width, epsilon, name=name)
    affine = stock.scale_shift(
        ops.convert_to_numpy(layer.gamma),
        ops.convert_to_numpy(layer.beta),
        name=f"{name}_norm",
        trainable=layer.trainable,
    )
    expand = stock.pointwise_copy(layer.expand, name=f"{name}_expand")

    def function(context):
        h = equalizer(reduce(context))  # (N, 1, 1, m), of mean 0
        root = ops.exp(ops.log(guarded(mean(h * h))) * -0.5)
        return expand(ops.relu(affine(h * root)))

    return function

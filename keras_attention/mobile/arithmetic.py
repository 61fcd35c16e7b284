"""Operations on tensors and reductions as operations that have int8 kernels.

Each entry of `ARITHMETIC` gets the operation and its name, and returns a function of
the operation's arguments that computes the same, or None where there is none.
"""

import numbers

import keras
import numpy as np
from keras import ops

from keras_attention import graph as graphs
from keras_attention import stock
from keras_attention.mobile.activations import exp_log


def again(op, *args):
    """Calls an operation or layer as it is: a copy, which leaves the user's alone."""
    return graphs.copy_operation(op, op.name)(*args)


def slices(x, cuts, axis):
    """Returns parts of x: their number, or where they are cut from each other.

    SPLIT_V leaves XNNPACK.
    """
    size = x.shape[axis]
    if isinstance(cuts, int):  # numpy's array_split: the first ones are larger by one
        small, larger = divmod(size, cuts)
        cuts = [i * small + min(i, larger) for i in range(1, cuts)]
    bounds = [0, *(int(cut) for cut in cuts), size]
    before = _before(x, axis)
    pairs = zip(bounds[:-1], bounds[1:], strict=True)
    return [x[(*before, slice(begin, end))] for begin, end in pairs]


def _before(x, axis):
    return (slice(None),) * (axis % len(x.shape))


def _split(op, _):
    return lambda x: slices(x, op.indices_or_sections, op.axis)


def _unstack(op, _):
    axis = op.axis
    return lambda x: [x[(*_before(x, axis), i)] for i in range(x.shape[axis])]


def _flip(op, _):
    def function(x):
        axes = range(1, len(x.shape)) if op.axis is None else np.atleast_1d(op.axis)
        turned = {int(axis) % len(x.shape) for axis in axes}
        order = (-1 if i in turned else 1 for i in range(len(x.shape)))
        return x[tuple(slice(None, None, step) for step in order)]

    return None if _batch(op.axis) else function


def _batch(axis):
    return axis is None or 0 in np.atleast_1d(axis)


def _repeat(op, _):
    if op.axis is None or not isinstance(op.repeats, int):
        return None

    def function(x):
        # The definition takes a tensor of one axis more.
        places = np.repeat(np.arange(x.shape[op.axis]), op.repeats).tolist()
        return ops.take(x, places, axis=op.axis)

    return function


def _repeat_vector(layer, _):
    return lambda x: ops.tile(ops.reshape(x, (-1, 1, x.shape[-1])), (1, layer.n, 1))


def _divide(op, _):
    """A product, where the divisor is a number."""

    def function(x, y):
        if isinstance(y, numbers.Number):
            return x * (1 / y)
        return again(op, x, y)

    return function


def _power(op, _):
    known = {
        1: lambda x: x,
        2: lambda x: x * x,
        3: lambda x: x * x * x,
        0.5: ops.sqrt,
        -0.5: lambda x: exp_log(x, -0.5),
        -1: lambda x: ops.divide(1.0, x),
    }

    def function(x, power):
        if isinstance(power, numbers.Number) and power in known:
            return known[power](x)
        return again(op, x, power)

    return function


def _maximum(op, _):
    """A ReLU, where it is one: the converter makes that of it, too."""

    def function(*args):
        if isinstance(args[-1], numbers.Number) and args[-1] == 0:
            return ops.relu(args[0])
        return again(op, *args)

    return function


def _average(op, _):
    def function(x, weights=None):
        if weights is not None:
            return again(op, x, weights)
        return ops.mean(x, axis=op.axis)

    return function


def variance(x, axis, keepdims=True):
    """Returns the variance over axes, without operations that have no int8 kernel."""
    centered = x - ops.mean(x, axis=axis, keepdims=True)
    return ops.mean(centered * centered, axis=axis, keepdims=keepdims)


def _var(op, _):
    return lambda x: variance(x, op.axis, op.keepdims)


def _moments(op, _):
    def function(x):
        mean = ops.mean(x, axis=op.axes, keepdims=op.keepdims)
        return mean, variance(x, op.axes, op.keepdims)

    return function


def _std(op, _):
    return lambda x: ops.sqrt(variance(x, op.axis, op.keepdims))


def _logsumexp(op, _):
    def function(x):
        most = ops.max(x, axis=op.axis, keepdims=True)
        total = ops.sum(ops.exp(x - most), axis=op.axis, keepdims=op.keepdims)
        if not op.keepdims:
            most = ops.reshape(most, (-1, *total.shape[1:]))
        return ops.log(total) + most

    return function


def _norm(op, _):
    if op.ord not in (None, 2, "fro") or _batch(op.axis):
        return None
    if op.ord == 2 and len(np.atleast_1d(op.axis)) != 1:
        return None  # of a matrix: its largest singular value
    axis = tuple(int(a) for a in np.atleast_1d(op.axis))
    return lambda x: ops.sqrt(ops.sum(x * x, axis=axis, keepdims=op.keepdims))


def sized(x, axis, epsilon):
    """Brings what is normalized to similar sizes first.

    Squares lose what is small: of values of 1/16 of the largest, nothing is left on 256
    steps. What a normalization makes of x does not depend on the size.

    Args:
        x: tensor.
        axis: one axis or several, over which x is normalized.
        epsilon: what is added to its variance, > 0.

    Returns:
        (x * e, epsilon * e^2), e a number for each position. A position of less than
        1/64 of the largest one is not brought up to it: e has 256 steps, too.
    """
    highest = ops.max(x, axis=axis, keepdims=True)
    lowest = ops.min(x, axis=axis, keepdims=True)
    size = ops.relu(highest) + ops.relu(lowest * -1.0)
    most = ops.max(size, axis=tuple(range(1, len(x.shape))), keepdims=True)
    root = float(np.sqrt(epsilon))
    inverse = exp_log(size + (most * (1 / 64) + root), -1.0)
    least = inverse * root
    return x * inverse, least * least


def unit(x, axis):
    """Returns x / |x| over axes; 0 stays 0."""
    x, least = sized(x, axis, 1e-12)
    return x * exp_log(ops.sum(x * x, axis=axis, keepdims=True) + least, -0.5)


def _normalize(op, _):
    return None if op.order != 2 else lambda x: unit(x, op.axis)


def _grayscale(_op, name):
    kernel = np.array([[0.2989], [0.587], [0.114]])
    return stock.pointwise(kernel, name=name, trainable=False).__call__


def _dot(layer, _):
    """A product of two maps, or of two vectors."""
    if not isinstance(layer, keras.layers.Dot):
        return None
    axes = layer.axes if isinstance(layer.axes, tuple | list) else (layer.axes,) * 2

    def function(inputs):
        first, second = inputs
        if layer.normalize:
            first, second = unit(first, axes[0]), unit(second, axes[1])
        if len(first.shape) == len(second.shape) == 2:
            return ops.sum(first * second, axis=1, keepdims=True)
        if axes[0] % 3 == 1:
            first = ops.transpose(first, (0, 2, 1))
        if axes[1] % 3 == 2:
            second = ops.transpose(second, (0, 2, 1))
        return ops.matmul(first, second)

    return function


def attention(query, key, value, scale):
    """Returns what heads attend to: exponentials, product, then one division.

    Args:
        query: tensor (N, T, heads, C).
        key: tensor (N, S, heads, C).
        value: tensor (N, S, heads, D).
        scale: factor of the scores.

    Returns:
        Tensor (N, T, heads, D).
    """
    query, key, value = (
        ops.transpose(x, (0, 2, 1, 3)) for x in (query * scale, key, value)
    )
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
    weights = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
    total = ops.sum(weights, axis=-1, keepdims=True)
    found = ops.matmul(weights, value) * exp_log(total, -1.0)
    return ops.transpose(found, (0, 2, 1, 3))


def _attention(op, _):
    if op.is_causal or op.attn_logits_soft_cap is not None:
        return None

    def function(query, key, value, bias=None, mask=None, scale=None):
        if bias is not None or mask is not None:
            return again(op, query, key, value, bias, mask, scale)
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        return attention(query, key, value, scale)

    return function


def _plain(function):
    return lambda _op, _name: function


ARITHMETIC = {
    "ArraySplit": _split,
    "Average": _average,
    "Divide": _divide,
    "Dot": _dot,
    "DotProductAttention": _attention,
    "Exp2": _plain(lambda x: ops.exp(x * float(np.log(2)))),
    "Expm1": _plain(lambda x: ops.exp(x) - 1.0),
    "Flip": _flip,
    "Hstack": _plain(lambda xs: ops.concatenate(xs, axis=1)),
    "Log10": _plain(lambda x: ops.log(x) * float(1 / np.log(10))),
    "Log1p": _plain(lambda x: ops.log(x + 1.0)),
    "Log2": _plain(lambda x: ops.log(x) * float(1 / np.log(2))),
    "Logsumexp": _logsumexp,
    "Maximum": _maximum,
    "Moments": _moments,
    "Negative": _plain(lambda x: x * -1.0),
    "Norm": _norm,
    "Normalize": _normalize,
    "Power": _power,
    "RGBToGrayscale": _grayscale,
    "Reciprocal": _plain(lambda x: ops.divide(1.0, x)),
    "Repeat": _repeat,
    "RepeatVector": _repeat_vector,
    "Split": _split,
    "Square": _plain(lambda x: x * x),
    "Std": _std,
    "Unstack": _unstack,
    "Var": _var,
}

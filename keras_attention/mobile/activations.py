"""Functions of one value as operations that have int8 kernels.

Each entry of `ACTIVATIONS` gets the layer or operation and its name, and returns a
function of a tensor that computes the same. None of their parts jumps, and none loses
what the result needs: a part with values in [0, 1] has 255 steps for them whatever the
range of the input is.
"""

from keras import ops


def softmax(x, axis):
    """Returns exp(x) / sum(exp(x)) on a grid of its own.

    TFLite's SOFTMAX stands on a grid of 1/256, which can't hold weights near 1 / L.
    """
    x = x - ops.max(x, axis=axis, keepdims=True)
    weights = ops.exp(x)
    return weights * exp_log(ops.sum(weights, axis=axis, keepdims=True), -1.0)


def exp_log(x, power):
    """Returns x ** power for x > 0, in lookups."""
    return ops.exp(ops.log(x) * power)


def above(x):
    """Returns max(x, 0), where x itself is read, too.

    As a part of a product it is cheap, and alone it is a slow operator: an ELU takes a
    quarter of the time.
    """
    return _above_twice(x) * 0.5


def _above_twice(x):
    return ops.relu(x * 2.0)


def below(x):
    """Returns max(-x, 0)."""
    return ops.relu(x * -1.0)


def _absolute(x):
    """Returns |x|, without ABS, which is slow."""
    return _above_twice(x) - x


def _expm1_below(x):
    """Returns exp(min(x, 0)) - 1."""
    return ops.exp(below(x) * -1.0) - 1.0


def _scaled(x, factor):
    return x if factor == 1 else x * factor


def _elu(op, _):
    alpha = float(getattr(op, "alpha", 1.0))
    return lambda x: above(x) + _scaled(_expm1_below(x), alpha)


def _celu(op, _):
    alpha = float(getattr(op, "alpha", 1.0))
    return lambda x: above(x) + _scaled(_expm1_below(_scaled(x, 1 / alpha)), alpha)


def _selu(_op, _):
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return lambda x: ops.relu(x * scale) + _expm1_below(x) * (alpha * scale)


def _softplus(x):
    return above(x) - ops.log(ops.sigmoid(_absolute(x)))


def _log_sigmoid(x):
    return ops.log(ops.sigmoid(_absolute(x))) - below(x)


def _softsign(x):
    return x / (_absolute(x) + 1.0)


def _mish(x):
    return x * ops.tanh(_softplus(x))


def _silu(x):
    return x * ops.sigmoid(x)


def _hard_sigmoid(x):
    return ops.relu6(x + 3.0) * (1 / 6)


def _hard_silu(x):
    # The gate first: as x * relu6(x + 3) / 6 the converter would see its HARD_SWISH,
    # which XNNPACK leaves to TFLite.
    return x * _hard_sigmoid(x)


def _sparse_sigmoid(x):
    return ops.relu6(x * 3.0 + 3.0) * (1 / 6)


def _sparse_plus(x):
    gate = _sparse_sigmoid(x)
    return gate * gate + ops.relu(x - 1.0)


def _squareplus(op, _):
    b = float(getattr(op, "b", 4.0))
    return lambda x: (x + ops.sqrt(x * x + b)) * 0.5


def _soft_shrink(op, _):
    threshold = float(getattr(op, "threshold", 0.5))
    return lambda x: ops.relu(x - threshold) - ops.relu(x * -1.0 - threshold)


def _glu(op, _):
    axis = getattr(op, "axis", -1)

    def function(x):
        a, b = ops.split(x, 2, axis=axis)
        return a * ops.sigmoid(b)

    return function


def _log_softmax(op, _):
    axis = getattr(op, "axis", -1)

    def function(x):
        # LOG_SOFTMAX has a fixed grid of 1/16.
        x = x - ops.max(x, axis=axis, keepdims=True)
        return x - ops.log(ops.sum(ops.exp(x), axis=axis, keepdims=True))

    return function


def _softmax_over_axes(op, _):
    return lambda x: softmax(x, tuple(op.axis))


def _plain(function):
    return lambda _op, _name: function


ACTIVATIONS = {
    "Celu": _celu,
    "Elu": _elu,
    "Glu": _glu,
    "HardSigmoid": _plain(_hard_sigmoid),
    "HardSilu": _plain(_hard_silu),
    "LogSigmoid": _plain(_log_sigmoid),
    "LogSoftmax": _log_softmax,
    "Mish": _plain(_mish),
    "Selu": _selu,
    "Silu": _plain(_silu),
    "SoftShrink": _soft_shrink,
    "SoftmaxOverAxes": _softmax_over_axes,
    "Softplus": _plain(_softplus),
    "Softsign": _plain(_softsign),
    "SparsePlus": _plain(_sparse_plus),
    "SparseSigmoid": _plain(_sparse_sigmoid),
    "Squareplus": _squareplus,
    "TanhShrink": _plain(lambda x: x - ops.tanh(x)),
}

"""Gradients of layers against finite differences of their numpy restatements."""

import numpy as np
from support.comparing import difference, features
from support.gradients import FLOAT64_CLOSE, double_precision, gradients
from support.torch_weights import live

from keras_attention.weights.torch_state import torch_parameters

STEP = 1e-5  # error of a central difference: STEP**2 and 1e-16 / STEP


def assert_gradients_match(layer, reference, shape, entries=None, no_gradient=()):
    """Differentiates sum(y * cotangent) by x and by each weight, in training.

    Args:
        layer: a channels-last layer of dtype float64 that is not built yet.
        reference: its restatement, (x, weights) -> y in float64.
        shape: of its input.
        entries: how many random numbers of each tensor are moved; None: all.
        no_gradient: authors' names of weights whose gradient is 0.
    """
    with double_precision():
        layer, weights = live(layer, shape)
        x = features(*shape).astype("float64")
        cotangent = features(*layer.compute_output_shape(shape), seed=2)
        cotangent = cotangent.astype("float64")
        _, dx, found = gradients(layer, x, cotangent)
    gradient_of = {
        name: parameter.to_torch(found.pop(id(parameter.variable)))
        for name, parameter in torch_parameters(layer).items()
        if id(parameter.variable) in found
    }
    assert gradient_of and not found
    rng = np.random.default_rng(0)

    def slopes(values, loss):
        count = values.size if entries is None else min(entries, values.size)
        indices = rng.choice(values.size, count, replace=False)
        return indices, [_slope(values, index, loss) for index in indices]

    def loss(x, weights):
        return (reference(x, weights) * cotangent).sum()

    largest = max(np.abs(gradient).max() for gradient in gradient_of.values())
    for name, gradient in gradient_of.items():
        where, numeric = slopes(
            weights[name], lambda w, name=name: loss(x, weights | {name: w})
        )
        scale = largest if name in no_gradient else np.abs(gradient).max()
        off = difference(gradient.ravel()[where], numeric, scale)
        assert off <= FLOAT64_CLOSE, (name, off)
    where, numeric = slopes(x, lambda x: loss(x, weights))
    assert difference(dx.ravel()[where], numeric, np.abs(dx).max()) <= FLOAT64_CLOSE


def _slope(values, index, loss):
    ends = []
    for sign in (1, -1):
        moved = values.astype("float64")
        moved.flat[index] += sign * STEP
        ends.append(loss(moved))
    return (ends[0] - ends[1]) / (2 * STEP)

"""Brings channels to equal variance before their variance is quantized.

A mobile form that divides by a root of a variance holds a `stock.equalizer`, which
scales its channels by e, and a `stock.equalized_variance`. What it computes does not
depend on e. Deployed, e is 1; here it becomes what calibration data ask for.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_attention import graph as graphs

_ROLES = ("_equalizer", "_variance", "_variance_floor")
# Equalizers stand behind gates, which lose as many steps as the factors differ: at most
# so much. The strongest channel gets variance 1; variances are kept from going below
# _FLOOR. Measured on ReLU features with dead channels and on scales from 0.05 to 1.
_LARGEST_RATIO = 16.0
_FLOOR = 1 / 16


def equalizers(model: keras.Model) -> list[tuple[keras.Layer, ...]]:
    """Returns the (equalizer, variance, floor) layers of a deployed model."""
    layers = {layer.name: layer for layer in model.layers}
    found = []
    for name in layers:
        block = name.removesuffix(_ROLES[0])
        roles = [f"{block}{role}" for role in _ROLES]
        if name != block and all(role in layers for role in roles):
            found.append(tuple(layers[role] for role in roles))
    return found


def equalize(model: keras.Model, data: Sequence[Any]) -> None:
    """Sets the equalizers of a deployed model, in place.

    Where the variance of a channel is above _FLOOR after that, the model computes what
    it computed before.

    Args:
        model: from `mobile.deploy`.
        data: batches of inputs.
    """
    calls = graphs.trace_model(model).calls()
    for equalizer, variance, floor in equalizers(model):
        inputs = [node.input_tensors[0] for node in calls[id(variance)]]
        watcher = keras.Model(model.input, inputs)
        found = [
            ops.convert_to_numpy(tensor)
            for batch in data
            for tensor in tree.flatten(watcher(batch, training=False))
        ]
        seen = np.concatenate(found).mean((0, 1, 2)).clip(min=0)
        if not seen.max() > 0:
            continue
        ones, epsilon = variance.get_weights()
        deviation = np.sqrt(seen + epsilon)
        scale = 1 / np.maximum(deviation, deviation.max() / _LARGEST_RATIO)
        (kernel,) = equalizer.get_weights()
        equalizer.set_weights([kernel * scale[:, None]])
        variance.set_weights([ones, epsilon * scale**2 - _FLOOR])
        floor.set_weights([ones, np.full_like(epsilon, _FLOOR)])

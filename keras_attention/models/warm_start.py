"""Starts blocks as constants, and divides these out of the layers around.

A block whose gate is constant multiplies its input by a number c. Forward from it,
operations f with f(c x) = c f(x) hand c on, until linear layers and normalizations take
it into their weights. Where it meets something else, the block's input is made 1 / c
times as large, backward, by the same kinds of layers. Both are exact at inference.
"""

import collections
import dataclasses
import math

import keras
import numpy as np
from keras import layers, ops, tree

from keras_attention import graph as graphs
from keras_attention.layers.aw_conv2d import AWConv2D
from keras_attention.models import _homogeneity


@dataclasses.dataclass
class _Change:
    """What a layer has to make up for.

    Attributes:
        given: Factor of the input that its weights undo.
        wanted: Factor that its output gets.
    """

    given: float = 1.0
    wanted: float = 1.0


class _Stopped(Exception):
    """Says what a constant can't pass."""


def start(model, blocks):
    """Makes the blocks of a model constant, and divides the constants out.

    Args:
        model: A functional model, its own: its weights change.
        blocks: {id(block): block}, built layers of the model or of one nested in it.

    Raises:
        ValueError: A block has no warm start, or the way of its constant is barred in
            both directions.
    """
    scales = {key: _constant(block) for key, block in blocks.items()}
    graph = graphs.trace_flat(model)
    constant = blocks | {
        id(node.op): node.op for node in graph.nodes if _is_constant(node.op)
    }
    changes = collections.defaultdict(_Change)
    found = {}
    for key, scale in scales.items():
        block = blocks[key]
        if scale == 1:
            continue
        if isinstance(block, AWConv2D):
            change, inside = _Change(given=scale), {key: block}
        else:
            change, inside = _way(graph, block, constant, scale)
        for each, layer in inside.items():
            found[each] = layer
            changes[each].given *= change.given
            changes[each].wanted *= change.wanted
    try:
        values = [
            pair for key, layer in found.items() for pair in _new(layer, changes[key])
        ]
    except _Stopped as reason:
        raise ValueError(f"no warm start for so many blocks: {reason}") from reason
    for variable, value in values:
        variable.assign(value)


def _constant(block):
    """Returns the constant as which a block has been started."""
    if not callable(getattr(block, "warm_start", None)):
        raise ValueError(
            f"layer {block.name!r} ({type(block).__name__}) has no method "
            "warm_start() -> float, which makes it compute that number times its input"
        )
    scale = float(block.warm_start())
    if not 0 < scale < math.inf:
        raise ValueError(
            f"warm_start() of layer {block.name!r} must return a number > 0; received "
            f"{scale}"
        )
    return scale


def _is_constant(block):
    """Whether a block of an earlier insertion is as its warm start left it."""
    if not callable(getattr(block, "warm_start", None)):
        return False
    state = block.get_weights()
    try:
        block.warm_start()
    except ValueError:
        return False
    pairs = zip(state, block.get_weights(), strict=True)
    unchanged = all(np.array_equal(old, new) for old, new in pairs)
    block.set_weights(state)
    return unchanged


def _way(graph, block, constant, scale):
    """Returns the change that undoes a block's constant, and {id: layer} to make it."""
    reasons = []
    for search, change in (
        (_behind, _Change(given=scale)),
        (_before, _Change(wanted=1 / scale)),
    ):
        try:
            return change, search(graph, block, constant, change)
        except _Stopped as reason:
            reasons.append(str(reason))
    raise ValueError(
        f"no warm start for layer {block.name!r}: its constant, {scale:.4g}, can't be "
        f"divided out behind it ({reasons[0]}), nor before it ({reasons[1]})"
    )


def _behind(graph, block, constant, change):
    """Returns the layers that absorb a factor of the block's outputs.

    Raises:
        _Stopped: The factor reaches something that does not.
    """
    calls = graph.calls()
    scaled = {id(t) for node in calls[id(block)] for t in node.output_tensors}
    found = {}
    for node in graph.nodes:
        given = [t for t in node.input_tensors if id(t) in scaled]
        if not given:
            continue
        kind = _homogeneity.kind_of(node, constant)
        if node.op is block:
            raise _Stopped(f"{node.name!r} reads its own output")
        if kind == "linear":
            _check_weights(node.op, change)
            found[id(node.op)] = node.op
        elif kind == "joining" and len(given) < len(node.input_tensors):
            raise _Stopped(f"{node.name!r} joins it with something else")
        elif kind == "product" and len(given) > 1:
            raise _Stopped(f"{node.name!r} multiplies it by itself")
        elif kind is None:
            raise _Stopped(_bars(node))
        else:
            scaled.update(id(t) for t in node.output_tensors)
    if any(id(t) in scaled for t in tree.flatten(graph.outputs)):
        raise _Stopped("it reaches an output of the model")
    for key, layer in found.items():
        for node in calls[key]:
            if any(id(t) not in scaled for t in node.input_tensors):
                raise _Stopped(f"{layer.name!r} is called on something else, too")
    return found


def _before(graph, block, constant, change):
    """Returns the layers that make the block's inputs by a factor larger.

    Raises:
        _Stopped: These are not made by layers that can, or something else reads them.
    """
    calls, producers, consumers = graph.calls(), graph.producers(), graph.consumers()
    passed = {id(node) for node in calls[id(block)]}
    pending = [t for node in calls[id(block)] for t in node.input_tensors]
    scaled, found = {}, {}
    while pending:
        tensor = pending.pop()
        if id(tensor) in scaled:
            continue
        scaled[id(tensor)] = tensor
        node = producers.get(id(tensor))
        if node is None:
            raise _Stopped("it reaches an input of the model")
        kind = _homogeneity.kind_of(node, constant)
        if node.op is block:
            raise _Stopped(f"{node.name!r} reads its own output")
        if kind == "linear":
            _check_weights(node.op, change)
            found[id(node.op)] = node.op
        elif kind in ("homogeneous", "joining"):
            passed.add(id(node))
            pending += node.input_tensors
        else:
            raise _Stopped(_bars(node))
    for tensor in scaled.values():
        for reader in consumers[id(tensor)]:
            if id(reader) not in passed:
                name = repr(reader.name) if reader else "the model's caller"
                maker = producers[id(tensor)].name
                raise _Stopped(f"{name} reads {maker!r}, too")
    for key, layer in found.items():
        for node in calls[key]:
            if any(id(t) not in scaled for t in node.output_tensors):
                raise _Stopped(f"{layer.name!r} is called elsewhere, too")
    return found


def _bars(node):
    return f"{node.name!r} ({type(node.op).__name__}) does not pass it on"


def _check_weights(layer, change):
    """Raises _Stopped if the weights of a linear layer can't make a change."""
    out = change.wanted != 1
    quantized = isinstance(
        layer.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy
    )
    if isinstance(layer, layers.BatchNormalization):
        if out and layer.gamma is None:
            raise _Stopped(f"{layer.name!r} has no scale")
    elif out and layer.activation not in _homogeneity.FUNCTIONS:
        raise _Stopped(f"the activation of {layer.name!r} does not pass it on")
    for weight, _ in _new(layer, change):
        if quantized or not isinstance(weight, keras.Variable):
            raise _Stopped(f"{layer.name!r} is quantized, or has a low-rank update")
        if not isinstance(weight.constraint, _homogeneity.FREE_CONSTRAINTS):
            raise _Stopped(f"{weight.name!r} of {layer.name!r} has a constraint")


def _new(layer, change):
    """Returns (variable, value) for the weights of a linear layer that change."""
    if isinstance(layer, layers.BatchNormalization):
        return _new_norm(layer, change)
    # AWConv2D is none of the table's: its kernel is one while its gates are constant.
    given, wanted = _homogeneity.LINEAR.get(type(layer), ("kernel", "kernel"))
    factors = {given: 1 / change.given}
    factors[wanted] = factors.get(wanted, 1.0) * change.wanted
    if getattr(layer, "bias", None) is not None:
        factors["bias"] = change.wanted
    variables = ((getattr(layer, name), factor) for name, factor in factors.items())
    return [(v, _value(v) * factor) for v, factor in variables if factor != 1]


def _new_norm(norm, change):
    """Returns the same for a batch normalization; exact, epsilon included.

    Mean and variance follow the input, as training would have them follow; gamma makes
    up for epsilon, which does not.

    Raises:
        _Stopped: It has no gamma, and the variances would have to be negative.
    """
    mean, variance = _value(norm.moving_mean), _value(norm.moving_variance)
    square, found = change.given**2, []
    scaled = square * variance
    if norm.gamma is not None:
        ratio = (scaled + norm.epsilon) / (square * (variance + norm.epsilon))
        gamma = _value(norm.gamma) * np.sqrt(ratio) * change.wanted
        found.append((norm.gamma, gamma))
    else:
        scaled += (square - 1) * norm.epsilon
        if scaled.min() < 0:
            raise _Stopped(f"{norm.name!r} has no scale, and too small a variance")
    if norm.beta is not None:
        found.append((norm.beta, _value(norm.beta) * change.wanted))
    moving = (norm.moving_mean, change.given * mean), (norm.moving_variance, scaled)
    return [*found, *moving]


def _value(variable):
    return ops.convert_to_numpy(variable).astype("float64")

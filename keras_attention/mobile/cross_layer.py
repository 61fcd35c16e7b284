"""Cross-layer equalization: kernels of neighbours share their channels' scales evenly.

A ReLU passes positive factors on, so a channel may leave one layer smaller by a factor
that the next layer makes up for. Where channels differ wildly, one range for all of a
map then loses less of the weak ones.

Nagel, van Baalen, Blankevoort and Welling, ICCV 2019, arXiv 1906.04721, section 4.1.
"""

import keras
import numpy as np

from keras_attention import graph as graphs
from keras_attention.mobile.rules import operation_name

# What may stand between two layers. A ReLU6 may not: it cuts at 6, whatever the factor.
_PASSING = ("Relu", "ZeroPadding2D", "MaxPooling2D")
_LARGEST_FACTOR = 1e3
_ROUNDS = 8


def equalize(model: keras.Model) -> int:
    """Equalizes the kernels of a deployed model, in place; it computes what it did.

    Args:
        model: from `mobile.deploy`.

    Returns:
        Number of pairs of layers whose kernels were changed.
    """
    found = _pairs(graphs.trace_model(model))
    for _ in range(_ROUNDS):  # a layer in two pairs changes the other pair's balance
        for first, second in found:
            _balance(first, second)
    return len(found)


def _pairs(graph):
    """Returns the (layer, next layer) between which channels can be scaled."""
    readers, calls = graph.consumers(), graph.calls()
    found = []
    for node in graph.nodes:
        if not _can_be_scaled(node.op, calls):
            continue
        following = readers[id(node.output_tensors[0])]
        while (
            len(following) == 1
            and following[0] is not None
            and operation_name(following[0].op) in _PASSING
        ):
            following = readers[id(following[0].output_tensors[0])]
        if len(following) != 1 or following[0] is None:
            continue
        second = following[0].op
        if _can_be_scaled(second, calls) and second is not node.op:
            found.append((node.op, second))
    return found


def _can_be_scaled(op, calls):
    convolutions = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    return (
        isinstance(op, convolutions)
        and len(calls[id(op)]) == 1
        and op.kernel.trainable
        and getattr(op, "depth_multiplier", 1) == getattr(op, "groups", 1) == 1
        and op.activation is keras.activations.linear
    )


def _balance(first, second):
    """Scales first's outputs and second's inputs so that their kernels' sizes meet."""
    kernel, *bias = first.get_weights()
    outgoing = np.abs(kernel).max((0, 1, 3) if _is_depthwise(first) else (0, 1, 2))
    next_kernel, *rest = second.get_weights()
    incoming = np.abs(next_kernel).max((0, 1, 3))
    live = (outgoing > 0) & (incoming > 0)
    factor = np.sqrt(np.where(live, outgoing, 1) / np.where(live, incoming, 1))
    factor = factor.clip(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
    across = factor[:, None] if _is_depthwise(first) else factor
    first.set_weights([kernel / across, *(b / factor for b in bias)])
    second.set_weights([next_kernel * factor[:, None], *rest])


def _is_depthwise(layer):
    return isinstance(layer, keras.layers.DepthwiseConv2D)

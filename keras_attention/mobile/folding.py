"""Folds batch normalizations into the convolutions in front of them.

What is left over, a batch normalization that stands alone, becomes a scale and shift
per channel: a `DepthwiseConv2D(1)`.
"""

import keras
import numpy as np

from keras_attention import graph as graphs
from keras_attention import grouped, stock
from keras_attention.mobile.rewriting import Rewriter

_FOLDING_LAYERS = (
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)


def fold_batch_normalization(graph: graphs.Graph) -> graphs.Graph:
    """Returns a graph without batch normalizations that computes the same inference.

    A convolution and a batch normalization fold where every call of the one is
    followed by a call of the other and by nothing else; a pair that is called twice
    is folded once. The folded layer is frozen if the convolution was; it has none of
    its regularizers and constraints but `BlockDiagonal`.

    Args:
        graph: flat graph; convolutions have no activation of their own.
    """
    while pairs := _pairs(graph):  # again for one behind one that was folded
        graph = _folded(graph, pairs)
    rewriter = Rewriter()

    def apply(node, args, kwargs):
        if isinstance(node.op, keras.layers.BatchNormalization):
            scale, shift = stock.batch_norm_affine(node.op)
            frozen = graphs.is_frozen(node.op)
            return add_scale_shift(
                rewriter, args[0], scale, shift, node, trainable=not frozen
            )
        return rewriter.add(node.op, node.name, *args, **kwargs)

    outputs = graphs.replay(graph, graph.inputs, apply)
    return graphs.Graph(graph.inputs, outputs, rewriter.nodes, graph.inputs_structure)


def _folded(graph, pairs):
    """Returns a graph with the pairs folded."""
    rewriter = Rewriter()
    folded = {
        id(linear): _fold(linear, normalization)
        for linear, normalization in pairs.values()
    }

    def apply(node, args, kwargs):
        if id(node.op) in pairs:
            return args[0]
        if id(node.op) in folded:
            return rewriter.add(folded[id(node.op)], node.name, *args, **kwargs)
        return rewriter.add(node.op, node.name, *args, **kwargs)

    outputs = graphs.replay(graph, graph.inputs, apply)
    return graphs.Graph(graph.inputs, outputs, rewriter.nodes, graph.inputs_structure)


def add_scale_shift(rewriter, x, scale, shift, node, *, trainable, key=()):
    """Appends x * scale + shift per channel, whatever the rank of x.

    Args:
        rewriter: the graph that is being written.
        x: tensor (N, ..., C).
        scale: array (C,).
        shift: array (C,) or None.
        node: the call that is replaced: its name, and its operation for sharing.
        trainable: whether the numbers may be trained.
        key: objects that identify the layer, if not the node's operation.
    """
    layer = rewriter.once(
        lambda: stock.scale_shift(scale, shift, name=node.name, trainable=trainable),
        *(key or (node.op,)),
    )
    shape = x.shape[1:]
    if len(shape) == 3:
        return rewriter.add(layer, node.name, x)
    positions = int(np.prod(shape[:-1]))
    to_map = keras.layers.Reshape((1, positions, shape[-1]))
    x = rewriter.add(to_map, f"{node.name}_to_map", x)
    x = rewriter.add(layer, node.name, x)
    return rewriter.add(keras.layers.Reshape(shape), f"{node.name}_from_map", x)


def _pairs(graph):
    """Maps id(batch normalization) to (convolution, batch normalization)."""
    calls, readers, makers = graph.calls(), graph.consumers(), graph.producers()
    pairs = {}
    for node in graph.nodes:
        normalization = node.op
        if not isinstance(normalization, keras.layers.BatchNormalization):
            continue
        before = [makers.get(id(n.args[0])) for n in calls[id(normalization)]]
        linear = before[0].op if before[0] is not None else None
        if (
            isinstance(linear, _FOLDING_LAYERS)
            and all(maker is not None and maker.op is linear for maker in before)
            and len(calls[id(linear)]) == len(before)
            and all(len(readers[id(n.output_tensors[0])]) == 1 for n in before)
        ):
            pairs[id(normalization)] = (linear, normalization)
    return pairs


def _fold(linear, normalization):
    """Returns a copy of a convolution or Dense that normalizes its output, too."""
    scale, shift = stock.batch_norm_affine(normalization)
    kernel, *bias = (weight.astype("float64") for weight in linear.get_weights())
    if isinstance(linear, _DEPTHWISE):
        kernel = kernel * scale.reshape(kernel.shape[-2:])
    elif isinstance(linear, _TRANSPOSED):
        kernel = kernel * scale[:, None]
    else:
        kernel = kernel * scale
    if bias:
        shift = shift + bias[0] * scale
    config = graphs.in_float32(linear.get_config()) | {"use_bias": True}
    config |= dict.fromkeys(_of_the_unfolded(linear, config))
    folded = type(linear).from_config(config)
    folded.build_from_config(linear.get_build_config())
    folded.set_weights([kernel, shift])
    folded.trainable = not graphs.is_frozen(linear)
    return folded


def _of_the_unfolded(linear, config):
    """Names what was meant for the kernel alone, and is wrong for it times a scale.

    A norm to keep would undo the folding with the first training step. Zeros between
    groups stay zeros.
    """
    return [
        key
        for key in config
        if key.endswith(("_constraint", "_regularizer"))
        and not isinstance(getattr(linear, key, None), grouped.BlockDiagonal)
    ]

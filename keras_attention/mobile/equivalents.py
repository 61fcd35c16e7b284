"""Layers and operations in other words: those that integer kernels exist for.

What stands here has no int8 kernel, or a slow one, or one that keeps the scale of what
it should not; what it is written as computes the same. One table for functions of
values, one for layers.
"""

import keras
import numpy as np
from keras import ops

from keras_attention import stock
from keras_attention.mobile import graph as graphs
from keras_attention.mobile.rewriting import Rewriter
from keras_attention.mobile.rules import operation_name


def rewrite(graph: graphs.Graph) -> graphs.Graph:
    """Returns a graph that computes the same in operations that have integer kernels.

    Args:
        graph: flat graph; batch normalizations are folded where they can be.
    """
    rewriter = Rewriter()

    def apply(node, args, kwargs):
        function = rewriter.once(lambda: _equivalent(node), node.op)
        if function is None:
            return rewriter.add(node.op, node.name, *args, **kwargs)
        return rewriter.inline(function, args, kwargs, prefix=f"{node.name}_")

    outputs = graphs.replay(graph, graph.inputs, apply)
    return graphs.Graph(graph.inputs, outputs, rewriter.nodes, graph.inputs_structure)


def _equivalent(node):
    """Returns a function of the same arguments, or None: the node stays as it is."""
    op, name = node.op, operation_name(node.op)
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    if name in _OPERATIONS:
        return _OPERATIONS[name](op)
    if name in _LAYERS:
        return _LAYERS[name](op, node.name)
    return None


def _hard_sigmoid(x):
    return ops.relu6(x + 3.0) * (1 / 6)


def _hard_silu(x):
    # The gate first: as x * relu6(x + 3) / 6 the converter would see its HARD_SWISH,
    # which XNNPACK leaves to TFLite.
    return x * _hard_sigmoid(x)


def _silu(x):
    return x * ops.sigmoid(x)


_FUNCTIONS = {
    "HardSigmoid": _hard_sigmoid,
    "HardSilu": _hard_silu,
    "Silu": _silu,
    "Square": lambda x: x * x,
}


def _split(op):
    """Slices: SPLIT_V leaves XNNPACK."""

    def function(x):
        axis, size = op.axis, x.shape[op.axis]
        cuts = op.indices_or_sections
        if isinstance(cuts, int):
            cuts = range(size // cuts, size, size // cuts)
        bounds = [0, *(int(cut) for cut in cuts), size]
        before = (slice(None),) * (axis % len(x.shape))
        pairs = zip(bounds[:-1], bounds[1:], strict=True)
        return [x[(*before, slice(begin, end))] for begin, end in pairs]

    return function


_OPERATIONS = {"Split": _split}


def _conv_2d(layer, name, kernel, **options):
    """Returns a dense 2D convolution with the options and the bias of `layer`.

    Args:
        layer: a convolution, with or without groups.
        name: of the new one.
        kernel: array (h, w, C / groups, F).
        **options: arguments of `keras.layers.Conv2D` that differ from the layer's.
    """
    constraint = None
    if layer.groups > 1:
        constraint = stock.BlockDiagonal(layer.groups)
        dense = np.tile(kernel, (1, 1, layer.groups, 1))
        kernel = ops.convert_to_numpy(constraint(dense))
    options = {
        "strides": layer.strides,
        "padding": layer.padding,
        "dilation_rate": layer.dilation_rate,
    } | options
    made = keras.layers.Conv2D(
        kernel.shape[-1],
        kernel.shape[:2],
        use_bias=layer.use_bias,
        kernel_regularizer=layer.kernel_regularizer,
        bias_regularizer=layer.bias_regularizer,
        kernel_constraint=constraint,
        data_format="channels_last",
        dtype="float32",
        name=name,
        **options,
    )
    bias = layer.get_weights()[1:]
    stock.filled(made, (None, None, None, kernel.shape[2]), [kernel, *bias])
    made.trainable = not graphs.is_frozen(layer)
    return made


def _grouped(layer, name):
    """A dense convolution whose kernel has zeros between the groups."""
    if layer.groups == 1:
        return None
    return _conv_2d(layer, name, layer.get_weights()[0]).__call__


def _conv_1d(layer, name):
    """The same on maps of height 1."""
    padding, before = layer.padding, 0
    if padding == "causal":
        padding, before = "valid", (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
    conv = _conv_2d(
        layer,
        name,
        layer.get_weights()[0][None],
        strides=(1, *layer.strides),
        padding=padding,
        dilation_rate=(1, *layer.dilation_rate),
    )

    def function(x):
        if before:
            x = ops.pad(x, [(0, 0), (before, 0), (0, 0)])
        y = conv(ops.reshape(x, (-1, 1, *x.shape[1:])))
        return ops.reshape(y, (-1, *y.shape[2:]))

    return function


def _adaptive_average_pooling(layer, name):
    """Means of slices, which may rescale."""
    return lambda x: stock.reduce_windows(x, layer.output_size, ops.mean)


def _adaptive_max_pooling(layer, name):
    return lambda x: stock.reduce_windows(x, layer.output_size, ops.max)


def _up_sampling(layer, name):
    """A resize operation: by repetition it would take tensors of rank 6."""
    rows, columns = layer.size

    def function(x):
        size = (x.shape[1] * rows, x.shape[2] * columns)
        how = {"interpolation": layer.interpolation, "data_format": "channels_last"}
        return ops.image.resize(x, size, **how)

    return function


_LAYERS = {
    "AdaptiveAveragePooling2D": _adaptive_average_pooling,
    "AdaptiveMaxPooling2D": _adaptive_max_pooling,
    "Conv1D": _conv_1d,
    "Conv2D": _grouped,
    "UpSampling2D": _up_sampling,
}

"""Layers and operations in other words: those that integer kernels exist for.

What stands here has no int8 kernel, or a slow one, or one that keeps the scale of what
it should not; what it is written as computes the same. One table for functions of
values, one for layers.
"""

import functools

import keras
import numpy as np
from keras import ops

from keras_attention import graph as graphs
from keras_attention import grouped, stock
from keras_attention.mobile.rewriting import Rewriter
from keras_attention.mobile.rules import operation_name


def rewrite(graph: graphs.Graph) -> graphs.Graph:
    """Returns a graph that computes the same in operations that have integer kernels.

    Args:
        graph: flat graph; batch normalizations are folded where they can be.
    """
    rewriter, readers, moved = Rewriter(), graph.consumers(), set()

    def apply(node, args, kwargs):
        if id(node) in moved:
            return args[0]
        function = rewriter.once(lambda: _equivalent(node), node.op)
        if function is None:
            return rewriter.add(node.op, node.name, *args, **kwargs)
        if isinstance(function, _Runs):
            relu = _relu_behind(node, readers)
            if relu is not None:
                moved.add(id(relu))
                function = functools.partial(function, relu=relu)
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
    return lambda x: _slices(x, op.indices_or_sections, op.axis)


def _slices(x, cuts, axis):
    """Returns parts of x: their number, or where they are cut from each other."""
    size = x.shape[axis]
    if isinstance(cuts, int):
        cuts = range(size // cuts, size, size // cuts)
    bounds = [0, *(int(cut) for cut in cuts), size]
    before = (slice(None),) * (axis % len(x.shape))
    pairs = zip(bounds[:-1], bounds[1:], strict=True)
    return [x[(*before, slice(begin, end))] for begin, end in pairs]


_OPERATIONS = {"Split": _split}


def _conv_2d(layer, name, kernel, bias, groups, **options):
    """Returns a dense 2D convolution with the options of `layer`.

    Args:
        layer: a convolution.
        name: of the new one.
        kernel: array (h, w, C / groups, F).
        bias: array (F,) or None.
        groups: of the new one.
        **options: arguments of `keras.layers.Conv2D` that differ from the layer's.
    """
    options = {
        "strides": layer.strides,
        "padding": layer.padding,
        "dilation_rate": layer.dilation_rate,
        "kernel_regularizer": layer.kernel_regularizer,
        "bias_regularizer": layer.bias_regularizer,
        "trainable": not graphs.is_frozen(layer),
    } | options
    return stock.convolution(kernel, bias, groups, name=name, **options)


class _Runs:
    """A convolution with groups as dense ones, each of a run of adjacent groups."""

    def __init__(self, convs):
        self._convs = convs

    def __call__(self, x, relu=None):
        """Returns the convolution of x, rectified if `relu` is a node that does that.

        Behind a concatenation a ReLU would be an operator of its own, and a slow one.
        """
        outputs = []
        parts = _slices(x, len(self._convs), axis=-1)
        for run, (conv, part) in enumerate(zip(self._convs, parts, strict=True)):
            y = conv(part)
            if relu is not None:
                limit = _RELU_LIMITS[operation_name(relu.op)]
                y = keras.layers.ReLU(limit, name=f"{relu.name}_{run}")(y)
            outputs.append(y)
        while len(outputs) > 1:  # by fours: more than five at once leave XNNPACK
            fours = (outputs[i : i + 4] for i in range(0, len(outputs), 4))
            outputs = [_joined(four) for four in fours]
        return outputs[0]


def _joined(tensors):
    return ops.concatenate(tensors, axis=-1) if len(tensors) > 1 else tensors[0]


_RELU_LIMITS = {"Relu": None, "Relu6": 6.0}


def _relu_behind(node, readers):
    """Returns the node that alone reads a convolution, if that is a ReLU."""
    (tensor,) = node.output_tensors
    following = readers.get(id(tensor), [])
    relu = len(following) == 1 and following[0] is not None
    relu = relu and operation_name(following[0].op) in _RELU_LIMITS
    return following[0] if relu else None


def _grouped(layer, name):
    """Dense convolutions whose kernels have zeros between the groups."""
    kernel, *bias = layer.get_weights()
    groups, constraint = layer.groups, layer.kernel_constraint
    if type(constraint) is grouped.BlockDiagonal and groups == 1:
        dense, groups = kernel, constraint.groups
        kernel = grouped.grouped_kernel(dense, groups)
        if not np.array_equal(grouped.dense_kernel(kernel, groups), dense):
            return None  # the constraint has not been applied yet
    count = grouped.run_count(kernel.shape, groups)
    if count == 1:
        if layer.groups == 1:
            return None
        return _conv_2d(layer, name, kernel, *(bias or [None]), groups).__call__
    kernels = np.split(kernel, count, axis=-1)
    biases = np.split(bias[0], count) if bias else [None] * count
    return _Runs(
        [
            _conv_2d(layer, f"{name}_{run}", kernel, bias, groups // count)
            for run, (kernel, bias) in enumerate(zip(kernels, biases, strict=True))
        ]
    )


def _conv_1d(layer, name):
    """The same on maps of height 1."""
    padding, before = layer.padding, 0
    if padding == "causal":
        padding, before = "valid", (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
    kernel, *bias = layer.get_weights()
    conv = _conv_2d(
        layer,
        name,
        kernel[None],
        *(bias or [None]),
        layer.groups,
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

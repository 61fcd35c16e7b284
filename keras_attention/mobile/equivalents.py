"""Layers and operations in other words: those that integer kernels exist for.

What stands here has no int8 kernel, or a slow one, or one that keeps the scale of what
it should not; what it is written as computes the same.
"""

import functools

from keras import ops

from keras_attention import graph as graphs
from keras_attention import stock
from keras_attention.mobile import convolutions, rules
from keras_attention.mobile.activations import ACTIVATIONS
from keras_attention.mobile.arithmetic import ARITHMETIC, again
from keras_attention.mobile.normalizations import NORMALIZATIONS
from keras_attention.mobile.rewriting import Rewriter
from keras_attention.mobile.sequences import SEQUENCES


def rewrite(graph: graphs.Graph) -> graphs.Graph:
    """Returns a graph that computes the same in operations that have integer kernels.

    Args:
        graph: flat graph; batch normalizations are folded where they can be.
    """
    rewriter, readers, moved = Rewriter(), graph.consumers(), set()

    def apply(node, args, kwargs, inside=()):
        if id(node) in moved:
            return args[0]
        name = rules.operation_name(node.op)
        if name in inside:  # an equivalent that falls back on the operation itself
            return rewriter.add(node.op, node.name, *args, **kwargs)
        function = rewriter.once(lambda: _equivalent(node), node.op)
        if function is None:
            return rewriter.add(node.op, node.name, *args, **kwargs)
        if isinstance(function, convolutions.Rectifying):
            relu = _relu_behind(node, readers)
            if relu is not None:
                moved.add(id(relu))
                function = functools.partial(function, relu=relu)
        inner = functools.partial(apply, inside=(*inside, name))
        return rewriter.inline(function, args, kwargs, inner, prefix=f"{node.name}_")

    outputs = graphs.replay(graph, graph.inputs, apply)
    return graphs.Graph(graph.inputs, outputs, rewriter.nodes, graph.inputs_structure)


def _equivalent(node):
    """Returns a function of the same arguments, or None: the node stays as it is."""
    if rules.registered(node.op) is not None:
        return None
    make = EQUIVALENTS.get(rules.operation_name(node.op))
    return make and make(node.op, node.name)


def _relu_behind(node, readers):
    """Returns the node that alone reads a convolution, if that is a ReLU."""
    (tensor,) = node.output_tensors
    following = readers.get(id(tensor), [])
    relu = len(following) == 1 and following[0] is not None
    relu = relu and rules.operation_name(following[0].op) in convolutions.RELU_LIMITS
    return following[0] if relu else None


def _adaptive_pooling(reduce):
    """Means of slices, which may rescale, or maxima."""
    return lambda layer, _: lambda x: stock.reduce_windows(x, layer.output_size, reduce)


def _up_sampling(layer, _):
    """A resize operation: by repetition it would take tensors of rank 6."""
    rows, columns = layer.size

    def function(x):
        size = (x.shape[1] * rows, x.shape[2] * columns)
        how = {"interpolation": layer.interpolation, "data_format": "channels_last"}
        return ops.image.resize(x, size, **how)

    return function


def _resizing(layer, _):
    if layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio:
        return None
    size = (layer.height, layer.width)
    how = {"interpolation": layer.interpolation, "antialias": layer.antialias}
    return lambda x: ops.image.resize(x, size, data_format="channels_last", **how)


def _center_crop(layer, _):
    def function(x):
        top = (x.shape[1] - layer.height) // 2
        left = (x.shape[2] - layer.width) // 2
        if top < 0 or left < 0:
            return again(layer, x)  # which resizes
        return x[:, top : top + layer.height, left : left + layer.width]

    return function


EQUIVALENTS = {
    **ACTIVATIONS,
    **ARITHMETIC,
    **NORMALIZATIONS,
    **SEQUENCES,
    "AdaptiveAveragePooling2D": _adaptive_pooling(ops.mean),
    "AdaptiveMaxPooling2D": _adaptive_pooling(ops.max),
    "CenterCrop": _center_crop,
    "Conv2D": convolutions.dense,
    "Resizing": _resizing,
    "UpSampling2D": _up_sampling,
}

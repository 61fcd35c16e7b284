"""What becomes of a factor of their input in layers and operations: tables."""

import keras
import numpy as np
from keras import layers, tree

from keras_attention.grouped import BlockDiagonal
from keras_attention.layers._grouped_conv import GroupedConv2D
from keras_attention.layers.aw_conv2d import AWConv2D

# Kernels: the one that meets the input, and the one that makes the output. Only these
# classes themselves: what a subclass does with its kernel is not known.
LINEAR = {
    **{
        kind: ("kernel", "kernel")
        for kind in (
            layers.Conv1D,
            layers.Conv2D,
            layers.Conv3D,
            layers.Conv1DTranspose,
            layers.Conv2DTranspose,
            layers.Conv3DTranspose,
            layers.DepthwiseConv1D,
            layers.DepthwiseConv2D,
            layers.Dense,
            layers.EinsumDense,
            GroupedConv2D,
        )
    },
    layers.SeparableConv1D: ("depthwise_kernel", "pointwise_kernel"),
    layers.SeparableConv2D: ("depthwise_kernel", "pointwise_kernel"),
}
# What training does to a kernel under these does not depend on its size.
FREE_CONSTRAINTS = (type(None), BlockDiagonal, keras.constraints.NonNeg)

# At inference f(c x) = c f(x), c > 0, for one tensor x.
_HOMOGENEOUS = {
    layers.Identity,
    layers.ActivityRegularization,
    layers.LeakyReLU,
    layers.PReLU,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.Reshape,
    layers.Flatten,
    layers.Permute,
    layers.RepeatVector,
    *(
        getattr(layers, f"{kind}{axes}D")
        for axes in (1, 2, 3)
        for kind in (
            "AveragePooling",
            "MaxPooling",
            "GlobalAveragePooling",
            "GlobalMaxPooling",
            "ZeroPadding",
            "Cropping",
            "UpSampling",
        )
    ),
}
FUNCTIONS = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.leaky_relu,
)
# f(c x, c z) = c f(x, z).
_JOINING = {
    layers.Add,
    layers.Average,
    layers.Concatenate,
    layers.Maximum,
    layers.Minimum,
    layers.Subtract,
}
# Names of `keras.ops` operations.
_HOMOGENEOUS_OPERATIONS = {
    *("Absolute", "AveragePool", "BroadcastTo", "Cast", "ExpandDims", "Flip"),
    *("GetItem", "Identity", "LeakyRelu", "Max", "MaxPool", "Mean", "Min", "Moveaxis"),
    *("Negative", "Relu", "Repeat", "Reshape", "Roll", "Squeeze", "Sum", "Swapaxes"),
    *("Tile", "Transpose"),
}
_JOINING_OPERATIONS = {"Add", "Concatenate", "Maximum", "Minimum", "Stack", "Subtract"}


def kind_of(node, constant):
    """Returns what a call does to a factor of its input.

    Args:
        node: The call.
        constant: {id(layer): block} of those blocks whose gates are constant.

    Returns:
        "linear": its weights can absorb it, and give the output another; "homogeneous":
        the output gets it; "joining": it does if all inputs have it; "product": it does
        if one has it; None: something else.
    """
    op, kind = node.op, type(node.op)
    if id(op) in constant:
        return "linear" if isinstance(op, AWConv2D) else "homogeneous"
    if not isinstance(op, layers.Layer):
        return _kind_of_operation(node)
    if kind is layers.BatchNormalization:
        batch = node.kwargs.get("training") is True or op.renorm
        return None if batch else "linear"
    if kind in LINEAR:
        return "linear"
    if kind is layers.ReLU:
        plain = op.max_value is None and not op.threshold
    elif kind is layers.Activation:
        plain = op.activation in FUNCTIONS
    elif kind is layers.Rescaling:
        plain = not np.any(op.offset)
    else:
        plain = kind in _HOMOGENEOUS
    if plain:
        return "homogeneous"
    if kind in _JOINING:
        return "joining"
    return "product" if kind is layers.Multiply else None


def _kind_of_operation(node):
    kind = type(node.op)
    if not kind.__module__.startswith("keras."):
        return None
    name = kind.__name__
    tensors = len(node.input_tensors)
    if name in _HOMOGENEOUS_OPERATIONS and tensors == 1:
        return "homogeneous" if _keeps_fractions(node) else None
    if name == "Multiply":
        return "homogeneous" if tensors == 1 else "product"
    # A constant among the operands would have to be scaled, too.
    whole = tensors == len(tree.flatten(node.args))
    return "joining" if name in _JOINING_OPERATIONS and whole else None


def _keeps_fractions(node):
    """Whether an operation rounds nothing, and has no bound of its own."""
    floats = all("float" in tensor.dtype for tensor in node.output_tensors)
    return floats and getattr(node.op, "initial", None) is None

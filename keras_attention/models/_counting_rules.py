"""Multiply-adds of one call of a convolution or a matrix product: tables.

A rule takes a layer or an operation, its arguments and its output, whose shapes are
static, and returns an int. Every output position counts its whole kernel, also where
that reaches over the border of the map.
"""

import math
from collections.abc import Callable

import keras
import numpy as np

from keras_attention.grouped import BlockDiagonal
from keras_attention.layers._grouped_conv import GroupedConv2D
from keras_attention.layers.aw_conv2d import AWConv2D
from keras_attention.layers.efficient_multiscale_attention import (
    EfficientMultiScaleAttention,
)
from keras_attention.layers.gather_excite import GatherExcite


def layer_rule(layer: keras.Layer) -> Callable | None:
    """Returns the rule of a convolution, Dense or EinsumDense layer, or None.

    A subclass that computes something else in `call` has none.
    """
    # Known by name: models know nothing of `mobile`.
    quantizing = _QUANTIZING.get(keras.saving.get_registered_name(type(layer)))
    if quantizing:
        return quantizing
    if not isinstance(layer, GroupedConv2D) and not is_stock(layer):
        return None
    found = (rule for kind, rule in LAYERS.items() if isinstance(layer, kind))
    return next(found, None)


def definition(layer: keras.Layer) -> Callable | None:
    """Returns the rule of a block that computes its definition by another way.

    A subclass with another `call` has none.
    """
    calls = (kind for kind in DEFINITIONS if type(layer).call is kind.call)
    return next((DEFINITIONS[kind] for kind in calls), None)


def is_stock(layer: keras.Layer) -> bool:
    """Whether a layer computes what one of Keras' own layers computes."""
    stock = next(c for c in type(layer).__mro__ if c.__module__.startswith("keras."))
    return stock is not keras.Layer and all(
        getattr(type(layer), method, None) is getattr(stock, method, None)
        for method in ("call", "convolution_op")
    )


def is_free(layer: keras.Layer) -> bool:
    """Whether a layer of Keras without a rule multiplies single elements at most."""
    if not is_stock(layer) or isinstance(layer, _PRODUCTS):
        return False
    simple = all(len(weight.shape) <= 1 for weight in layer.weights)
    return simple or isinstance(layer, _ELEMENTWISE)


def size(tensor) -> int:
    """Returns the number of elements."""
    return math.prod(tensor.shape)


def _groups(layer):
    """Returns the groups that a kernel's constraint keeps apart."""
    constraint = layer.kernel_constraint
    return constraint.groups if isinstance(constraint, BlockDiagonal) else 1


def _conv_layer(layer, args, y):
    return size(y) * math.prod(layer.kernel.shape[:-1]) // _groups(layer)


def _transposed_layer(layer, args, y):
    # (..., out, in): what each element of the input is multiplied with
    return size(args[0]) * math.prod(layer.kernel.shape[:-1]) // _groups(layer)


def _depthwise_layer(layer, args, y):
    return size(y) * math.prod(layer.kernel.shape[:-2])


def _separable_layer(layer, args, y):
    kernels = layer.depthwise_kernel, layer.pointwise_kernel
    return size(y) // layer.filters * sum(map(size, kernels))


def _einsum_layer(layer, args, y):
    return einsum(layer.equation, [args[0].shape, layer.kernel.shape])


def einsum(subscripts: str, shapes) -> int:
    """Returns the multiply-adds of an einsum, two operands at a time.

    Args:
        subscripts: With or without "->" and "...".
        shapes: Of the operands.
    """
    operands = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
    path = np.einsum_path(subscripts, *operands, optimize="greedy")[0][1:]
    terms, output, sizes = _axes(subscripts, shapes)
    total = 0
    for places in path:
        taken = [terms[place] for place in places]
        terms = [term for place, term in enumerate(terms) if place not in places]
        kept = set(output).union(*terms)
        if len(taken) == 2 and set(taken[0]) & set(taken[1]) - kept:
            total += math.prod(sizes[axis] for axis in set(taken[0] + taken[1]))
        terms.append("".join(sorted(set("".join(taken)) & kept)))
    return total


def einsum_shape(subscripts: str, shapes) -> tuple[int, ...]:
    """Returns the shape of an einsum's output, with arguments as of `einsum`."""
    _, output, sizes = _axes(subscripts, shapes)
    return tuple(sizes[axis] for axis in output)


def _axes(subscripts, shapes):
    """Returns the operands' axes, the output's and their sizes; "..." as digits."""
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms, sizes = inputs.split(","), {}
    for number, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        rest = len(shape) - len(term.replace("...", ""))
        terms[number] = term.replace("...", _digits(rest))
        for axis, length in zip(terms[number], shape, strict=True):
            sizes[axis] = max(length, sizes.get(axis, 1))  # "..." broadcasts
    if not arrow:
        letters = "".join(terms)
        once = (axis for axis in sorted(sizes) if letters.count(axis) == 1)
        output = "..." + "".join(axis for axis in once if axis.isalpha())
    return terms, output.replace("...", _digits(sum(map(str.isdigit, sizes)))), sizes


def _digits(count):
    # from the right, as broadcasting aligns
    return "".join(str(place) for place in range(count - 1, -1, -1))


def _matmul(op, args, y):
    left, right = (np.shape(x) if np.isscalar(x) else x.shape for x in args)
    return size(y) * left[-1] if left and right else 0  # 0: by a number


def _vdot(op, args, y):
    return size(args[0])


def _tensordot(op, args, y):
    shape, axes = args[0].shape, op.axes
    if isinstance(axes, int):
        summed = shape[len(shape) - axes :]
    else:
        first = axes[0] if isinstance(axes[0], (list, tuple)) else axes[:1]
        summed = [shape[axis] for axis in first]
    return size(y) * math.prod(summed) if len(summed) else 0


def _conv(op, args, y):
    return size(y) * math.prod(args[1].shape[:-1])


def _conv_transpose(op, args, y):
    return size(args[0]) * math.prod(args[1].shape[:-1])


def _depthwise_conv(op, args, y):
    return size(y) * math.prod(args[1].shape[:-2])


def _separable_conv(op, args, y):
    return size(y) // args[2].shape[-1] * (size(args[1]) + size(args[2]))


def _attention(op, args, y):
    query, key, value = args[:3]  # (N, T, heads, d), (N, S, heads, d)
    return size(query) * key.shape[1] + size(y) * value.shape[1]


def _einsum(op, args, y):
    return einsum(op.subscripts, [operand.shape for operand in args])


def _quantized_kernel(layer, args, y):
    return layer_rule(layer.layer)(layer.layer, args, y)


def _averaged_conv(layer, args, y):
    """AW-convolution: its means are products with a constant matrix."""
    pointwise = size(layer.reduce.kernel) + size(layer.expand.kernel)
    return _conv_layer(layer, args, y) + math.prod(layer.kernel_size) * pointwise


def _multiscale(layer, args, y):
    """EMA: its 3x3 convolution has one output channel per group, and is dense."""
    height, width, channels = _map(layer, y)
    own = layer.pointwise.kernel.shape[-1]
    spatial = height * width * (9 * own + 2)
    return channels * (spatial + (height + width) * own)


def _gathering(layer, args, y):
    """GE: a convolution of the whole map, and means, are sums and products."""
    if layer.variant == "theta_minus":
        return 0
    if layer.extent:
        return None
    hidden = (layer.reduce, layer.expand) if layer.reduce is not None else ()
    return size(y) + sum(size(conv.kernel) for conv in hidden)


def _map(layer, y):
    """Returns (H, W, C)."""
    first = layer.data_format == "channels_first"
    return (*y.shape[2:], y.shape[1]) if first else y.shape[1:]


_layers = keras.layers
# Subclasses stand before their bases.
LAYERS = {
    (_layers.Conv1DTranspose, _layers.Conv2DTranspose): _transposed_layer,
    _layers.Conv3DTranspose: _transposed_layer,
    (_layers.DepthwiseConv1D, _layers.DepthwiseConv2D): _depthwise_layer,
    (_layers.SeparableConv1D, _layers.SeparableConv2D): _separable_layer,
    (_layers.Conv1D, _layers.Conv2D, _layers.Conv3D): _conv_layer,
    _layers.Dense: _conv_layer,
    _layers.EinsumDense: _einsum_layer,
}

_QUANTIZING = {
    "keras_attention>FakeQuantize": lambda layer, args, y: 0,
    "keras_attention>QuantizedKernel": _quantized_kernel,
}

# By the names of the operations' classes, which are not public.
OPERATIONS = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthwiseConv": _depthwise_conv,
    "Dot": _matmul,
    "DotProductAttention": _attention,
    "Einsum": _einsum,
    "Inner": _matmul,
    "Matmul": _matmul,
    "SeparableConv": _separable_conv,
    "Tensordot": _tensordot,
    "Vdot": _vdot,
}

# Blocks whose `call` is equal to their definition but costs otherwise; None: as called.
DEFINITIONS = {
    AWConv2D: _averaged_conv,
    EfficientMultiScaleAttention: _multiscale,
    GatherExcite: _gathering,
}

# Layers of Keras that may multiply matrices without kernels of their own.
_PRODUCTS = (
    _layers.AdditiveAttention,
    _layers.Attention,
    _layers.Dot,
    _layers.GroupQueryAttention,
    _layers.Lambda,
    _layers.MultiHeadAttention,
    _layers.RNN,
    _layers.Wrapper,
)

# Layers of Keras with weights of more than one axis that look up or scale elements.
_ELEMENTWISE = (_layers.Embedding, _layers.Normalization, _layers.PReLU)

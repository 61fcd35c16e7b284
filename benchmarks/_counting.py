"""Counts the multiply-adds of a layer from the TensorFlow graph that it makes."""

import math

import tensorflow as tf


def multiply_adds(call, shape):
    """Returns how many multiply-adds convolutions and matrix products take.

    Args:
        call: function of one tensor.
        shape: of that tensor, static.

    Returns:
        An int; products, sums and means of single elements are not counted.
    """
    function = tf.function(call).get_concrete_function(tf.TensorSpec(shape))
    return _count(function.graph.get_operations())


def _count(operations):
    total = 0
    for operation in operations:
        kind = operation.type
        if kind not in _RULES:
            continue
        inputs = [tensor.shape.as_list() for tensor in operation.inputs]
        output = operation.outputs[0].shape.as_list()
        total += math.prod(output) * _RULES[kind](operation, inputs)
    return total


def _conv(_, inputs):
    return math.prod(inputs[1][:3])


def _depthwise(_, inputs):
    return math.prod(inputs[1][:2])


def _batch_matmul(operation, inputs):
    return inputs[0][-2 if operation.get_attr("adj_x") else -1]


def _matmul(operation, inputs):
    return inputs[0][0 if operation.get_attr("transpose_a") else 1]


def _einsum(operation, inputs):
    terms, output = operation.get_attr("equation").decode().split("->")
    left, right = terms.split(",")
    sizes = dict(zip(left + right, inputs[0] + inputs[1], strict=True))
    return math.prod(sizes[axis] for axis in set(left + right) - set(output))


_RULES = {
    "BatchMatMulV2": _batch_matmul,
    "Conv2D": _conv,
    "DepthwiseConv2dNative": _depthwise,
    "Einsum": _einsum,
    "MatMul": _matmul,
}

"""Multiply-adds of single layers of Keras and of operations, by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_attention.models import count_multiply_adds

# layer, input shape, multiply-adds
LAYERS = [
    (layers.Conv1D(6, 3, strides=2), (9, 4), 4 * 6 * 12),
    (layers.Conv2D(6, (3, 5), padding="same", groups=2), (5, 7, 4), 35 * 6 * 30),
    (layers.Conv2D(6, 3, dilation_rate=2), (9, 7, 4), 5 * 3 * 6 * 36),
    (
        layers.Conv2D(6, 3, data_format="channels_first", padding="same"),
        (4, 9, 7),
        63 * 6 * 36,
    ),
    (layers.Conv3D(6, 2, padding="same"), (3, 5, 7, 4), 105 * 6 * 32),
    (layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 4), 7 * 8 * 3),
    (layers.DepthwiseConv2D(3, strides=2, padding="same"), (8, 6, 4), 12 * 4 * 9),
    (layers.SeparableConv1D(5, 3), (9, 4), 7 * (4 * 3 + 4 * 5)),
    (
        layers.SeparableConv2D(5, 3, depth_multiplier=2),
        (9, 7, 4),
        35 * (8 * 9 + 8 * 5),
    ),
    (layers.Conv1DTranspose(6, 3, strides=2), (9, 4), 9 * 4 * 18),
    (
        layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
        (8, 6, 4),
        8 * 6 * 4 * 9 * 6,
    ),
    (layers.Conv3DTranspose(6, 2), (3, 5, 7, 4), 105 * 4 * 8 * 6),
    (layers.Dense(5), (7, 4), 7 * 4 * 5),
    (layers.EinsumDense("abc,cde->abde", (None, 3, 2)), (7, 4), 7 * 4 * 6),
    (layers.EinsumDense("...c,cd->...d", 5), (6, 7, 4), 42 * 4 * 5),
    (layers.GroupNormalization(2), (7, 6, 4), 0),
    (layers.PReLU(), (7, 4), 0),
    (layers.TimeDistributed(layers.Dense(5)), (7, 4), 7 * 4 * 5),
    (layers.SpectralNormalization(layers.Dense(5)), (7, 4), 7 * 4 * 5),
    (
        layers.Lambda(lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1)))),
        (7, 4),
        7 * 4 * 7,
    ),
]


def ones(*shape):
    return np.ones(shape, "float32")


# function of a tensor (N, 6, 8), multiply-adds
OPERATIONS = {
    "matmul": (lambda x: ops.matmul(x, ones(8, 3)), 6 * 8 * 3),
    "matmul_transposed": (
        lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
        6 * 8 * 6,
    ),
    "dot": (lambda x: ops.dot(x, ones(8, 3)), 6 * 8 * 3),
    "dot_number": (lambda x: ops.dot(x, 2.0), 0),
    "inner": (lambda x: ops.inner(x, ones(5, 8)), 6 * 8 * 5),
    "vdot": (lambda x: ops.vdot(x, x), 6 * 8),
    "tensordot": (lambda x: ops.tensordot(x, ones(8, 3), axes=1), 6 * 8 * 3),
    "tensordot_axes": (
        lambda x: ops.tensordot(x, ones(8, 6, 3), axes=[[1, 2], [1, 0]]),
        6 * 8 * 3,
    ),
    "einsum": (lambda x: ops.einsum("bij,bkj->bik", x, x), 6 * 8 * 6),
    "einsum_implicit": (lambda x: ops.einsum("...ij,jk", x, ones(8, 3)), 6 * 8 * 3),
    "einsum_of_three": (
        lambda x: ops.einsum("bij,jk,kl->bil", x, ones(8, 2), ones(2, 5)),
        6 * 8 * 2 + 6 * 2 * 5,  # in this order
    ),
    "einsum_of_elements": (lambda x: ops.einsum("bij,bij->bij", x, x), 0),
    "einsum_of_one": (lambda x: ops.einsum("bij->bj", x), 0),
    "product": (lambda x: x * x + ops.mean(x), 0),
    "conv": (
        lambda x: ops.conv(x, ones(3, 8, 6), padding="same", data_format=LAST),
        6 * 6 * 24,
    ),
    "depthwise_conv": (
        lambda x: ops.depthwise_conv(x, ones(3, 8, 2), data_format=LAST),
        4 * 16 * 3,
    ),
    "separable_conv": (
        lambda x: ops.separable_conv(
            x, ones(3, 8, 2), ones(1, 16, 5), data_format=LAST
        ),
        4 * (16 * 3 + 16 * 5),
    ),
    "conv_transpose": (
        lambda x: ops.conv_transpose(x, ones(3, 4, 8), 2, data_format=LAST),
        6 * 8 * 3 * 4,
    ),
    "attention": (
        lambda x: ops.dot_product_attention(*[ops.reshape(x, (-1, 6, 2, 4))] * 3),
        2 * 6 * 6 * 8,
    ),
    "map": (
        lambda x: ops.map(lambda y: ops.matmul(y, ones(8, 3)), x[0]),
        6 * 8 * 3,
    ),
    "vectorized_map": (
        lambda x: ops.vectorized_map(lambda y: ops.matmul(y, ones(8, 3)), x),
        6 * 8 * 3,
    ),
}
LAST = "channels_last"


class TestLeaves:
    @pytest.mark.parametrize(
        ("layer", "shape", "count"),
        LAYERS,
        ids=[type(layer).__name__ for layer, *_ in LAYERS],
    )
    def test_layers(self, layer, shape, count):
        assert count_multiply_adds(layer, shape).total == count
        x = keras.Input(shape)
        model = keras.Model(x, layer(x))
        assert count_multiply_adds(model).layers == {layer.name: count}

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_operations(self, name):
        function, count = OPERATIONS[name]
        x = keras.Input((6, 8), batch_size=1)
        assert count_multiply_adds(keras.Model(x, function(x))).total == count

    @pytest.mark.parametrize(
        ("layer", "count"),
        [
            # projections from and to 8 channels, scores, and their values
            (layers.MultiHeadAttention(2, 4), 4 * 6 * 64 + 2 * 6 * 6 * 8),
            (
                layers.GroupQueryAttention(4, 4, 2),
                6 * 8 * (16 + 8 + 8 + 16) + 2 * 6 * 6 * 16,
            ),
        ],
        ids=["multi_head", "grouped_query"],
    )
    def test_attention_of_keras(self, layer, count):
        x = keras.Input((6, 8))
        assert count_multiply_adds(keras.Model(x, layer(x, x))).total == count

    def test_layers_of_two_inputs(self):
        x = keras.Input((6, 8))
        for layer, count in (layers.Dot(2), 6 * 6 * 8), (layers.Attention(), 576):
            model = keras.Model(x, layer([x, x]))
            assert count_multiply_adds(model).layers == {layer.name: count}

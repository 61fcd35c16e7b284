"""The blocks written down as their papers publish them, on the layers' own weights.

What a straightforward port does: groups go into the batch with transposes, softmax and
matrix products stand as in the formulas, and a sample's own kernel is a group of a
convolution. Channels-last, for comparisons only; each takes a built layer and an input.
"""

import keras
from keras import ops


def coord_attention(layer, x, training=False):
    """Two strips of means, joined, reduced, split; a gate for each axis."""
    height = ops.shape(x)[1]
    z_h = ops.mean(x, axis=2, keepdims=True)
    z_w = ops.transpose(ops.mean(x, axis=1, keepdims=True), (0, 2, 1, 3))
    z = ops.concatenate([z_h, z_w], axis=1)
    f = layer.activation(layer.norm(layer.reduce(z), training=training))
    f_h, f_w = ops.split(f, [height], axis=1)
    g_h = layer.gate(layer.expand_h(f_h))
    g_w = layer.gate(layer.expand_w(ops.transpose(f_w, (0, 2, 1, 3))))
    return x * g_w * g_h


def efficient_multiscale_attention(layer, x, training=False):
    """Groups in the batch, a group normalization, two softmax, two matrix products."""
    _, height, width, channels = x.shape
    c = layer.gamma.shape[0]
    groups = channels // c
    y = ops.reshape(x, (-1, height, width, groups, c))
    y = ops.transpose(y, (0, 3, 1, 2, 4))
    y = ops.reshape(y, (-1, height, width, c))  # (N G, H, W, c)
    z_h = ops.mean(y, axis=2, keepdims=True)
    z_w = ops.transpose(ops.mean(y, axis=1, keepdims=True), (0, 2, 1, 3))
    z = layer.pointwise(ops.concatenate([z_h, z_w], axis=1))
    s_h, s_w = ops.split(z, [height], axis=1)
    s_w = ops.transpose(s_w, (0, 2, 1, 3))
    u = y * ops.sigmoid(s_h) * ops.sigmoid(s_w)
    mean, variance = ops.moments(u, axes=(1, 2), keepdims=True)
    x_1 = (u - mean) * ops.rsqrt(variance + 1e-5) * layer.gamma + layer.beta
    x_2 = layer.spatial(y)
    a_1 = ops.softmax(ops.mean(x_1, axis=(1, 2)), axis=-1)[:, :, None]
    a_2 = ops.softmax(ops.mean(x_2, axis=(1, 2)), axis=-1)[:, :, None]
    x_1 = ops.reshape(x_1, (-1, height * width, c))
    x_2 = ops.reshape(x_2, (-1, height * width, c))
    gate = ops.sigmoid(ops.matmul(x_2, a_1) + ops.matmul(x_1, a_2))
    y = y * ops.reshape(gate, (-1, height, width, 1))
    y = ops.reshape(y, (-1, groups, height, width, c))
    return ops.reshape(ops.transpose(y, (0, 2, 3, 1, 4)), (-1, height, width, channels))


def double_attention(layer, x, training=False):
    """Four convolutions, two softmax, two matrix products, as in the paper's figure."""
    _, height, width, _ = x.shape

    def positions(conv):
        y = conv(x)
        return ops.reshape(y, (-1, height * width, y.shape[-1]))

    a, b, v = map(positions, (layer.value, layer.gather, layer.distribute))
    b = ops.softmax(ops.transpose(b, (0, 2, 1)), axis=-1)  # (N, n, L)
    descriptors = ops.matmul(ops.transpose(a, (0, 2, 1)), ops.transpose(b, (0, 2, 1)))
    v = ops.softmax(ops.transpose(v, (0, 2, 1)), axis=1)  # (N, n, L)
    z = ops.matmul(descriptors, v)  # (N, m, L)
    z = ops.reshape(ops.transpose(z, (0, 2, 1)), (-1, height, width, z.shape[1]))
    return x + layer.extend(z)


def aw_conv2d(layer, x, training=False):
    """A kernel per sample; the batch becomes groups of one convolution.

    For an odd kernel whose size divides the map's, no stride and no groups.
    """
    count, height, width, channels = x.shape
    k, _, _, filters = layer.kernel.shape
    windows = (height // k, width // k)
    if height % k or width % k:
        pooled = _pooled(x, k)
    else:
        pooled = ops.average_pool(x, windows, data_format="channels_last")
    f = ops.relu(layer.reduce_norm(layer.reduce(pooled), training=training))
    gates = ops.sigmoid(layer.expand_norm(layer.expand(f), training=training))
    kernels = layer.kernel + layer.kernel * gates[:, :, :, None]  # (N, k, k, C, F)
    kernels = ops.transpose(kernels, (1, 2, 3, 0, 4))
    kernels = ops.reshape(kernels, (k, k, channels, count * filters))
    folded = ops.transpose(x, (1, 2, 0, 3))
    folded = ops.reshape(folded, (1, height, width, count * channels))
    y = ops.conv(folded, kernels, padding="same", data_format="channels_last")
    y = ops.reshape(y, (height, width, count, filters))
    return ops.transpose(y, (2, 0, 1, 3)) + (0 if layer.bias is None else layer.bias)


def _pooled(x, size):
    """Returns an adaptive average pooling, window by window."""
    _, height, width, _ = x.shape

    def window(index, length):
        return slice(index * length // size, -(-(index + 1) * length // size))

    rows = []
    for i in range(size):
        cells = [
            ops.mean(x[:, window(i, height), window(j, width)], axis=(1, 2))
            for j in range(size)
        ]
        rows.append(ops.stack(cells, axis=1))
    return ops.stack(rows, axis=1)


class Port(keras.layers.Layer):
    """A port as a layer, whose mobile form is the plain form itself."""

    def __init__(self, function, layer, **kwargs):
        super().__init__(**kwargs)
        self.function, self.layer = function, layer

    def call(self, x):
        """Returns what the port computes of x at inference."""
        return self.function(self.layer, x)

    def deploy(self):
        """Returns the port of the layer, opened as it stands."""
        return self.call

"""Efficient Multi-Scale Attention Module with Cross-Spatial Learning.

Ouyang et al., ICASSP 2023, arXiv 2305.13563; official code:
YOLOonMe/EMA-attention-module.

Each group of channels is seen twice: by coordinate gates behind a 1x1 convolution, and
by a 3x3 convolution. The spatial mean of either says how to weigh the channels of the
other, and the two weighted sums are one attention map per group.

Differences from the reference: none in the function or its gradients. Three of its
intermediate results are written as what they are equal to, which is faster. The spatial
mean of the normalized branch is beta, so the weights of the 3x3 branch are
softmax(beta). Hence the 3x3 convolution needs one output channel per group. And the
mean of a zero-padded convolution follows from nine means of its input. `groups=None` is
an addition.
"""

import keras
import numpy as np
from keras import ops

from keras_attention.layers import _common, _ema_mobile
from keras_attention.registry import register

EPSILON = 1e-5  # of the normalization
_MAX_GROUPS = 32


@register("ema")
@keras.saving.register_keras_serializable(package="keras_attention")
class EfficientMultiScaleAttention(keras.layers.Layer):
    """Efficient multi-scale attention: one map per group of channels.

    The channels are cut into G contiguous groups of c = C / G, which share all weights.
    With X a group of x, z_h and z_w its means over W and over H:

        s_h, s_w = F1(z_h), F1(z_w)                    1x1 convolution c -> c
        x_1 = GN(X * sigmoid(s_h) * sigmoid(s_w))      one channel per norm, affine
        x_2 = F3(X)                                    3x3 convolution c -> c
        a_1, a_2 = softmax_c(mean(x_1)), softmax_c(mean(x_2))
        Y = X * sigmoid(sum_c a_1 x_2 + sum_c a_2 x_1)

    The normalization has the variance of each sample's map and epsilon 1e-5; its
    statistics and both softmax are float32 under mixed precision.

    Args:
        groups: G. None is the largest divisor of the channels up to 32.
        kernel_initializer: Of both kernels; default: U(-1, 1) / sqrt(fan-in), the
            authors' (PyTorch's own).
        bias_initializer: Of both biases; None is U(-1, 1) / sqrt(fan-in), PyTorch's
            own, whatever `kernel_initializer` is.
        kernel_regularizer: Of both kernels.
        bias_regularizer: Of both biases.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic.

    Parameters: 10 c^2 + 4c.
    Multiply-adds without means and variance: as published, HW(9Cc + 6C) + (H + W)Cc;
    deployed, HW(13C + 2CG) + (H + W + 9)Cc, where 2CG are two dense 1x1 convolutions
    with 0/1 kernels (sums over groups, and back).
    Int8: three products and a sum on the full map; the convolutions that groups share
    run on strips. The variance is taken of channels that calibration has brought to
    variance 1 (`stock.equalizer`), and its root by exp and log, which XNNPACK leaves to
    TFLite, as it does softmax: 3 partitions.

    Raises:
        ValueError: `groups` is neither None nor a positive integer, the data format is
            unknown, or (at build) the input is not of rank 4 with static C, or `groups`
            does not divide C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(EfficientMultiScaleAttention(groups=8)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/2305.13563, section 3.
    """

    def __init__(
        self,
        groups=32,
        *,
        kernel_initializer=_common.TORCH_INITIALIZER,
        bias_initializer=None,
        kernel_regularizer=None,
        bias_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.groups = None if groups is None else _common.positive_int("groups", groups)
        _common.set_conv_initializers(self, kernel_initializer, bias_initializer)
        _common.set_conv_regularizers(self, kernel_regularizer, bias_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the weights for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape)
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})
        self._group_count = _common.group_count(self, channels, _MAX_GROUPS)
        width = channels // self._group_count
        self.pointwise = _common.conv(self, width, width, "pointwise")
        self.spatial = _common.conv(self, width, width, "spatial", 3)
        # In full precision: they scale and shift what has mean 0 and variance 1.
        options = {"shape": (width,), "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **options)
        self.beta = self.add_weight(name="beta", initializer="zeros", **options)
        self._statistics_dtype = keras.backend.result_type(
            self.compute_dtype, "float32"
        )

    def call(self, x):
        """Returns x times the attention map of each group."""
        first = self.data_format == "channels_first"
        maps = ops.transpose(x, (0, 2, 3, 1)) if first else x  # (N, H, W, C)
        z_h, z_w = ops.mean(maps, axis=2), ops.mean(maps, axis=1)  # (N, H or W, C)
        g_h, g_w = self._strip_gates(z_h, z_w)  # (N, H, 1, C), (N, 1, W, C)
        a_1 = _common.softmax(self.beta, axis=-1)  # (c,): the means of x_1 are beta
        a_2 = _common.softmax(self._spatial_means(maps, z_h), axis=-1)  # (N, G, c)
        logits = self._weighted_spatial(maps, a_1)  # (N, H, W, G)
        logits += self._weighted_norm(maps * g_h * g_w, a_2)
        gate = ops.cast(ops.sigmoid(logits), x.dtype)
        gate = ops.repeat(gate, self.gamma.shape[0], axis=-1)  # (N, H, W, C)
        return x * (ops.transpose(gate, (0, 3, 1, 2)) if first else gate)

    def _strip_gates(self, z_h, z_w):
        """Returns the gates of rows (N, H, 1, C) and of columns (N, 1, W, C)."""
        height, channels = ops.shape(z_h)[1], z_h.shape[-1]
        z = self._grouped(ops.concatenate([z_h, z_w], axis=1))  # (N, H + W, G, c)
        gates = ops.sigmoid(self.pointwise(z))
        gates = ops.reshape(gates, (*ops.shape(gates)[:2], channels))
        return gates[:, :height, None], gates[:, None, height:]

    def _spatial_means(self, x, z_h):
        """Returns the spatial means of the 3x3 convolution of x, (N, G, c).

        Tap (i, j) of a zero-padded convolution sees all of the map but a row or a
        column, or both, at the border opposite to it.
        """
        height, width = (ops.cast(n, self._statistics_dtype) for n in ops.shape(x)[1:3])
        x, z_h = (ops.cast(t, self._statistics_dtype) for t in (x, z_h))
        rows = [z_h - x[:, :, -1] / width, z_h, z_h - x[:, :, 0] / width]
        rows = ops.stack(rows, axis=2)  # (N, H, 3, C)
        mean = ops.mean(rows, axis=1)
        taps = [mean - rows[:, -1] / height, mean, mean - rows[:, 0] / height]
        taps = self._grouped(ops.concatenate(taps, axis=1))  # (N, 9, G, c)
        kernel = ops.cast(self.spatial.kernel, self._statistics_dtype)
        kernel = ops.reshape(kernel, (9, *kernel.shape[2:]))
        bias = ops.cast(self.spatial.bias, self._statistics_dtype)
        return ops.einsum("nkgc,kcd->ngd", taps, kernel) + bias

    def _weighted_spatial(self, x, weights):
        """Returns the 3x3 convolution of x, summed with the weights of its outputs.

        The sum goes into the kernel. That is then made dense over groups, which TFLite,
        XLA and TensorFlow without it all run faster than a grouped convolution.
        """
        kernel = ops.cast(self.spatial.kernel, self._statistics_dtype)
        bias = ops.cast(self.spatial.bias, self._statistics_dtype)
        kernel = ops.tile(ops.matmul(kernel, weights), (1, 1, self._group_count))
        member = np.repeat(np.eye(self._group_count), weights.shape[0], axis=0)
        kernel = kernel[..., None] * ops.cast(member, kernel.dtype)  # (3, 3, C, G)
        y = ops.conv(
            x, ops.cast(kernel, x.dtype), padding="same", data_format="channels_last"
        )
        return ops.cast(y, self._statistics_dtype) + ops.sum(weights * bias)

    def _weighted_norm(self, u, weights):
        """Returns the normalized u, summed over each group with the weights."""
        u = ops.cast(u, self._statistics_dtype)
        centered = u - ops.mean(u, axis=(1, 2), keepdims=True)
        variance = ops.mean(centered * centered, axis=(1, 2))
        scale = weights * self.gamma * ops.rsqrt(self._grouped(variance) + EPSILON)
        scale = ops.reshape(scale, (-1, 1, 1, u.shape[-1]))
        shift = ops.sum(weights * self.beta, axis=-1)[:, None, None]  # (N, 1, 1, G)
        return ops.sum(self._grouped(centered * scale), axis=-1) + shift

    def _grouped(self, x):
        """Returns (..., C) as (..., G, c)."""
        return ops.reshape(x, (*ops.shape(x)[:-1], self._group_count, -1))

    def warm_start(self):
        """Makes the gate constant, 3x3 kernel and norm 0; returns its value, 1/2.

        Both branches learn at once. The outputs of the 3x3 convolution start alike; it
        is gamma that parts them, from the second step on.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        _common.zero(self.spatial.kernel, self.spatial.bias, self.gamma, self.beta)
        return _common.at_zero(self, ops.sigmoid)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        Groups stay in the channel axis of the map, where only products, a depthwise
        3x3 convolution and sums over groups run; on strips and means they become
        positions, where one small kernel serves all of them. See `_ema_mobile`.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), H and W static. Its layers are made
            once, however often it is called; their names begin with this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        return _ema_mobile.mobile_form(self, self._group_count, EPSILON)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "groups": self.groups,
            **_common.conv_config(self),
            "data_format": self.data_format,
        }

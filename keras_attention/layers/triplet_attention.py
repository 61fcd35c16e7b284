"""Rotate to Attend: Convolutional Triplet Attention Module.

Misra, Nalamada, Arasanipalai and Hou, WACV 2021, arXiv 2010.03045; official code:
landskape-ai/triplet-attention.

CBAM's gate per position, three times: over H and W, but also over C and W and over H
and C, so that channels meet places without a bottleneck, in some 300 parameters.

Differences from the reference: none in the mathematics. The map is not rotated: what
is reduced is an axis of it, and only pooled maps change their order of axes. The
reference's option without the branch over H and W is left out.
"""

import keras
from keras import ops

from keras_attention import stock
from keras_attention.layers import _common
from keras_attention.layers._one_channel_mobile import max_mean_convolution
from keras_attention.registry import register

# The axes that a branch convolves over, as its kernel has them; it pools the third.
_BRANCHES = ("cw", "hc", "hw")


@register("triplet")
@keras.saving.register_keras_serializable(package="keras_attention")
class TripletAttention(keras.layers.Layer):
    """Triplet attention: the mean of three gates, each over two of H, W and C.

    With k = kernel_size, and for each pair of axes (C, W), (H, C), (H, W):

        s = BN(conv([max of x over the third axis; mean over it]))  k x k, 2 -> 1
        g = sigmoid(s)
        y[i, j, c] = x[i, j, c] * (g_cw[c, j] + g_hc[i, c] + g_hw[i, j]) / 3

    Each branch has a convolution and a normalization (momentum 0.99, epsilon 1e-5) of
    its own. Statistics are float32 under mixed precision.

    Args:
        kernel_size: k, odd: height and width of the convolutions.
        kernel_initializer: Of the three kernels; default: the authors' N(0, 2 / k^2).
        kernel_regularizer: Of the three kernels.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic.

    Parameters: 6k^2 + 6 trainable, and 6 running statistics.
    Multiply-adds without means and maxima: 2k^2 (HW + HC + CW) + HWC; deployed the k^2
    become k times the columns of three blocks, of 4 to 16 columns each.
    Int8: as CBAM's; on the full map one product and two sums, of gates.

    Raises:
        ValueError: `kernel_size` is not a positive odd integer, the data format is
            unknown, or (at build) the input is not of rank 4 with static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(TripletAttention(kernel_size=7)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/2010.03045, equations 2 to 4.
    """

    def __init__(
        self,
        kernel_size=7,
        *,
        kernel_initializer=_common.AUTHORS_INITIALIZER,
        kernel_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel_size = _common.odd_int("kernel_size", kernel_size)
        _common.set_conv_initializers(self, kernel_initializer, None)
        _common.set_conv_regularizers(self, kernel_regularizer, None)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the three branches."""
        axis = _common.channel_axis(self, input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: input_shape[axis]})
        self.convs, self.norms = [], []
        for axes in _BRANCHES:
            conv = _common.conv(
                self, 2, 1, f"conv_{axes}", self.kernel_size, use_bias=False
            )
            self.convs.append(conv)
            self.norms.append(
                _common.batch_norm(self, 1, f"norm_{axes}", momentum=0.99)
            )

    def call(self, x, training=None):
        """Returns x times the mean of the three gates."""
        order = "chw" if self.data_format == "channels_first" else "hwc"
        gate = 0
        for axes, conv, norm in zip(_BRANCHES, self.convs, self.norms, strict=True):
            (pooled,) = set(order) - set(axes)
            axis = 1 + order.index(pooled)
            # The pooled map has its axes in the order of x's, the kernel in its own.
            turned = order.replace(pooled, "") != axes
            z = ops.stack([ops.max(x, axis), ops.mean(x, axis)], axis=-1)
            z = ops.swapaxes(z, 1, 2) if turned else z  # e. g. (N, C, W, 2)
            s = ops.squeeze(norm(conv(z), training=training), -1)
            s = ops.swapaxes(s, 1, 2) if turned else s
            gate = gate + ops.expand_dims(ops.sigmoid(s) / 3, axis)
        return x * gate

    def warm_start(self):
        """Makes the three gates constant, their norms 0; returns their mean, 1/2.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        for norm in self.norms:
            _common.zero(norm.gamma, norm.beta)
        return _common.at_zero(self, ops.sigmoid)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        No axis is moved: the strips of channels are maps of one channel after a
        reshape, and the branch over C and W has its kernel transposed. The
        convolutions: see `_one_channel_mobile`.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), H and W static. Its layers are made
            once for each size that it is called on; their names begin with this
            layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        convs, gates = [], []
        for axes, conv, norm in zip(_BRANCHES, self.convs, self.norms, strict=True):
            name, turned = f"{self.name}_conv_{axes}", axes == "cw"
            convs.append(max_mean_convolution(conv, norm, name=name, transposed=turned))
            gates.append(stock.activation("sigmoid", name=f"{self.name}_gate_{axes}"))

        def function(x):
            _, height, width, channels = x.shape
            terms = []
            # Axis that is pooled, and size of the pooled map with it left out.
            for axis, rows, columns, conv, gate in zip(
                (1, 2, 3),
                (width, height, height),
                (channels, channels, width),
                convs,
                gates,
                strict=True,
            ):
                pooled = [pool(x, axis, keepdims=True) for pool in (ops.max, ops.mean)]
                shape = pooled[0].shape[1:]
                maps = [ops.reshape(z, (-1, rows, columns, 1)) for z in pooled]
                # Keras' Add on TensorFlow takes (1, 1, W, 1) for a bias of W channels,
                # where there are so many. Subtract does not: two terms are negated.
                g = gate(conv(*maps)) * (-1 / 3 if terms else 1 / 3)
                terms.append(ops.reshape(g, (-1, *shape)))
            return x * (terms[0] - terms[1] - terms[2])

        return function

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "data_format": self.data_format,
        }

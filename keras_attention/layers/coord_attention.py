"""Coordinate Attention for Efficient Mobile Network Design.

Hou, Zhou and Feng, CVPR 2021, arXiv 2103.02907; official code: houqb/CoordAttention.

Where squeeze and excitation keeps one mean per channel, this block keeps two strips of
means, per row and per column. A shared bottleneck looks at both, and each strip becomes
a gate along its own axis: the attention knows where along H and W something is.

Differences from the reference: none in the mathematics.
"""

import keras
from keras import ops

from keras_attention import stock
from keras_attention.layers import _common
from keras_attention.registry import register


@register("coord")
@keras.saving.register_keras_serializable(package="keras_attention")
class CoordAttention(keras.layers.Layer):
    """Coordinate attention: gates per row and per column.

    With z_h the means of x over W, z_w its means over H and m = max(min_channels,
    C // reduction):

        f = activation(BN(F1([z_h, z_w])))            1x1 convolution C -> m
        g_h = gate(F_h(f_h)), g_w = gate(F_w(f_w))    1x1 convolutions m -> C
        y[i, j] = x[i, j] * g_h[i] * g_w[j]

    Batch statistics are taken over the N * (H + W) positions of both strips together
    (momentum 0.9, epsilon 1e-5), in float32 under mixed precision.

    Args:
        reduction: C // reduction channels in the bottleneck.
        min_channels: Least number of channels in the bottleneck.
        activation: Activation of the bottleneck.
        gate: Activation of both gates.
        kernel_initializer: Of the three kernels; default: the authors' N(0, 2 / out).
        bias_initializer: Of the three biases.
        kernel_regularizer: Of the three kernels.
        bias_regularizer: Of the three biases.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic.

    Parameters: 3Cm + 3m + 2C trainable, and 2m running statistics.
    Multiply-adds without means: 2(H + W)Cm + 2HWC; deployed HWCm + (H + W)Cm + 2HWC.
    Int8: the deployed form has no concatenation, and XNNPACK takes every operator.

    Raises:
        ValueError: `reduction` or `min_channels` is not a positive integer, the data
            format is unknown, or (at build) the input is not of rank 4 with static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(CoordAttention(reduction=16)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/2103.02907, equations 4 to 9.
    """

    def __init__(
        self,
        reduction=32,
        min_channels=8,
        *,
        activation="hard_swish",
        gate="sigmoid",
        kernel_initializer=_common.AUTHORS_INITIALIZER,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.reduction = _common.positive_int("reduction", reduction)
        self.min_channels = _common.positive_int("min_channels", min_channels)
        self.activation = keras.activations.get(activation)
        self.gate = keras.activations.get(gate)
        _common.set_conv_initializers(self, kernel_initializer, bias_initializer)
        _common.set_conv_regularizers(self, kernel_regularizer, bias_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the sub-layers for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape)
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})
        bottleneck = max(self.min_channels, channels // self.reduction)
        self.reduce = _common.conv(self, channels, bottleneck, "reduce")
        self.norm = _common.batch_norm(self, bottleneck, "norm")
        self.expand_h = _common.conv(self, bottleneck, channels, "expand_h")
        self.expand_w = _common.conv(self, bottleneck, channels, "expand_w")

    def call(self, x, training=None):
        """Returns x gated per row and per column, as in the authors' code."""
        first = self.data_format == "channels_first"
        h_axis, w_axis = (2, 3) if first else (1, 2)
        height = ops.shape(x)[h_axis]
        # Whatever the dtype of x, Keras sums means and batch statistics in float32.
        z_h, z_w = ops.mean(x, axis=w_axis), ops.mean(x, axis=h_axis)
        if first:
            z_h, z_w = ops.swapaxes(z_h, 1, 2), ops.swapaxes(z_w, 1, 2)
        z = ops.concatenate([z_h, z_w], axis=1)  # (N, H + W, C)
        z = ops.expand_dims(z, 2)  # (N, H + W, 1, C)
        f = self.activation(self.norm(self.reduce(z), training=training))
        f_h, f_w = f[:, :height], f[:, height:]  # (N, H, 1, m), (N, W, 1, m)
        f_w = ops.expand_dims(ops.squeeze(f_w, 2), 1)  # (N, 1, W, m)
        g_h = self.gate(self.expand_h(f_h))  # (N, H, 1, C)
        g_w = self.gate(self.expand_w(f_w))  # (N, 1, W, C)
        if first:
            g_h, g_w = (ops.transpose(g, (0, 3, 1, 2)) for g in (g_h, g_w))
        return x * g_h * g_w

    def warm_start(self):
        """Makes both gates constant, last kernels 0; returns their product, gate(0)^2.

        Raises:
            ValueError: The layer is not built, or gate(0) is not positive.
        """
        _common.check_built(self)
        scale = _common.at_zero(self, self.gate, self.expand_h.filters)
        for conv in (self.expand_h, self.expand_w):
            _common.zero(conv.kernel, conv.bias)
        return scale * scale

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        A 1x1 convolution commutes with a mean over an axis, so the narrowing one runs
        first, on the map and with the normalization folded in: the means, which cost
        per output element, are then taken over m channels instead of C. The swish is
        y * relu6(y + 3), one table in int8; its 1/6 goes into the kernels behind it.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), H and W static. Its layers are made
            once, however often it is called; their names begin with this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        kernel, bias = stock.fold(self.reduce, self.norm)
        reduce = stock.pointwise(
            kernel, bias, name=f"{self.name}_reduce", trainable=self.reduce.trainable
        )
        swish = self.activation is keras.activations.hard_silu

        def branch(axis, conv):
            kernel, bias = stock.kernel_and_bias(conv)
            if swish:
                kernel, activation = kernel / 6, lambda y: y * ops.relu6(y + 3.0)
            else:
                activation = stock.activation(
                    self.activation, name=f"{self.name}_activation_{axis}"
                )
            name = f"{self.name}_expand_{axis}"
            expand = stock.pointwise(kernel, bias, name=name, trainable=conv.trainable)
            gate = stock.activation(self.gate, name=f"{self.name}_gate_{axis}")
            return lambda strip: gate(expand(activation(strip)))

        gate_h, gate_w = branch("h", self.expand_h), branch("w", self.expand_w)

        def function(x):
            y = reduce(x)  # (N, H, W, m)
            g_h = gate_h(ops.mean(y, axis=2, keepdims=True))  # (N, H, 1, C)
            g_w = gate_w(ops.mean(y, axis=1, keepdims=True))  # (N, 1, W, C)
            return x * (g_h * g_w)

        return function

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "min_channels": self.min_channels,
            "activation": keras.activations.serialize(self.activation),
            "gate": keras.activations.serialize(self.gate),
            **_common.conv_config(self),
            "data_format": self.data_format,
        }

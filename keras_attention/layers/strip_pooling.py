"""Strip Pooling: Rethinking Spatial Pooling for Scene Parsing.

Hou, Zhang, Cheng and Feng, CVPR 2020, arXiv 2003.13328; official code: houqb/SPNet.

A global mean blurs long, narrow things, a window sees a part of them only. Means over
whole rows and whole columns, mixed along the strips and put together at each position,
tell the gate of a position what its row and its column hold.

Differences from the reference: none in the mathematics. The initial biases are 0.
"""

import keras
from keras import ops

from keras_attention import stock
from keras_attention.layers import _common
from keras_attention.registry import register


@register("sp")
@keras.saving.register_keras_serializable(package="keras_attention")
class StripPooling(keras.layers.Layer):
    """Strip pooling module: gates from means over rows and over columns.

    With z_h the means of x over W and z_w its means over H:

        u_h = BN(F_h(z_h))                             3x1 convolution C -> C
        u_w = BN(F_w(z_w))                             1x3 convolution C -> C
        f[i, j] = ReLU(u_h[i] + u_w[j])
        y[i, j] = x[i, j] * sigmoid(F(f[i, j]) + b)    1x1 convolution C -> C

    Strips are padded by zeros. Batch statistics (momentum 0.9, epsilon 1e-5) are taken
    over N * H and N * W positions, in float32 under mixed precision.

    Args:
        kernel_initializer: Of the three kernels; default: the authors' N(0, 2 / out),
            out counting the places of a kernel, too.
        bias_initializer: Of b.
        kernel_regularizer: Of the three kernels.
        bias_regularizer: Of b.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic.

    Parameters: 7C^2 + 5C trainable, and 4C running statistics.
    Multiply-adds without means: 3(H + W)C^2 + HWC^2 + HWC.
    Int8: what `call` computes, the normalizations folded; XNNPACK takes all of it.

    Raises:
        ValueError: The data format is unknown, or (at build) the input is not of rank 4
            with static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(StripPooling()(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/2003.13328, section 3.1.
    """

    def __init__(
        self,
        *,
        kernel_initializer=_common.AUTHORS_INITIALIZER,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _common.set_conv_initializers(self, kernel_initializer, bias_initializer)
        _common.set_conv_regularizers(self, kernel_regularizer, bias_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the sub-layers for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape)
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})

        def conv(name, kernel_size, use_bias=False):
            return _common.conv(
                self, channels, channels, name, kernel_size, use_bias=use_bias
            )

        self.conv_h = conv("conv_h", (3, 1))
        self.norm_h = _common.batch_norm(self, channels, "norm_h")
        self.conv_w = conv("conv_w", (1, 3))
        self.norm_w = _common.batch_norm(self, channels, "norm_w")
        self.mix = conv("mix", 1, use_bias=True)

    def call(self, x, training=None):
        """Returns x gated per position and channel, as in the authors' code."""
        first = self.data_format == "channels_first"
        h_axis, w_axis = (2, 3) if first else (1, 2)
        # Whatever the dtype of x, Keras sums means and batch statistics in float32.
        z_h = ops.mean(x, axis=w_axis, keepdims=True)  # (N, H, 1, C)
        z_w = ops.mean(x, axis=h_axis, keepdims=True)  # (N, 1, W, C)
        if first:
            z_h, z_w = (ops.transpose(z, (0, 2, 3, 1)) for z in (z_h, z_w))
        u_h = self.norm_h(self.conv_h(z_h), training=training)  # (N, H, 1, C)
        u_w = self.norm_w(self.conv_w(z_w), training=training)  # (N, 1, W, C)
        g = ops.sigmoid(self.mix(ops.relu(u_h + u_w)))  # (N, H, W, C)
        return x * (ops.transpose(g, (0, 3, 1, 2)) if first else g)

    def warm_start(self):
        """Makes the gate constant, its last kernel 0; returns its value, 1/2.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        _common.zero(self.mix.kernel, self.mix.bias)
        return _common.at_zero(self, ops.sigmoid)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), H and W static. Its layers are made
            once, however often it is called; their names begin with this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        name = self.name
        conv_h = stock.folded(self.conv_h, self.norm_h, name=f"{name}_conv_h")
        conv_w = stock.folded(self.conv_w, self.norm_w, name=f"{name}_conv_w")
        mix = stock.pointwise_copy(self.mix, name=f"{name}_mix")
        gate = stock.activation("sigmoid", name=f"{name}_gate")

        def function(x):
            u_h = conv_h(ops.mean(x, axis=2, keepdims=True))  # (N, H, 1, C)
            u_w = conv_w(ops.mean(x, axis=1, keepdims=True))  # (N, 1, W, C)
            # The sum expands the strips, the ReLU is part of it.
            return x * gate(mix(ops.relu(u_h + u_w)))

        return function

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            **_common.conv_config(self),
            "data_format": self.data_format,
        }

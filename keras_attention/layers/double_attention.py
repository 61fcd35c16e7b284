"""A2-Nets: Double Attention Networks.

Chen, Kalantidis, Li, Yan and Feng, NeurIPS 2018, arXiv 1810.11579; official code: none
was found.

Attention in two steps. The first gathers the whole map into n descriptors, each a
weighted mean of features over all positions; the second gives every position its own
mixture of the descriptors. What costs O(L^2) between L positions in a non-local block
costs O(L n) through the descriptors.

Differences from the reference: the formula is the paper's, and m = n = C / 2 follows
from the number of parameters that it gives. Not known from it, and this project's
choice, are the biases, the initializers (Keras' own) and the optional normalization
behind the extension with gamma 0, which non-local blocks have.
"""

import math

import keras
from keras import ops

from keras_attention.layers import _common
from keras_attention.layers._double_attention_mobile import mobile_form
from keras_attention.registry import register


@register("a2")
@keras.saving.register_keras_serializable(package="keras_attention")
class DoubleAttention(keras.layers.Layer):
    """Double attention: gathers global descriptors and distributes them.

    With L positions, m = value_channels, n = attention_channels, and 1x1 convolutions
    value (C -> m), gather and distribute (C -> n) and extend (m -> C):

        A = value(x)                                   (L, m)
        B = softmax over the L positions of gather(x)  (L, n)
        V = softmax over the n maps of distribute(x)   (L, n)
        Z = V (B^T A)                                  (L, m)
        y = x + extend(Z)

    The products are taken in this order, so that no tensor has L x L entries. Softmax
    and sums over positions are computed in float32 under mixed precision.

    Args:
        value_channels: m, width of the gathered features; None: max(1, C // 2).
        attention_channels: n, number of descriptors; None: max(1, C // 2).
        residual: Whether x is added.
        zero_init_norm: Whether a batch normalization (momentum 0.9, epsilon 1e-5) whose
            gamma starts at 0 follows the extension: a block inserted into a trained
            network then starts as identity.
        use_bias: Whether the four convolutions have biases.
        kernel_initializer: Of the four kernels.
        bias_initializer: Of the four biases.
        kernel_regularizer: Of the four kernels.
        bias_regularizer: Of the four biases.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C) or, for video, (N, D, H, W, C); with "channels_first" (N, C, H, W)
        or (N, C, D, H, W). All but C may be dynamic.

    Parameters: 2C(m + n), with biases m + 2n + C more; with zero_init_norm 2C more
    trainable ones and 2C running statistics. The bias of `gather` has no effect, and
    so no gradient: the softmax over positions cancels it.
    Multiply-adds: 2LC(m + n) + 2Lmn. With m = n = C / 2 the block has 2C^2 parameters.
    Int8: exponentials take the place of both softmaxes and are normalized after the
    products, as a grid of 1/256 can't hold weights near 1/L. Maps that are flat beside
    maps with a sharp peak, of the same block, cost accuracy, as they share a range.
    Video models hold tensors of rank 5 and convert to floats only.

    Raises:
        ValueError: `value_channels` or `attention_channels` is not a positive integer,
            the data format is unknown, `zero_init_norm` without `residual` (the output
            would start as constant 0), or (at build) the input is not of rank 4 or 5
            with static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(DoubleAttention(value_channels=16, attention_channels=16)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/1810.11579, section 3.
    """

    def __init__(
        self,
        value_channels=None,
        attention_channels=None,
        *,
        residual=True,
        zero_init_norm=False,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in [
            ("value_channels", value_channels),
            ("attention_channels", attention_channels),
        ]:
            if value is not None:
                _common.positive_int(name, value)
        if zero_init_norm and not residual:
            raise ValueError(
                "zero_init_norm=True needs residual=True: the output would start as "
                f"constant 0; received residual={residual!r}"
            )
        self.value_channels = value_channels
        self.attention_channels = attention_channels
        self.residual = residual
        self.zero_init_norm = zero_init_norm
        self.use_bias = use_bias
        _common.set_conv_initializers(self, kernel_initializer, bias_initializer)
        _common.set_conv_regularizers(self, kernel_regularizer, bias_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the sub-layers for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape, ranks=(4, 5))
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={axis: channels}
        )
        half = max(1, channels // 2)
        values, maps = self.value_channels or half, self.attention_channels or half

        def pointwise(inputs, outputs, name):
            return _common.conv(self, inputs, outputs, name, use_bias=self.use_bias)

        self.value = pointwise(channels, values, "value")
        self.gather = pointwise(channels, maps, "gather")
        self.distribute = pointwise(channels, maps, "distribute")
        self.extend = pointwise(values, channels, "extend")
        self.norm = None
        if self.zero_init_norm:
            self.norm = _common.batch_norm(self, channels, "norm", "zeros")

    def call(self, x, training=None):
        """Returns x plus what its positions receive of the gathered descriptors."""
        first = self.data_format == "channels_first"
        y = ops.moveaxis(x, 1, -1) if first else x
        shape = ops.shape(y)
        length, channels = math.prod(shape[1:-1]), y.shape[-1]
        # One axis of positions for images and video.
        y = ops.reshape(y, (-1, 1, length, channels))  # (N, 1, L, C)
        wide = keras.backend.result_type(self.compute_dtype, "float32")
        a, b, v = (
            ops.cast(ops.squeeze(conv(y), 1), wide)
            for conv in (self.value, self.gather, self.distribute)
        )  # (N, L, m), (N, L, n), (N, L, n)
        b = _common.softmax(b, axis=1)  # over the positions
        g = ops.matmul(ops.transpose(b, (0, 2, 1)), a)  # (N, n, m)
        v = _common.softmax(v, axis=-1)  # over the descriptors
        v, g = (ops.cast(t, self.compute_dtype) for t in (v, g))
        z = ops.expand_dims(ops.matmul(v, g), 1)  # (N, 1, L, m)
        y = self.extend(z)
        if self.norm is not None:
            y = self.norm(y, training=training)
        y = ops.reshape(y, shape)
        y = ops.moveaxis(y, -1, 1) if first else y
        return x + y if self.residual else y

    def warm_start(self):
        """Makes the branch 0: its last kernel, or the normalization; returns 1.

        Raises:
            ValueError: The layer is not built, or `residual` is False.
        """
        _common.check_built(self)
        if not self.residual:
            reason = "without the residual sum the input does not pass it by"
            raise _common.no_warm_start(self, reason)
        if self.norm is not None:
            _common.zero(self.norm.gamma, self.norm.beta)
        else:
            _common.zero(self.extend.kernel, self.extend.bias)
        return 1.0

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        e = exp(gather(x) - maximum) and f likewise take the place of the softmaxes; the
        small B^T A, and Z per position, are divided by their sums, as exp(-log(sum)).

        Returns:
            A function of (N, H, W, C), or (N, D, H, W, C), to the same shape; all but N
            static. Its layers are made once, however often it is called; their names
            begin with this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        return mobile_form(self)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "value_channels": self.value_channels,
            "attention_channels": self.attention_channels,
            "residual": self.residual,
            "zero_init_norm": self.zero_init_norm,
            "use_bias": self.use_bias,
            **_common.conv_config(self),
            "data_format": self.data_format,
        }

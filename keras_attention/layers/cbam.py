"""CBAM: Convolutional Block Attention Module.

Woo, Park, Lee and Kweon, ECCV 2018, arXiv 1807.06521; official code:
Jongchan/attention-module.

Squeeze and excitation with maxima beside the means tells which channels matter; a
convolution over the maxima and means of all channels then tells which places do.

Differences from the reference: none in the mathematics. The kernel of the spatial gate
starts as their MLP's do, not as their networks' convolutions: the normalization behind
it cancels the scale.
"""

import keras
from keras import ops

from keras_attention import stock
from keras_attention.layers import _common
from keras_attention.layers._one_channel_mobile import max_mean_convolution
from keras_attention.registry import register


@register("cbam")
@keras.saving.register_keras_serializable(package="keras_attention")
class CBAM(keras.layers.Layer):
    """Convolutional block attention: a gate per channel, then one per position.

    With m = max(1, C // reduction), k = kernel_size and one MLP for both vectors:

        MLP(z) = F2(relu(F1(z)))                           C -> m -> C
        u = x * sigmoid(MLP(mean of x over H, W) + MLP(max of x over H, W))
        s = BN(conv([max of u over C; mean of u over C]))  k x k, 2 -> 1
        y = u * sigmoid(s)

    The normalization has momentum 0.99 and epsilon 1e-5; its statistics are float32
    under mixed precision.

    Args:
        reduction: C // reduction channels in the middle of the MLP.
        kernel_size: k, odd: height and width of the convolution.
        zero_init_norm: Whether the gamma of the normalization starts at 0, as in the
            authors' networks: the gate per position then starts at 1/2 everywhere.
        kernel_initializer: Of the three kernels; default: PyTorch's.
        bias_initializer: Of the two biases.
        kernel_regularizer: Of the three kernels.
        bias_regularizer: Of the two biases.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic.

    Parameters: 2Cm + m + C + 2k^2 + 2 trainable, and 2 running statistics.
    Multiply-adds without means and maxima: 4Cm + 2HWk^2 + 2HWC; deployed the k^2
    become k times the columns of three blocks, of 4 to 16 columns each.
    Int8: maxima and means are convolved apart, each with its own range, and columns of
    the map become channels of that convolution.

    Raises:
        ValueError: `reduction` or `kernel_size` is not a positive integer,
            `kernel_size` is even, the data format is unknown, or (at build) the input
            is not of rank 4 with static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(CBAM(reduction=16)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/1807.06521, equations 2 to 5.
    """

    def __init__(
        self,
        reduction=16,
        kernel_size=7,
        *,
        zero_init_norm=True,
        kernel_initializer=_common.TORCH_INITIALIZER,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.reduction = _common.positive_int("reduction", reduction)
        self.kernel_size = _common.odd_int("kernel_size", kernel_size)
        self.zero_init_norm = zero_init_norm
        _common.set_conv_initializers(self, kernel_initializer, bias_initializer)
        _common.set_conv_regularizers(self, kernel_regularizer, bias_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the sub-layers for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape)
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})
        middle = max(1, channels // self.reduction)
        self.reduce = _common.conv(self, channels, middle, "reduce")
        self.expand = _common.conv(self, middle, channels, "expand")
        self.spatial = _common.conv(
            self, 2, 1, "spatial", self.kernel_size, use_bias=False
        )
        gamma = "zeros" if self.zero_init_norm else "ones"
        self.norm = _common.batch_norm(self, 1, "norm", gamma, momentum=0.99)

    def call(self, x, training=None):
        """Returns x gated per channel, and that gated per position."""
        places = _common.spatial_axes(self, 4)
        channel = 1 if self.data_format == "channels_first" else 3
        z = ops.stack([ops.mean(x, places), ops.max(x, places)], axis=1)  # (N, 2, C)
        z = self.expand(ops.relu(self.reduce(ops.expand_dims(z, 2))))  # (N, 2, 1, C)
        g = ops.sigmoid(ops.sum(z, axis=1))  # (N, 1, C)
        u = x * _common.per_channel(self, g, 4)
        z = ops.stack([ops.max(u, channel), ops.mean(u, channel)], axis=-1)
        s = self.norm(self.spatial(z), training=training)  # (N, H, W, 1)
        return u * ops.expand_dims(ops.squeeze(ops.sigmoid(s), 3), channel)

    def warm_start(self):
        """Makes both gates constant, their last weights 0; returns their product, 1/4.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        _common.zero(
            self.expand.kernel, self.expand.bias, self.norm.gamma, self.norm.beta
        )
        return _common.at_zero(self, ops.sigmoid) ** 2

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        The MLP's second layer is linear, so it runs once, on the sum of what the first
        gives for means and maxima. The convolution: see `_one_channel_mobile`.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), H and W static. Its layers are made
            once for each width that it is called on; their names begin with this
            layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        name = self.name
        reduce = stock.pointwise_copy(self.reduce, name=f"{name}_reduce")
        kernel, bias = stock.kernel_and_bias(self.expand)
        expand = stock.pointwise(
            kernel, 2 * bias, name=f"{name}_expand", trainable=self.expand.trainable
        )
        spatial = max_mean_convolution(self.spatial, self.norm, name=f"{name}_spatial")
        gate = stock.activation("sigmoid", name=f"{name}_gate_channel")
        gate_spatial = stock.activation("sigmoid", name=f"{name}_gate_spatial")

        def function(x):
            pooled = [pool(x, (1, 2), keepdims=True) for pool in (ops.mean, ops.max)]
            mean, maximum = (ops.relu(reduce(z)) for z in pooled)  # (N, 1, 1, m)
            u = x * gate(expand(mean + maximum))
            pooled = [pool(u, 3, keepdims=True) for pool in (ops.max, ops.mean)]
            return u * gate_spatial(spatial(*pooled))

        return function

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "kernel_size": self.kernel_size,
            "zero_init_norm": self.zero_init_norm,
            **_common.conv_config(self),
            "data_format": self.data_format,
        }

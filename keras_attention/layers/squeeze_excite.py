"""Squeeze-and-Excitation Networks.

Hu, Shen and Sun, CVPR 2018, arXiv 1709.01507; official code: hujie-frank/SENet.

The mean of each channel says what the whole map holds; two small layers with a
bottleneck between them make of it one gate per channel. It is the block that the others
are compared with.

Differences from the reference: `min_channels`, `activation` and `gate` are additions;
their defaults are the paper's. The initializers are Keras' own.
"""

import keras
from keras import ops

from keras_attention import stock
from keras_attention.layers import _common
from keras_attention.registry import register


@register("se")
@keras.saving.register_keras_serializable(package="keras_attention")
class SqueezeExcite(keras.layers.Layer):
    """Squeeze and excitation: one gate per channel, from the means of all.

    With m = max(min_channels, C // reduction):

        z = mean of x over the positions               (C,)
        g = gate(W2 activation(W1 z + b1) + b2)        W1: C -> m, W2: m -> C
        y[i, j] = x[i, j] * g

    Means are computed in float32 under mixed precision.

    Args:
        reduction: C // reduction channels in the bottleneck.
        min_channels: Least number of channels in the bottleneck.
        activation: Activation of the bottleneck; any of Keras.
        gate: Activation of the gate; any of Keras. "hard_sigmoid" is MobileNetV3's.
        use_bias: Whether there are b1 and b2.
        kernel_initializer: Of W1 and W2.
        bias_initializer: Of b1 and b2.
        kernel_regularizer: Of W1 and W2.
        bias_regularizer: Of b1 and b2.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C) or, for video, (N, D, H, W, C); with "channels_first" (N, C, H, W)
        or (N, C, D, H, W). All but C may be dynamic.

    Parameters: 2Cm, with biases m + C more.
    Multiply-adds without the mean: 2Cm + HWC.
    Int8: one mean, two convolutions of a 1x1 map and one product on the full map;
    XNNPACK takes all of them with the default activations. Video models convert to
    floats only.

    Raises:
        ValueError: `reduction` or `min_channels` is not a positive integer, an
            activation or the data format is unknown, or (at build) the input is not of
            rank 4 or 5 with static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(SqueezeExcite(reduction=16)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/1709.01507, equations 2 to 4.
    """

    def __init__(
        self,
        reduction=16,
        min_channels=1,
        *,
        activation="relu",
        gate="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
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
        width = max(self.min_channels, channels // self.reduction)
        options = {"use_bias": self.use_bias}
        self.reduce = _common.conv(self, channels, width, "reduce", **options)
        self.expand = _common.conv(self, width, channels, "expand", **options)

    def call(self, x):
        """Returns x with each channel gated."""
        rank = len(x.shape)
        # Whatever the dtype of x, Keras sums means in float32.
        z = ops.mean(x, axis=_common.spatial_axes(self, rank))  # (N, C)
        f = self.activation(self.reduce(z[:, None, None]))  # (N, 1, 1, m)
        g = self.gate(self.expand(f))  # (N, 1, 1, C)
        return x * _common.per_channel(self, g, rank)

    def warm_start(self):
        """Makes the gate constant, its last kernel 0; returns its value, gate(0).

        Raises:
            ValueError: The layer is not built, or gate(0) is not positive.
        """
        _common.check_built(self)
        scale = _common.at_zero(self, self.gate, self.expand.filters)
        _common.zero(self.expand.kernel, self.expand.bias)
        return scale

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        Video is computed as a map of rank 4, its frames below each other.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), or of rank 5, all but N static. Its
            layers are made once, however often it is called; their names begin with
            this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        reduce = stock.pointwise_copy(self.reduce, name=f"{self.name}_reduce")
        expand = stock.pointwise_copy(self.expand, name=f"{self.name}_expand")
        activation = stock.activation(self.activation, name=f"{self.name}_activation")
        gate = stock.activation(self.gate, name=f"{self.name}_gate")

        def function(x):
            z = ops.mean(x, axis=(1, 2), keepdims=True)  # (N, 1, 1, C)
            return x * gate(expand(activation(reduce(z))))

        return _common.on_maps(function)

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
            "use_bias": self.use_bias,
            **_common.conv_config(self),
            "data_format": self.data_format,
        }

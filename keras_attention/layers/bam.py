"""BAM: Bottleneck Attention Module.

Park, Woo, Lee and Kweon, BMVC 2018, arXiv 1807.06514; official code:
Jongchan/attention-module.

A gate per channel, from means as in squeeze and excitation, and a gate per position,
from dilated convolutions that see far, become one gate by a sum of their logits. It
stands between the stages of a network and leaves features at least as they are.

Differences from the reference: its code multiplies the logits where the paper adds
them; `combine` has both, and the paper's is the default. All kernels start as PyTorch's
do. In their networks those of the branch per position start as N(0, 2 / (k^2 out)),
which matters for the last one alone: normalizations cancel the scale of the others.
"""

import operator

import keras
from keras import ops

from keras_attention import stock
from keras_attention.layers import _common
from keras_attention.registry import register

_COMBINE = {"sum": operator.add, "product": operator.mul}


@register("bam")
@keras.saving.register_keras_serializable(package="keras_attention")
class BAM(keras.layers.Layer):
    """Bottleneck attention: y = x * (1 + gate), a gate per channel and position.

    With m = max(1, C // reduction) and CBR a convolution, normalization and ReLU:

        c = F(CBR(mean of x over H, W))          1x1: C -> m -> C
        s = S(D2(D1(CBR(x))))                    1x1 C -> m, two CBR 3x3 m -> m with
                                                 dilation, 1x1 m -> 1
        y = x * (1 + sigmoid(c + s))             or sigmoid(c * s)

    Batch normalizations have momentum 0.9 and epsilon 1e-5. That of the channel branch
    takes its statistics over the N samples alone. Statistics and means are float32
    under mixed precision.

    Args:
        reduction: C // reduction channels inside both branches.
        dilation: Distance of the taps of the 3x3 convolutions.
        combine: "sum" of the logits of both branches (the paper) or "product" (the
            authors' code).
        kernel_initializer: Of the six kernels; default: PyTorch's.
        bias_initializer: Of the six biases.
        kernel_regularizer: Of the six kernels.
        bias_regularizer: Of the six biases.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic.

    Parameters: 3Cm + C + 18m^2 + 13m + 1 trainable, and 8m running statistics. The four
    biases in front of normalizations have no effect, and so no gradient.
    Multiply-adds without the mean: 2Cm + HW(Cm + 18m^2 + m + C).
    Int8: normalizations are folded; XNNPACK looks 1 + sigmoid up in one table. On the
    full map there are one sum, one table and one product.

    Raises:
        ValueError: `reduction` or `dilation` is not a positive integer, `combine` or
            the data format is unknown, or (at build) the input is not of rank 4 with
            static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(BAM(reduction=16)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/1807.06514, equations 1 to 5.
    """

    def __init__(
        self,
        reduction=16,
        dilation=4,
        *,
        combine="sum",
        kernel_initializer=_common.TORCH_INITIALIZER,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.reduction = _common.positive_int("reduction", reduction)
        self.dilation = _common.positive_int("dilation", dilation)
        if not isinstance(combine, str) or combine not in _COMBINE:
            raise ValueError(
                f"combine must be one of {tuple(_COMBINE)}; received {combine!r}"
            )
        self.combine = combine
        _common.set_conv_initializers(self, kernel_initializer, bias_initializer)
        _common.set_conv_regularizers(self, kernel_regularizer, bias_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the sub-layers for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape)
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})
        middle = max(1, channels // self.reduction)
        options = {"kernel_size": 3, "dilation_rate": self.dilation}
        self.channel_reduce = _common.conv(self, channels, middle, "channel_reduce")
        self.channel_norm = _common.batch_norm(self, middle, "channel_norm")
        self.channel_expand = _common.conv(self, middle, channels, "channel_expand")
        self.spatial_convs = [
            _common.conv(self, channels, middle, "spatial_reduce"),
            _common.conv(self, middle, middle, "spatial_dilated_0", **options),
            _common.conv(self, middle, middle, "spatial_dilated_1", **options),
        ]
        self.spatial_norms = [
            _common.batch_norm(self, middle, f"spatial_norm_{i}") for i in range(3)
        ]
        self.spatial_expand = _common.conv(self, middle, 1, "spatial_expand")

    def call(self, x, training=None):
        """Returns x and, added to it, x gated per channel and position."""
        first = self.data_format == "channels_first"
        # Whatever the dtype of x, Keras sums means in float32.
        z = ops.mean(x, axis=_common.spatial_axes(self, 4))[:, None, None]
        z = ops.relu(self.channel_norm(self.channel_reduce(z), training=training))
        c = _common.per_channel(self, self.channel_expand(z), 4)  # (N, 1, 1, C)
        s = ops.transpose(x, (0, 2, 3, 1)) if first else x
        for conv, norm in zip(self.spatial_convs, self.spatial_norms, strict=True):
            s = ops.relu(norm(conv(s), training=training))  # (N, H, W, m)
        s = self.spatial_expand(s)  # (N, H, W, 1)
        s = ops.transpose(s, (0, 3, 1, 2)) if first else s
        return x * (1 + ops.sigmoid(_COMBINE[self.combine](c, s)))

    def warm_start(self):
        """Makes the gate constant, its logits 0; returns 1 + its value, 3/2.

        Zero are the last kernel per channel and, with "sum", that per position.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        _common.zero(self.channel_expand.kernel, self.channel_expand.bias)
        # Of a product, two factors that are 0 would take each other's gradient away.
        if self.combine == "sum":
            _common.zero(self.spatial_expand.kernel, self.spatial_expand.bias)
        return 1 + _common.at_zero(self, ops.sigmoid)

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
        reduce = stock.folded(
            self.channel_reduce, self.channel_norm, name=f"{name}_channel_reduce"
        )
        expand = stock.pointwise_copy(
            self.channel_expand, name=f"{name}_channel_expand"
        )
        convs = [
            stock.folded(conv, norm, name=f"{name}_{conv.name}")
            for conv, norm in zip(self.spatial_convs, self.spatial_norms, strict=True)
        ]
        kernel, bias = stock.kernel_and_bias(self.spatial_expand)
        # Keras' Add on TensorFlow takes (1, 1, W, 1) for a bias of W channels, where
        # there are so many. Subtract does not: the other term is negated.
        sign, combine = {"sum": (-1, ops.subtract), "product": (1, ops.multiply)}[
            self.combine
        ]
        last = stock.pointwise(
            sign * kernel,
            sign * bias,
            name=f"{name}_spatial_expand",
            trainable=self.spatial_expand.trainable,
        )
        gate = stock.activation("sigmoid", name=f"{name}_gate")

        def function(x):
            c = expand(ops.relu(reduce(ops.mean(x, axis=(1, 2), keepdims=True))))
            s = x
            for conv in convs:
                s = ops.relu(conv(s))
            return x * (gate(combine(c, last(s))) + 1.0)

        return function

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "dilation": self.dilation,
            "combine": self.combine,
            **_common.conv_config(self),
            "data_format": self.data_format,
        }

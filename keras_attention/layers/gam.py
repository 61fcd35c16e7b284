"""Global Attention Mechanism: Retain Information to Enhance Interactions.

Liu, Shao and Hoffmann, 2021, arXiv 2112.05561; official code: known from copies only.

CBAM's order, first channels and then places, but nothing is pooled: an MLP at every
position makes the first gate, two large convolutions over all channels the second. It
costs far more than other blocks.

Differences from the reference: its code multiplies by the MLP's output without the
sigmoid that the paper has; `channel_gate` has both, and the paper's is the default.
With `groups` the gate's channels are shuffled, as in its code for grouped convolutions.
"""

import keras
from keras import ops

from keras_attention.layers import _common
from keras_attention.layers._gam_mobile import mobile_form
from keras_attention.layers._grouped_conv import GroupedConv2D
from keras_attention.registry import register

_CHANNEL_GATES = ("sigmoid", None)


@register("gam")
@keras.saving.register_keras_serializable(package="keras_attention")
class GAM(keras.layers.Layer):
    """Global attention: two gates per channel and position, one after the other.

    With m = max(1, C // reduction):

        u = x * sigmoid(F2(relu(F1(x))))               1x1: C -> m -> C
        s = BN(D2(relu(BN(D1(u)))))                    7x7: C -> m -> C
        y = u * sigmoid(s)

    With channel_gate=None the first sigmoid is left out. With groups above 1, D1 and D2
    are grouped convolutions, and y = u * shuffle(sigmoid(s)), which deals the channels
    of the groups out in turn. Normalizations have momentum 0.9 and epsilon 1e-5; their
    statistics are float32 under mixed precision.

    Args:
        reduction: C // reduction channels inside both parts.
        channel_gate: "sigmoid" (the paper) or None (the authors' code).
        groups: Of the 7x7 convolutions; must divide C and m.
        kernel_initializer: Of the four kernels; default: PyTorch's.
        bias_initializer: Of the four biases; None: PyTorch's, uniform in
            +-1 / sqrt(fan-in).
        kernel_regularizer: Of the four kernels.
        bias_regularizer: Of the four biases.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic.

    Parameters: 2Cm + 98Cm / groups + 4m + 4C trainable, and 2m + 2C running statistics.
    The biases in front of normalizations have no effect, and so no gradient.
    Multiply-adds: HW(2Cm + 98Cm / groups + 2C). Deployed, the first 7x7 convolution is
    cut into runs of groups, each a dense one, and the last stays dense with zeros: 49Cm
    in place of 49Cm / groups.
    Int8: normalizations and the shuffle are folded. Without the first sigmoid u is a
    product of two wide ranges, and less exact.

    Raises:
        ValueError: `reduction` or `groups` is not a positive integer, `channel_gate` or
            the data format is unknown, or (at build) the input is not of rank 4 with
            static C, or `groups` does not divide C and m.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(GAM(reduction=4)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/2112.05561, equations 1 and 2.
    """

    def __init__(
        self,
        reduction=4,
        channel_gate="sigmoid",
        *,
        groups=1,
        kernel_initializer=_common.TORCH_INITIALIZER,
        bias_initializer=None,
        kernel_regularizer=None,
        bias_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if channel_gate not in _CHANNEL_GATES:
            raise ValueError(
                f"channel_gate must be one of {_CHANNEL_GATES}; received "
                f"{channel_gate!r}"
            )
        self.reduction = _common.positive_int("reduction", reduction)
        self.channel_gate = channel_gate
        self.groups = _common.positive_int("groups", groups)
        _common.set_conv_initializers(self, kernel_initializer, bias_initializer)
        _common.set_conv_regularizers(self, kernel_regularizer, bias_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the sub-layers for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape)
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})
        middle = max(1, channels // self.reduction)
        if channels % self.groups or middle % self.groups:
            raise ValueError(
                f"groups={self.groups} must divide the {channels} channels of layer "
                f"{self.name!r} and the {middle} that reduction={self.reduction} leaves"
            )
        grouped = {"kernel_size": 7, "kind": GroupedConv2D, "groups": self.groups}
        self.channel_reduce = _common.conv(self, channels, middle, "channel_reduce")
        self.channel_expand = _common.conv(self, middle, channels, "channel_expand")
        self.spatial_reduce = _common.conv(
            self, channels, middle, "spatial_reduce", **grouped
        )
        self.reduce_norm = _common.batch_norm(self, middle, "reduce_norm")
        self.spatial_expand = _common.conv(
            self, middle, channels, "spatial_expand", **grouped
        )
        self.expand_norm = _common.batch_norm(self, channels, "expand_norm")

    def call(self, x, training=None):
        """Returns x gated twice per channel and position."""
        first = self.data_format == "channels_first"
        x = ops.transpose(x, (0, 2, 3, 1)) if first else x
        g = self.channel_expand(ops.relu(self.channel_reduce(x)))
        u = x * (g if self.channel_gate is None else ops.sigmoid(g))
        s = self.reduce_norm(self.spatial_reduce(u), training=training)
        s = self.spatial_expand(ops.relu(s))  # (N, H, W, m) -> (N, H, W, C)
        g = ops.sigmoid(self.expand_norm(s, training=training))
        y = u * self._shuffle(g)
        return ops.transpose(y, (0, 3, 1, 2)) if first else y

    def _shuffle(self, g):
        """Returns (N, H, W, C) with the channels of the groups dealt out in turn."""
        if self.groups == 1:
            return g
        shape, channels = ops.shape(g), g.shape[-1]
        g = ops.reshape(g, (*shape[:3], self.groups, channels // self.groups))
        return ops.reshape(ops.swapaxes(g, 3, 4), shape)

    def warm_start(self):
        """Makes both gates constant; returns their product, 1/4, or 1/2 of one sigmoid.

        Zero are the last kernel per channel and the last normalization; the bias in
        front of no sigmoid is 1, the others are 0.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        _common.zero(self.channel_expand.kernel, self.channel_expand.bias)
        _common.zero(self.expand_norm.gamma, self.expand_norm.beta)
        scale = _common.at_zero(self, ops.sigmoid)
        if self.channel_gate is None:
            bias = self.channel_expand.bias
            bias.assign(ops.ones(bias.shape, bias.dtype))
            return scale
        return scale * scale

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        The kernel of the last convolution has its output channels in shuffled order.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), H and W static. Its layers are made
            once, however often it is called; their names begin with this layer's name.

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
            "reduction": self.reduction,
            "channel_gate": self.channel_gate,
            "groups": self.groups,
            **_common.conv_config(self),
            "data_format": self.data_format,
        }

"""An Attention Module for Convolutional Neural Networks: AW-convolution.

Zhu, Hofstee, Lee and Al-Ars, ICANN 2021, arXiv 2108.08205; official code: none found.

Attention maps for activations see all output channels alike, and are put together from
parts per channel and per position. Here the map has the shape of the kernel instead:
every image is convolved with its own weighting of one trained kernel.

Differences from the reference: there is no code to compare with, and the definition
below is only partly confirmed by sources other than memory of the paper.

- Confirmed: the attention has the shape of the kernel and is computed per image, by
  average pooling, two pointwise convolutions and a ReLU; it multiplies the kernel; the
  kernel is kept beside the product, K + A * K.
- From memory of the paper: pooling to the kernel's height and width, the two batch
  normalizations, the sigmoid, gates that input channels share, reduction=16.
- Chosen here: input_sharing="all" as the default (with it in every 3x3 convolution, a
  ResNet-50 has the 25.72 million parameters that we recall from the paper), the order
  of the gates, windows of the pooling that overlap where sizes do not divide, He
  initialization of the pointwise convolutions, and what groups mean for the gates.
"""

import keras
from keras import ops

from keras_attention.layers import _aw_forms, _aw_mobile, _common
from keras_attention.registry import register


@register("aw")
@keras.saving.register_keras_serializable(package="keras_attention")
class AWConv2D(keras.layers.Conv2D):
    """2D convolution with a kernel per sample: K + A * K, A computed from the input.

    A drop-in for `keras.layers.Conv2D`, whose arguments it takes in the same order.
    With c = C / groups input channels per group, J = c / input_sharing ("all": J = 1)
    and m = max(1, C // reduction):

        A0 = means of x over h x w windows             (h, w, C)
        A1 = ReLU(BN(P1(A0)))                          1x1 convolution C -> m
        A = sigmoid(BN(P2(A1)))                        1x1 convolution m -> filters * J
        y = activation(convolution of x by (1 + A) * K, + bias)

    Number f * J + j of A's channels is the gate of output channel f for its input
    channels j * input_sharing up to (j + 1) * input_sharing. Window i of n on an axis
    of size s is floor(i s / n) up to ceil((i + 1) s / n), of x before padding. Batch
    statistics are taken over N * h * w positions (momentum 0.9, epsilon 1e-5). Means
    and statistics are float32 under mixed precision.

    Args:
        filters: Number of output channels, a multiple of `groups`.
        kernel_size: Integer or pair (h, w), odd or even.
        strides: This and the next up to `bias_constraint`: as of `keras.layers.Conv2D`.
            `padding` is "valid" or "same", and groups=C makes a depthwise convolution;
            initializers and constraints are of K and of the bias, and
            `kernel_regularizer` is of K and of the kernels of P1 and P2.
        reduction: C // reduction channels between P1 and P2.
        input_sharing: How many adjacent input channels of a group share a gate: a
            divisor of C / groups, or "all" of them.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C) -> (N, H', W', filters), or channels first; H' and W' as of
        `keras.layers.Conv2D`. N, H and W may be dynamic.

    Parameters: h w c filters (+ filters) + m (C + 2) + (m + 2) filters J trainable, and
    2 (m + filters J) running statistics.
    Multiply-adds without means: h w (H' W' c filters + C m + m filters J + c filters).
    Int8: with input_sharing="all", a 1x1 convolution, a product and a sum per place of
    the kernel; also with other runs of 48 channels or more in one group, once per run.
    Other gates (of fewer than 48 channels, or any but "all" with groups) deploy to a
    product of patches with a kernel of the image's own, in files of batch size 1 only;
    XNNPACK does not take it. Depthwise: a convolution by 1.5 K, plus a slice times
    (A - 0.5) K per place, which costs many times the convolution.

    Raises:
        ValueError: `filters` or `reduction` is not a positive integer, `input_sharing`
            neither that nor "all"; `groups` does not divide `filters`; strides and
            dilation are both above 1; padding, data format or activation is unknown; or
            (at build) the input is not of rank 4 with static C, or `groups` does not
            divide C, or `input_sharing` does not divide C / groups.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(AWConv2D(32, 3, strides=2, padding="same")(x).shape)
        (2, 7, 7, 32)

    Reference: https://arxiv.org/abs/2108.08205.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        data_format=None,
        dilation_rate=(1, 1),
        groups=1,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        *,
        reduction=16,
        input_sharing="all",
        **kwargs,
    ):
        super().__init__(
            _common.positive_int("filters", filters),
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.reduction = _common.positive_int("reduction", reduction)
        if input_sharing != "all":
            _common.positive_int('input_sharing, if not "all",', input_sharing)
        self.input_sharing = input_sharing

    def build(self, input_shape):
        """Builds the kernel and the gates for the channels of `input_shape`."""
        channels = input_shape[_common.channel_axis(self, input_shape)]
        super().build(input_shape)
        shared = own = channels // self.groups
        if self.input_sharing != "all":
            shared = self.input_sharing
        if own % shared:
            raise ValueError(
                f"layer {self.name!r}: input_sharing must divide the input channels of "
                f"a group, {channels} / {self.groups} = {own}; received {shared}"
            )
        hidden = max(1, channels // self.reduction)
        gates = self.filters * (own // shared)
        self.reduce = self._pointwise(channels, hidden, "reduce")
        self.reduce_norm = _common.batch_norm(self, hidden, "reduce_norm")
        self.expand = self._pointwise(hidden, gates, "expand")
        self.expand_norm = _common.batch_norm(self, gates, "expand_norm")

    def _pointwise(self, inputs, outputs, name):
        options = {"use_bias": False, "kernel_initializer": "he_normal"}
        return _common.conv(self, inputs, outputs, name, **options)

    def call(self, x, training=None):
        """Returns every sample convolved with its own kernel, K + A * K."""
        first = self.data_format == "channels_first"
        if first:
            x = ops.transpose(x, (0, 2, 3, 1))
        a = _aw_forms.adaptive_mean(x, self.kernel_size)  # (N, h, w, C), float32
        a = ops.relu(self.reduce_norm(self.reduce(a), training=training))
        a = self.expand_norm(self.expand(a), training=training)
        y = _aw_forms.convolve(
            x,
            self.kernel,
            ops.sigmoid(a),  # (N, h, w, filters * J)
            self.groups,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation_rate,
        )  # (N, H', W', filters)
        y = y + self.bias if self.use_bias else y
        y = ops.transpose(y, (0, 3, 1, 2)) if first else y
        return self.activation(y)

    def warm_start(self):
        """Makes A constant, its last norm 0; returns 1 + A, 3/2, for the kernel.

        With that divided out of its kernel the layer is a plain convolution.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        _common.zero(self.expand_norm.gamma, self.expand_norm.beta)
        return 1 + _common.at_zero(self, ops.sigmoid)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        No kernel is made in the graph where gates are shared: the result of a constant
        1x1 convolution is gated instead, for each place of the kernel. What the places
        see are slices of the padded map; where gates are not shared, these are
        multiplied by a kernel of the image's own. Depthwise, a convolution by 1.5 K is
        exact to one rounding, and the slices add (A - 0.5) K.

        Returns:
            A function (N, H, W, C) -> (N, H', W', filters), H and W static. Its layers
            are made once; their names begin with this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        return _aw_mobile.function(self, ops.convert_to_numpy(self.kernel))

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "input_sharing": self.input_sharing,
        }

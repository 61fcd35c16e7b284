"""SA-Net: Shuffle Attention for Deep Convolutional Neural Networks.

Zhang and Yang, ICASSP 2021, arXiv 2102.00240; official code: wofmanaf/SA-Net.

Channels are cut into groups, and each group into two halves. One half gets a gate per
channel, from its mean; the other a gate per position, from its normalized map. Then the
channels are shuffled, so that the next layer's groups see all of these.

Differences from the reference: none in the mathematics. `groups=None` is an addition.
"""

import keras
from keras import ops

from keras_attention.layers import _common, _shuffle_attention_mobile
from keras_attention.registry import register

EPSILON = 1e-5  # of the normalization
_MAX_GROUPS = 64


@register("sa")
@keras.saving.register_keras_serializable(package="keras_attention")
class ShuffleAttention(keras.layers.Layer):
    """Shuffle attention: channel gates on one half of each group, maps on the other.

    The channels are cut into G contiguous groups of two halves of c = C / 2G channels,
    A and B; all weights have c numbers, which the groups share:

        A' = A * sigmoid(w_1 mean(A) + b_1)            a gate per channel
        B' = B * sigmoid(w_2 GN(B) + b_2)              one channel per norm, affine
        Y = [A', B']
        y[2i + j] = Y[j C / 2 + i]                     the channel shuffle

    The normalization has the variance of each sample's map and epsilon 1e-5. All
    statistics and logits are computed in float32 under mixed precision.

    Args:
        groups: G. None is the largest divisor of C / 2 up to 64.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic.

    Parameters: 6c = 3C / G. Scales w_1 and w_2 start at 0, shifts at 1: all gates start
    alike.
    Multiply-adds without means: 2HWC; deployed HW(4C + C^2), where C^2 is the shuffle,
    a 1x1 convolution with a constant kernel of zeros and ones.
    Int8: the variance is taken of channels that calibration has brought to variance 1
    (`stock.equalizer`), and its root by exp and log, which XNNPACK leaves to TFLite.

    Raises:
        ValueError: `groups` is neither None nor a positive integer, the data format is
            unknown, or (at build) the input is not of rank 4 with static, even C, or
            `groups` does not divide C / 2.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(ShuffleAttention(groups=8)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/2102.00240, section 3.
    """

    def __init__(self, groups=64, *, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.groups = None if groups is None else _common.positive_int("groups", groups)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the weights for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape)
        channels = input_shape[axis]
        if channels % 2:
            raise ValueError(
                f"layer {self.name!r} needs an even number of channels; received "
                f"{channels}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})
        self._axis = axis
        self._group_count = _common.group_count(
            self, channels // 2, _MAX_GROUPS, f"half of the {channels} channels"
        )
        width = channels // (2 * self._group_count)

        def weight(name, initializer):
            # In full precision, as the statistics that they scale and shift.
            return self.add_weight(
                name=name, shape=(width,), initializer=initializer, autocast=False
            )

        self.channel_scale = weight("channel_scale", "zeros")
        self.channel_shift = weight("channel_shift", "ones")
        self.spatial_scale = weight("spatial_scale", "zeros")
        self.spatial_shift = weight("spatial_shift", "ones")
        self.gamma = weight("gamma", "ones")
        self.beta = weight("beta", "zeros")

    def call(self, x):
        """Returns x gated, its channels shuffled, as in the authors' code."""
        axes = _common.spatial_axes(self, 4)
        wide = ops.cast(x, keras.backend.result_type(self.compute_dtype, "float32"))
        mean = ops.mean(wide, axes, keepdims=True)  # (N, 1, 1, C)
        centered = wide - mean  # (N, H, W, C)
        variance = ops.mean(centered * centered, axes, keepdims=True)
        # Both halves by one formula: k is 0 in the first, w_1 in the second.
        none = ops.zeros(self.gamma.shape, self.gamma.dtype)
        w_1 = self._per_channel(self.channel_scale, none)
        k = self._per_channel(none, self.spatial_scale * self.gamma)
        shift = self.spatial_scale * self.beta + self.spatial_shift
        o = mean * w_1 + self._per_channel(self.channel_shift, shift)
        gate = ops.sigmoid(centered * (k * ops.rsqrt(variance + EPSILON)) + o)
        return self._shuffled(x * ops.cast(gate, x.dtype))

    def _per_channel(self, first, second):
        """Returns the numbers of both halves, (c,) each, for all groups."""
        numbers = ops.tile(ops.concatenate([first, second]), (self._group_count,))
        return _common.per_channel(self, numbers, 4)

    def _shuffled(self, x):
        """Returns x with its second half of channels dealt into its first."""
        shape, axis = list(ops.shape(x)), self._axis
        halves = ops.reshape(x, [*shape[:axis], 2, -1, *shape[axis + 1 :]])
        return ops.reshape(ops.swapaxes(halves, axis, axis + 1), shape)

    def warm_start(self):
        """Raises ValueError: no weights undo its shuffle of the channels."""
        reason = "it shuffles the channels, whatever its weights"
        raise _common.no_warm_start(self, reason)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        The shuffle is a 1x1 convolution with a constant kernel, both halves are
        computed as one map. See `_shuffle_attention_mobile`.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), H and W static. Its layers are made
            once, however often it is called; their names begin with this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        return _shuffle_attention_mobile.mobile_form(self, EPSILON)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "groups": self.groups,
            "data_format": self.data_format,
        }

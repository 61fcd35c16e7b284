"""Spatial Group-wise Enhance: Improving Semantic Feature Learning.

Li, Hu and Yang, 2019, arXiv 1905.09646; official code: implus/PytorchInsight.

A group of channels is meant to hold one feature. Its mean over all positions stands for
that feature; positions that resemble the mean, by a dot product, are enhanced, the
others suppressed. Two numbers per group are all that is learned.

Differences from the reference: none for maps of two positions and more. A map of one
has deviation 0 here, where the authors divide 0 by 0, and the gradient of a deviation
of 0 is 0. `groups=None` is an addition.
"""

import math

import keras
from keras import ops

from keras_attention.layers import _common, _spatial_group_enhance_mobile
from keras_attention.registry import register

EPSILON = 1e-5  # added to the deviation
_MAX_GROUPS = 64
_TINY = 1e-30  # far below any variance that counts beside EPSILON


@register("sge")
@keras.saving.register_keras_serializable(package="keras_attention")
class SpatialGroupEnhance(keras.layers.Layer):
    """Spatial group-wise enhancement: one map per group of channels.

    The channels are cut into G contiguous groups. With X a group of x, z its means over
    the n positions, and std the deviation that divides by max(n - 1, 1):

        t = sum_c X_c z_c                               one map per group
        Y = X * sigmoid(gamma (t - mean(t)) / (std(t) + 1e-5) + beta)

    t and its statistics are computed in float32 under mixed precision.

    Args:
        groups: G. None is the largest divisor of the channels up to 64.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic.

    Parameters: 2G: gamma, which starts at 0, and beta, at 1. All gates start alike.
    Multiply-adds without means: HW(3C + 3G); deployed HW(2C + 3G + 2CG), where 2CG are
    two dense 1x1 convolutions with 0/1 kernels (sums over groups, and back).
    Int8: two products on the full map. The deviation is taken of groups that
    calibration has brought to deviation 1 (`stock.equalizer`).

    Raises:
        ValueError: `groups` is neither None nor a positive integer, the data format is
            unknown, or (at build) the input is not of rank 4 with static C, or `groups`
            does not divide C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(SpatialGroupEnhance(groups=8)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/1905.09646, section 3.
    """

    def __init__(self, groups=64, *, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.groups = None if groups is None else _common.positive_int("groups", groups)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the weights for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape)
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})
        self._axis = axis
        self._group_count = _common.group_count(self, channels, _MAX_GROUPS)
        # In full precision: they scale and shift what has mean 0 and deviation 1.
        options = {"shape": (self._group_count,), "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="zeros", **options)
        self.beta = self.add_weight(name="beta", initializer="ones", **options)

    def call(self, x):
        """Returns x times the map of each group, as in the authors' code."""
        axes, shape = _common.spatial_axes(self, 4), ops.shape(x)
        wide = ops.cast(x, keras.backend.result_type(self.compute_dtype, "float32"))
        z = ops.mean(wide, axes, keepdims=True)  # (N, 1, 1, C)
        t = self._group_sum(wide * z)  # (N, H, W, G)
        t = t - ops.mean(t, axes, keepdims=True)
        n = ops.cast(math.prod(shape[axis] for axis in axes), t.dtype)
        v = ops.sum(t * t, axes, keepdims=True) / ops.maximum(n - 1, 1)
        t = t / (ops.sqrt(ops.maximum(v, _TINY)) + EPSILON)
        gamma, beta = (
            _common.per_channel(self, ops.cast(w, t.dtype), 4)
            for w in (self.gamma, self.beta)
        )
        gate = ops.cast(ops.sigmoid(t * gamma + beta), x.dtype)
        width = x.shape[self._axis] // self._group_count
        return x * ops.repeat(gate, width, axis=self._axis)

    def _group_sum(self, x):
        """Returns the sums over the channels of each group, (N, H, W, G)."""
        shape = list(ops.shape(x))
        shape[self._axis : self._axis + 1] = [self._group_count, -1]
        return ops.sum(ops.reshape(x, shape), axis=self._axis + 1)

    def warm_start(self):
        """Makes the gate constant, gamma and beta 0; returns its value, 1/2.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        _common.zero(self.gamma, self.beta)
        return _common.at_zero(self, ops.sigmoid)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        Sums over groups, and the way back to channels, are 1x1 convolutions with
        constant kernels. See `_spatial_group_enhance_mobile`.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), H and W static. Its layers are made
            once, however often it is called; their names begin with this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        return _spatial_group_enhance_mobile.mobile_form(self, EPSILON)

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

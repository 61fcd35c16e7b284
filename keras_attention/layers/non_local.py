"""Non-local Neural Networks.

Wang, Girshick, Gupta and He, CVPR 2018, arXiv 1711.07971; official code:
facebookresearch/video-nonlocal-net.

Every position receives a weighted mean of features of all positions, near or far. The
weights are a softmax of products of two embeddings, the paper's embedded Gaussian, with
its subsampling: features are gathered from a map of half the height and width.

Differences from the reference: `min_channels` is an addition, and so is that an axis of
one row, column or both is not pooled.
"""

import math

import keras
from keras import ops

from keras_attention.layers import _common
from keras_attention.layers._non_local_mobile import mobile_form
from keras_attention.registry import register

_INITIALIZER = {"class_name": "RandomNormal", "config": {"stddev": 0.01}}


@register("nl")
@keras.saving.register_keras_serializable(package="keras_attention")
class NonLocal(keras.layers.Layer):
    """Non-local block: each position attends to all of the pooled map.

    With L positions, M of them after pooling, m = max(min_channels, C // reduction),
    1x1 convolutions theta, phi, g (C -> m) and out (m -> C), and pool the maxima of 2x2
    windows:

        P = softmax over the M positions of theta(x) phi(pool(x))^T / sqrt(m)    (L, M)
        Z = P g(pool(x))                                                         (L, m)
        y = x + BN(out(Z))

    A last row or column without a partner is not in a window, and an axis of size 1 is
    not pooled. Video is pooled in height and width only. The normalization (momentum
    0.9, epsilon 1e-5) starts with gamma 0, so that the block starts as identity.
    Softmax and both products are computed in float32 under mixed precision.

    Args:
        reduction: C // reduction channels in the embeddings.
        min_channels: Least number of channels in the embeddings.
        pool: Whether phi and g see the pooled map; without it M = L.
        scale: Whether the scores are divided by sqrt(m).
        use_bias: Whether the four convolutions have biases.
        kernel_initializer: Of the four kernels; default: the authors' N(0, 0.01^2).
        bias_initializer: Of the four biases.
        kernel_regularizer: Of the four kernels.
        bias_regularizer: Of the four biases.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C) or, for video, (N, D, H, W, C); with "channels_first" (N, C, H, W)
        or (N, C, D, H, W). All but C may be dynamic.

    Parameters: 4Cm + 2C, with biases 3m + C more, and 2C running statistics. The bias
    of phi has no effect, and so no gradient: the softmax cancels it. Those of g and
    `out` are subtracted again by the normalization in training.
    Multiply-adds: 2(L + M)Cm + 2LMm, and a map of L x M values.
    Int8: exponentials take the place of the softmax and are normalized after the
    product, as a grid of 1/256 can't hold weights near 1/M. Positions with flat weights
    beside others with a sharp peak cost accuracy, as all share a range. Video models
    hold tensors of rank 5 and convert to floats only.

    Raises:
        ValueError: `reduction` or `min_channels` is not a positive integer, the data
            format is unknown, or (at build) the input is not of rank 4 or 5 with
            static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(NonLocal()(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/1711.07971, equations 4 and 6, and section 3.3.
    """

    def __init__(
        self,
        reduction=2,
        min_channels=1,
        *,
        pool=True,
        scale=True,
        use_bias=True,
        kernel_initializer=_INITIALIZER,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.reduction = _common.positive_int("reduction", reduction)
        self.min_channels = _common.positive_int("min_channels", min_channels)
        self.pool = pool
        self.scale = scale
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

        def pointwise(inputs, outputs, name):
            return _common.conv(self, inputs, outputs, name, use_bias=self.use_bias)

        self.theta = pointwise(channels, width, "theta")
        self.phi = pointwise(channels, width, "phi")
        self.g = pointwise(channels, width, "g")
        self.out = pointwise(width, channels, "out")
        self.norm = _common.batch_norm(self, channels, "norm", "zeros")

    def call(self, x, training=None):
        """Returns x plus what its positions receive of all positions."""
        first = self.data_format == "channels_first"
        y = ops.moveaxis(x, 1, -1) if first else x
        shape = ops.shape(y)
        # One axis of positions for images and video.
        rows = ops.reshape(y, (-1, 1, math.prod(shape[1:-1]), y.shape[-1]))
        wide = keras.backend.result_type(self.compute_dtype, "float32")
        pooled = _pooled(y) if self.pool else rows  # (N, 1, M, C)
        theta, phi, g = (
            ops.cast(ops.squeeze(conv(maps), 1), wide)
            for conv, maps in ((self.theta, rows), (self.phi, pooled), (self.g, pooled))
        )  # (N, L, m), (N, M, m), (N, M, m)
        if self.scale:
            theta = theta * theta.shape[-1] ** -0.5
        p = ops.matmul(theta, ops.transpose(phi, (0, 2, 1)))  # (N, L, M)
        z = ops.matmul(_common.softmax(p, axis=-1), g)  # (N, L, m)
        z = ops.cast(ops.expand_dims(z, 1), self.compute_dtype)
        y = self.norm(self.out(z), training=training)  # (N, 1, L, C)
        y = ops.reshape(y, shape)
        return x + (ops.moveaxis(y, -1, 1) if first else y)

    def warm_start(self):
        """Makes the branch 0 by its normalization; returns 1, the factor of the input.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        _common.zero(self.norm.gamma, self.norm.beta)
        return 1.0

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        See `_non_local_mobile`. Between its two ends all tensors are of rank 4 or less,
        for video, too.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), or of rank 5, all but N static. Its
            layers are made once, however often it is called; their names begin with
            this layer's name.

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
            "min_channels": self.min_channels,
            "pool": self.pool,
            "scale": self.scale,
            "use_bias": self.use_bias,
            **_common.conv_config(self),
            "data_format": self.data_format,
        }


def _pooled(x):
    """Returns the maxima of 2x2 windows of maps, or of each frame: (N, 1, M, C)."""
    *frames, height, width, channels = ops.shape(x)
    options = {"data_format": "channels_last"}
    maps = ops.reshape(x, (-1, height, width, channels))  # frames are samples
    if None in x.shape[1:]:
        # A dynamic axis may turn out to be of size 1: windows are padded, those that
        # hold padding are cut off, but not the only one.
        y = ops.max_pool(maps, 2, 2, padding="same", **options)
        height, width = (_half(size) for size in (height, width))
        y = y[:, :height, :width]
    else:
        window = min(height, 2), min(width, 2)
        y = ops.max_pool(maps, window, window, **options)
        height, width = y.shape[1:3]
    return ops.reshape(y, (-1, 1, math.prod(frames[1:]) * height * width, channels))


def _half(size):
    return max(size // 2, 1) if isinstance(size, int) else ops.maximum(size // 2, 1)

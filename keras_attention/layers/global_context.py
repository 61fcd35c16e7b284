"""GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond.

Cao, Xu, Lin, Wei and Hu, ICCV workshops 2019, arXiv 1904.11492; official code:
xvjiarui/GCNet.

Non-local blocks learn nearly the same attention map for all positions. So one map for
the whole image is enough: it weighs the positions, their weighted mean goes through a
normalized bottleneck, and what comes out is added to every position.

Differences from the reference: one of its two fusions at a time. `min_channels` is an
addition.
"""

import math
import types

import keras
from keras import ops

from keras_attention.layers import _common
from keras_attention.layers._global_context_mobile import mobile_form
from keras_attention.registry import register

EPSILON = 1e-5  # of the normalization
_FUSIONS = ("add", "mul")


@register("gc")
@keras.saving.register_keras_serializable(package="keras_attention")
class GlobalContext(keras.layers.Layer):
    """Global context: one weighted mean of all positions, given to each of them.

    With L positions, m = max(min_channels, C // reduction), and LN the normalization
    over the m channels (epsilon 1e-5, with gamma and beta):

        p = softmax over the L positions of x w          w: C -> 1
        c = p^T x                                        (C,)
        t = W2 relu(LN(W1 c + b1)) + b2                  W1: C -> m, W2: m -> C
        y[i, j] = x[i, j] + t                            fusion "add"
        y[i, j] = x[i, j] * sigmoid(t)                   fusion "mul"

    Softmax, weighted mean and normalization are computed in float32 under mixed
    precision.

    Args:
        reduction: C // reduction channels in the bottleneck.
        min_channels: Least number of channels in the bottleneck. What is normalized
            over one channel is always beta: with less than two the block does not see
            its input.
        fusion: "add" or "mul".
        kernel_initializer: Of W1; default: U(-1, 1) / sqrt(fan-in), the authors'
            (PyTorch's own). That of w is N(0, 2 / fan-in), and W2 starts as zeros: with
            "add" the block starts as identity.
        bias_initializer: Of b1; None is the same numbers as for W1. The bias of w and
            b2 start as zeros.
        kernel_regularizer: Of the three kernels.
        bias_regularizer: Of the three biases.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C) or, for video, (N, D, H, W, C); with "channels_first" (N, C, H, W)
        or (N, C, D, H, W). All but C may be dynamic.

    Parameters: 2Cm + 2C + 3m + 1. The one is the bias of w, which has no effect, and so
    no gradient: the softmax over positions cancels it.
    Multiply-adds: 2LC + 2Cm, and LC of them for "mul".
    Int8: an exponential takes the place of the softmax, as a grid of 1/256 can't hold
    weights near 1/L, and the mean is one matrix product. The variance of the m channels
    has the guard of all variances here (`stock.equalizer`). Two channels normalize to
    little more than signs, which int8 may turn (error up to 39 %, docs/int8.md): take
    min_channels=8.
    Video models convert to floats only.

    Raises:
        ValueError: `reduction` or `min_channels` is not a positive integer, `fusion` or
            the data format is unknown, or (at build) the input is not of rank 4 or 5
            with static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(GlobalContext(reduction=4)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/1904.11492, equation 5.
    """

    def __init__(
        self,
        reduction=16,
        min_channels=1,
        *,
        fusion="add",
        kernel_initializer=_common.TORCH_INITIALIZER,
        bias_initializer=None,
        kernel_regularizer=None,
        bias_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.reduction = _common.positive_int("reduction", reduction)
        self.min_channels = _common.positive_int("min_channels", min_channels)
        if fusion not in _FUSIONS:
            raise ValueError(f"fusion must be one of {_FUSIONS}; received {fusion!r}")
        self.fusion = fusion
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
        zeros = {"bias_initializer": "zeros"}
        he_normal = keras.initializers.VarianceScaling(
            2.0, "fan_in", "untruncated_normal"
        )
        self.mask = _common.conv(
            self, channels, 1, "mask", kernel_initializer=he_normal, **zeros
        )
        self.reduce = _common.conv(self, channels, width, "reduce")
        # In full precision: they scale and shift what has mean 0 and variance 1.
        options = {"shape": (width,), "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **options)
        self.beta = self.add_weight(name="beta", initializer="zeros", **options)
        self.expand = _common.conv(
            self, width, channels, "expand", kernel_initializer="zeros", **zeros
        )
        # The authors' names tell the fusion: `weights.torch_names` asks for these two.
        parts = types.SimpleNamespace(
            reduce=self.reduce, gamma=self.gamma, beta=self.beta, expand=self.expand
        )
        self._adding = parts if self.fusion == "add" else None
        self._multiplying = parts if self.fusion == "mul" else None

    def call(self, x):
        """Returns x with what its context gives added to or gating each channel."""
        rank = len(x.shape)
        context = self._context(x)[:, None, None]  # (N, 1, 1, C)
        h = ops.relu(self._normalized(self.reduce(context)))  # (N, 1, 1, m)
        t = _common.per_channel(self, self.expand(h), rank)
        return x + t if self.fusion == "add" else x * ops.sigmoid(t)

    def _context(self, x):
        """Returns the weighted means over the positions, (N, C)."""
        wide = keras.backend.result_type(self.compute_dtype, "float32")
        shape = ops.shape(x)
        first = self.data_format == "channels_first"
        positions = math.prod(shape[2:] if first else shape[1:-1])
        channels = self.mask.kernel.shape[2]
        kernel = ops.reshape(ops.cast(self.mask.kernel, x.dtype), (channels, 1))
        # The map stays in its format; a matrix product sums over either axis of it.
        if first:
            x = ops.reshape(x, (-1, channels, positions))
            logits = ops.matmul(ops.transpose(kernel), x)  # (N, 1, L)
        else:
            x = ops.reshape(x, (-1, positions, channels))
            logits = ops.matmul(x, kernel)  # (N, L, 1)
        logits = ops.cast(logits, wide) + ops.cast(self.mask.bias, wide)
        p = _common.softmax(logits, axis=2 if first else 1)
        x = ops.cast(x, wide)
        if first:
            context = ops.matmul(x, ops.transpose(p, (0, 2, 1)))  # (N, C, 1)
        else:
            context = ops.matmul(ops.transpose(p, (0, 2, 1)), x)  # (N, 1, C)
        return ops.reshape(context, (-1, channels))

    def _normalized(self, h):
        """Returns h (..., m) normalized over its channels.

        The mean is subtracted first: of one channel nothing but beta is left then,
        where x * scale - mean * scale leaves what rounding does to large numbers.
        """
        h = ops.cast(h, keras.backend.result_type(self.compute_dtype, "float32"))
        h = h - ops.mean(h, axis=-1, keepdims=True)
        variance = ops.mean(h * h, axis=-1, keepdims=True)
        h = h * ops.rsqrt(variance + EPSILON) * self.gamma + self.beta
        return ops.cast(h, self.compute_dtype)

    def warm_start(self):
        """Makes what is fused constant, W2 and b2 0; returns 1 ("add") or 1/2 ("mul").

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        _common.zero(self.expand.kernel, self.expand.bias)
        return 1.0 if self.fusion == "add" else _common.at_zero(self, ops.sigmoid)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        See `_global_context_mobile`. Video is computed as a map of rank 4, its frames
        below each other.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), or of rank 5, all but N static. Its
            layers are made once, however often it is called; their names begin with
            this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        return _common.on_maps(mobile_form(self, EPSILON))

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "min_channels": self.min_channels,
            "fusion": self.fusion,
            **_common.conv_config(self),
            "data_format": self.data_format,
        }

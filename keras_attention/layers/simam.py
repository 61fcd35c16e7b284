"""SimAM: A Simple, Parameter-Free Attention Module.

Yang, Zhang, Li and Xie, ICML 2021 (PMLR 139); official code: ZjjConan/SimAM.

From neuroscience: active neurons suppress those around them, and so stand out. For each
value of a channel there is an energy, known in closed form, that is low where a linear
function tells the value from the rest of its map; low energies get high gates.

Differences from the reference: none for maps of two positions and more. A map of one
has variance 0 here, where the authors divide 0 by 0. Video is an addition.
"""

import math

import keras
from keras import ops

from keras_attention import stock
from keras_attention.layers import _common
from keras_attention.registry import register

_GATE_OF_ONE = 1 / (1 + math.exp(-0.5))


@register("simam")
@keras.saving.register_keras_serializable(package="keras_attention")
class SimAM(keras.layers.Layer):
    """SimAM: gates by how far each value stands out of its channel's map.

    With mu the mean of a channel over its n positions:

        d = (x - mu)^2
        v = sum d / max(n - 1, 1)
        y = x * sigmoid(d / (4 (v + e_lambda)) + 1/2)

    The argument of the sigmoid is the inverse of the energy. All of it is computed in
    float32 under mixed precision, as squares leave float16's range.

    Args:
        e_lambda: lambda, the coefficient of the energy's regularization.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C) or, for video, (N, D, H, W, C); with "channels_first" (N, C, H, W)
        or (N, C, D, H, W). All but C may be dynamic.

    Parameters: none.
    Multiply-adds without means: 3HWC; deployed 4HWC.
    Int8: the deployed form takes the variance of channels that calibration has brought
    to variance 1 (`stock.equalizer`), and its root by exp and log, which XNNPACK leaves
    to TFLite: 3 partitions. One value that stands far out, in any channel, widens the
    grid of all gates. Video models convert to floats only.

    Raises:
        ValueError: `e_lambda` is not a positive number, the data format is unknown, or
            (at build) the input is not of rank 4 or 5 with static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(SimAM()(x).shape)
        (2, 14, 14, 64)

    Reference: https://proceedings.mlr.press/v139/yang21o.html, equation 5 and figure 3.
    """

    def __init__(self, e_lambda=1e-4, *, data_format=None, **kwargs):
        super().__init__(**kwargs)
        number = isinstance(e_lambda, int | float) and not isinstance(e_lambda, bool)
        if not number or not 0 < e_lambda < math.inf:
            raise ValueError(
                f"e_lambda must be a positive number; received {e_lambda!r}"
            )
        self.e_lambda = e_lambda
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Checks the input's shape; there are no weights."""
        axis = _common.channel_axis(self, input_shape, ranks=(4, 5))
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={axis: input_shape[axis]}
        )

    def call(self, x):
        """Returns x gated by its inverse energies, as in the authors' code."""
        axes, shape = _common.spatial_axes(self, len(x.shape)), ops.shape(x)
        wide = ops.cast(x, keras.backend.result_type(self.compute_dtype, "float32"))
        d = ops.square(wide - ops.mean(wide, axes, keepdims=True))  # of the shape of x
        n = ops.cast(math.prod(shape[axis] for axis in axes), d.dtype)
        v = ops.sum(d, axes, keepdims=True) / ops.maximum(n - 1, 1)  # (N, 1, 1, C)
        gate = ops.sigmoid(d / (4 * (v + self.e_lambda)) + 0.5)
        return x * ops.cast(gate, x.dtype)

    def warm_start(self):
        """Raises ValueError: it has no weights that could make its gate constant."""
        reason = "it has no weights that could make its gate constant"
        raise _common.no_warm_start(self, reason)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        The quotient is the square of (x - mu) / sqrt(4 (v + e_lambda)), whose root
        spans half the orders of magnitude. On a map of one position it is 0, and the
        gate a number.

        Returns:
            A function of (N, H, W, C), or (N, D, H, W, C), to the same shape; all but N
            static. Its layers are made once, however often it is called; their names
            begin with this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        channels = self.input_spec.axes[self.input_spec.ndim - 1]
        equalizer = stock.equalizer(channels, name=self.name)
        guarded = stock.equalized_variance(channels, 4 * self.e_lambda, name=self.name)
        gate = stock.activation("sigmoid", name=f"{self.name}_gate")

        def function(x):
            n = math.prod(x.shape[1:3])
            if n == 1:  # No int8 grid holds a difference that is always 0.
                return x * _GATE_OF_ONE
            u = equalizer(x)  # (N, H, W, C)
            s = u - ops.mean(u, (1, 2), keepdims=True)
            v = ops.mean(s * s, (1, 2), keepdims=True) * (4 * n / max(n - 1, 1))
            q = s * ops.exp(ops.log(guarded(v)) * -0.5)
            return x * gate(q * q + 0.5)

        return _common.on_maps(function)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "e_lambda": self.e_lambda,
            "data_format": self.data_format,
        }

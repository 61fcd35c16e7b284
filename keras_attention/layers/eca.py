"""ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks.

Wang, Wu, Zhu, Li, Zuo and Hu, CVPR 2020, arXiv 1910.03151; official code:
BangguWu/ECANet.

The means of the channels, in their order, are one sequence. A convolution of a few taps
along it gives each channel a gate from its own mean and those of its neighbours, with
no bottleneck and hardly a parameter.

Differences from the reference: none.
"""

import math
import numbers

import keras
from keras import ops

from keras_attention import stock
from keras_attention.layers import _common
from keras_attention.registry import register


@register("eca")
@keras.saving.register_keras_serializable(package="keras_attention")
class ECA(keras.layers.Layer):
    """Efficient channel attention: a convolution along the channels' means.

        z = mean of x over the positions                           (C,)
        g[c] = sigmoid(sum_t w[t] z[c + t - (k - 1) / 2])          t from 0 to k - 1
        y[i, j] = x[i, j] * g

    Beyond the first and the last channel z is 0. There is no bias. Means are computed
    in float32 under mixed precision.

    Args:
        kernel_size: k, odd. None adapts it to the channels: k = int(|log2(C) / gamma
            + b / gamma|), and 1 more if that is even. The authors' ResNets were trained
            with 3, 5, 5, 7 in their stages, which is what has to be given to load them.
        gamma: Divisor of the adaptive size.
        b: Summand of the adaptive size.
        kernel_initializer: Of w; default: U(-1, 1) / sqrt(k), the authors' (PyTorch's
            own).
        kernel_regularizer: Of w.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C) or, for video, (N, D, H, W, C); with "channels_first" (N, C, H, W)
        or (N, C, D, H, W). All but C may be dynamic.

    Parameters: k.
    Multiply-adds without the mean: kC + HWC.
    Int8: one mean, one convolution of a 1xC map of one channel and one product on the
    full map; XNNPACK takes all of them. Video models convert to floats only.

    Raises:
        ValueError: `kernel_size` is neither None nor a positive odd integer, `gamma` is
            not a positive number, `b` is not a number, either is not finite, the data
            format is unknown, or (at build) the input is not of rank 4 or 5 with
            static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> layer = ECA()
        >>> tuple(layer(x).shape), layer.count_params()
        ((2, 14, 14, 64), 3)

    Reference: https://arxiv.org/abs/1910.03151, equations 9 and 12.
    """

    def __init__(
        self,
        kernel_size=None,
        gamma=2,
        *,
        b=1,
        kernel_initializer=_common.TORCH_INITIALIZER,
        kernel_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if kernel_size is not None:
            _common.odd_int("kernel_size", kernel_size)
        if not _is_number(gamma) or not gamma > 0:
            raise ValueError(f"gamma must be a positive number; received {gamma!r}")
        if not _is_number(b):
            raise ValueError(f"b must be a finite number; received {b!r}")
        self.kernel_size = kernel_size
        self.gamma = gamma
        self.b = b
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the convolution for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape, ranks=(4, 5))
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={axis: channels}
        )
        self.conv = keras.layers.Conv1D(
            1,
            self.kernel_size or self._adaptive_size(channels),
            padding="same",
            use_bias=False,
            data_format="channels_last",
            kernel_initializer=self.kernel_initializer,
            kernel_regularizer=self.kernel_regularizer,
            dtype=self.dtype_policy,
            trainable=self.trainable,
            name="conv",
        )
        self.conv.build((None, channels, 1))

    def _adaptive_size(self, channels):
        """Returns the odd kernel size for so many channels."""
        size = int(abs((math.log2(channels) + self.b) / self.gamma))
        return size if size % 2 else size + 1

    def call(self, x):
        """Returns x with each channel gated."""
        rank = len(x.shape)
        # Whatever the dtype of x, Keras sums means in float32.
        z = ops.mean(x, axis=_common.spatial_axes(self, rank))  # (N, C)
        f = ops.squeeze(self.conv(z[..., None]), -1)  # (N, C)
        return x * _common.per_channel(self, ops.sigmoid(f), rank)

    def warm_start(self):
        """Makes the gate constant, its kernel 0; returns its value, 1/2.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        _common.zero(self.conv.kernel)
        return _common.at_zero(self, ops.sigmoid)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        The channels' means are a row of pixels there, along which a 2D convolution of
        one channel runs. Video is computed as a map of rank 4.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), or of rank 5, all but N static. Its
            layers are made once, however often it is called; their names begin with
            this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        kernel = ops.convert_to_numpy(self.conv.kernel)[None]  # (1, k, 1, 1)
        conv = keras.layers.Conv2D(
            1,
            kernel.shape[:2],
            padding="same",
            use_bias=False,
            data_format="channels_last",
            dtype="float32",
            name=f"{self.name}_conv",
            trainable=self.conv.trainable,
        )
        conv = stock.filled(conv, (None, None, None, 1), [kernel])
        gate = stock.activation("sigmoid", name=f"{self.name}_gate")

        def function(x):
            channels = x.shape[-1]
            z = ops.mean(x, axis=(1, 2), keepdims=True)  # (N, 1, 1, C)
            f = conv(ops.reshape(z, (-1, 1, channels, 1)))
            return x * gate(ops.reshape(f, (-1, 1, 1, channels)))

        return _common.on_maps(function)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "gamma": self.gamma,
            "b": self.b,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "data_format": self.data_format,
        }


def _is_number(value):
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(value)

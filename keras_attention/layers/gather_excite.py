"""Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks.

Hu, Shen, Albanie, Sun and Vedaldi, NeurIPS 2018, arXiv 1810.12348; official code:
hujie-frank/GENet.

Squeeze and excitation gathers each channel over the whole map. Here the extent of the
gathering is an argument, from windows of a few positions to all of them, and it is a
mean, a learned depthwise convolution, or that with a bottleneck over channels behind.

Differences from the reference, which is given in figures and in words: sizes that
`extent` does not divide are rounded up, windows are centred on every extent-th
position, and their means do not count what is beyond the map.
"""

import math

import keras
from keras import ops

from keras_attention.layers import _common
from keras_attention.layers._gather_excite_mobile import mobile_form
from keras_attention.registry import register

VARIANTS = ("theta_minus", "theta", "theta_plus")
EXTENTS = (0, 2, 4, 8)


@register("ge")
@keras.saving.register_keras_serializable(package="keras_attention")
class GatherExcite(keras.layers.Layer):
    """Gather-excite: gates from the neighbourhood of each position.

    With e = extent, and h = ceil(H / e) by w = ceil(W / e) cells (1 by 1 if e is 0):

        z = gather(x)                                  (h, w, C)
        f = W2 ReLU(W1 z + b1) + b2                    "theta_plus"; else f = z
        y[i, j] = x[i, j] * sigmoid(f[floor(i h / H), floor(j w / W)])

    gather, by `variant`:

        "theta_minus"  means of windows of 2e - 1 by 2e - 1 positions, cell (i, j)
                       centred on (i e, j e), without what is beyond the map
        "theta", "theta_plus"  log2(e) times a depthwise 3x3 convolution of stride 2,
                       padded by 1 on all sides, and BN; ReLU between them
        with e = 0     the mean, or a depthwise convolution as large as the map, and BN

    Batch statistics (momentum 0.9, epsilon 1e-5), means, and the sum over the map are
    computed in float32 under mixed precision.

    Args:
        variant: "theta_minus" (no parameters), "theta" or "theta_plus".
        extent: 2, 4 or 8; 0 is the whole map.
        reduction: C // reduction channels between W1 and W2.
        kernel_initializer: Of all kernels.
        bias_initializer: Of b1 and b2.
        kernel_regularizer: Of all kernels.
        bias_regularizer: Of b1 and b2.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic,
        but H and W not where a convolution gathers the whole map.

    Parameters, with m = max(1, C // reduction): "theta" (9C + 2C) log2(e), or HWC + 2C
    with e = 0; "theta_plus" 2Cm + m + C more; 2C running statistics for each BN.
    Multiply-adds: HWC for the gates; "theta" 9HWC / 4 (1 + 1/4 + ...), with e = 0 HWC;
    "theta_plus" 2hwCm more.
    Int8: means of windows deploy to short depthwise convolutions along W and H; gates
    are spread by GATHER, which XNNPACK does not take.

    Raises:
        ValueError: `variant`, `extent` or the data format is unknown, `reduction` is
            not a positive integer, or (at build) the input is not of rank 4 with static
            C, and with static H and W where they have to be.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(GatherExcite("theta_plus", extent=4)(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/1810.12348, sections 2 and 3.
    """

    def __init__(
        self,
        variant="theta_plus",
        extent=0,
        *,
        reduction=16,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}; received {variant!r}")
        if type(extent) is not int or extent not in EXTENTS:
            raise ValueError(f"extent must be one of {EXTENTS}; received {extent!r}")
        self.variant = variant
        self.extent = extent
        self.reduction = _common.positive_int("reduction", reduction)
        _common.set_conv_initializers(self, kernel_initializer, bias_initializer)
        _common.set_conv_regularizers(self, kernel_regularizer, bias_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the sub-layers for the shape of the input."""
        axis = _common.channel_axis(self, input_shape)
        channels, fixed = input_shape[axis], {axis: input_shape[axis]}
        self.convs, self.norms, self.reduce, self.expand = [], [], None, None
        if self.variant != "theta_minus":
            size = 3
            if not self.extent:
                axes = _common.spatial_axes(self, 4)
                size = tuple(input_shape[axis] for axis in axes)
                if None in size:
                    raise ValueError(
                        f"layer {self.name!r} with extent=0 and variant="
                        f"{self.variant!r} needs static height and width; received "
                        f"shape {tuple(input_shape)}"
                    )
                fixed |= dict(zip(axes, size, strict=True))
            for number in range(int(math.log2(self.extent)) if self.extent else 1):
                conv = self._depthwise(channels, size, f"gather_{number}")
                norm = _common.batch_norm(self, channels, f"gather_norm_{number}")
                self.convs.append(conv)
                self.norms.append(norm)
        if self.variant == "theta_plus":
            width = max(1, channels // self.reduction)
            self.reduce = _common.conv(self, channels, width, "reduce")
            self.expand = _common.conv(self, width, channels, "expand")
        self.input_spec = keras.layers.InputSpec(ndim=4, axes=fixed)

    def _depthwise(self, channels, size, name):
        conv = keras.layers.DepthwiseConv2D(
            size,
            strides=2 if self.extent else 1,
            use_bias=False,
            data_format="channels_last",
            depthwise_initializer=_common.own_initializer(self.kernel_initializer),
            depthwise_regularizer=self.kernel_regularizer,
            dtype=self.dtype_policy,
            trainable=self.trainable,
            name=name,
        )
        conv.build((None, None, None, channels))
        return conv

    def call(self, x, training=None):
        """Returns x with each position gated by its cell."""
        first = self.data_format == "channels_first"
        if self.variant == "theta_minus":
            g = self._means(x)
            g = ops.transpose(g, (0, 2, 3, 1)) if first else g
        else:
            g = ops.transpose(x, (0, 2, 3, 1)) if first else x
            for number, (conv, norm) in enumerate(
                zip(self.convs, self.norms, strict=True)
            ):
                g = ops.relu(g) if number else g
                g = norm(self._convolve(g, conv), training=training)
        if self.reduce is not None:
            g = self.expand(ops.relu(self.reduce(g)))  # (N, h, w, C)
        g = ops.sigmoid(g)
        g = ops.transpose(g, (0, 3, 1, 2)) if first else g
        for axis in _common.spatial_axes(self, 4) if self.extent else ():
            g = _spread(g, ops.shape(x)[axis], axis)
        return x * g

    def _means(self, x):
        """Returns the means of all windows, in the layout of x."""
        height, width = axes = _common.spatial_axes(self, 4)
        # Whatever the dtype of x, Keras sums means in float32; products of matrices
        # are asked to.
        if not self.extent:
            return ops.mean(x, axis=axes, keepdims=True)
        shape, wide = ops.shape(x), keras.backend.result_type(x.dtype, "float32")
        rows, columns = (
            _averaging(shape[axis], self.extent, wide) for axis in (height, width)
        )
        y = ops.cast(x, wide)
        if height == 2:
            y = ops.matmul(ops.matmul(rows, y), ops.transpose(columns))
        else:
            lines = (-1, shape[1], shape[2] * shape[3])
            y = ops.matmul(rows, ops.reshape(y, lines))
            y = ops.reshape(y, (-1, ops.shape(rows)[0], shape[2], shape[3]))
            y = ops.matmul(columns, y)
        return ops.cast(y, x.dtype)

    def _convolve(self, x, conv):
        """Returns one depthwise convolution of the gathering, channels last."""
        if self.extent:
            return conv(ops.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]))
        # A convolution as large as the map has one position. As a sum it is trained
        # six times as fast as by the library's loop over windows (28x28, one CPU).
        wide = keras.backend.result_type(self.compute_dtype, "float32")
        product = ops.cast(x * conv.kernel[..., 0], wide)
        return ops.cast(ops.sum(product, (1, 2), True), x.dtype)

    def warm_start(self):
        """Makes the gate constant, last kernel or norm 0; returns its value, 1/2.

        Raises:
            ValueError: The layer is not built, or `variant` is "theta_minus".
        """
        _common.check_built(self)
        if self.variant == "theta_minus":
            raise _common.no_warm_start(self, 'variant="theta_minus" has no weights')
        if self.expand is not None:
            _common.zero(self.expand.kernel, self.expand.bias)
        else:
            _common.zero(self.norms[-1].gamma, self.norms[-1].beta)
        return _common.at_zero(self, ops.sigmoid)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C), H and W static. Its layers are made
            once for each size; their names begin with this layer's name.

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
            "variant": self.variant,
            "extent": self.extent,
            "reduction": self.reduction,
            **_common.conv_config(self),
            "data_format": self.data_format,
        }


def _averaging(size, extent, dtype):
    """Returns the matrix (cells, size) that takes the means of one axis."""
    centre = ops.arange(0, size, extent)[:, None]
    inside = ops.cast(ops.abs(ops.arange(size)[None] - centre) < extent, dtype)
    return inside / ops.sum(inside, axis=1, keepdims=True)


def _spread(g, size, axis):
    """Returns the nearest of the cells along an axis for `size` positions."""
    cells = ops.shape(g)[axis]
    if isinstance(size, int) and isinstance(cells, int) and size % cells == 0:
        return ops.repeat(g, size // cells, axis)
    return ops.take(g, ops.arange(size) * cells // size, axis)

"""The mobile form of GatherExcite, made of stock layers.

XNNPACK's depthwise convolution is fast up to 25 taps and ten times slower per tap above
them. So the mean of a large window is taken along W, then along H: in the first
convolution rows are samples, in the second the positions of a row are channels, since
TensorFlow has no strides that differ between axes. And a convolution as large as the
map is cut into many of at most 25 taps, whose results are summed.
"""

import numpy as np
from keras import layers, ops

from keras_attention import stock

_TAPS = 25


def mobile_form(layer):
    """Returns what a built, channels-last `GatherExcite` computes at inference.

    Args:
        layer: The `GatherExcite`.

    Returns:
        A function (N, H, W, C) -> (N, H, W, C), H and W static. Its layers are called
        `<layer>_<role>`.
    """
    gather = _gather(layer)
    gate = stock.activation("sigmoid", name=f"{layer.name}_gate")
    if layer.reduce is not None:
        reduce = stock.pointwise_copy(layer.reduce, name=f"{layer.name}_reduce")
        expand = stock.pointwise_copy(layer.expand, name=f"{layer.name}_expand")

    def function(x):
        g = gather(x)  # (N, h, w, C)
        if layer.reduce is not None:
            g = expand(ops.relu(reduce(g)))
        g = gate(g)
        for axis in (2, 1):  # the one that makes less of it first
            size, cells = x.shape[axis], g.shape[axis]
            if 1 < cells < size:
                nearest = np.arange(size) * cells // size
                g = ops.take(g, nearest.astype("int32"), axis)
        return x * g

    return function


def _gather(layer):
    if layer.variant == "theta_minus":
        if layer.extent:
            return _WindowMeans(layer.name, layer.extent)
        return lambda x: ops.mean(x, axis=(1, 2), keepdims=True)
    if not layer.extent:
        return _global_convolution(layer)
    convolutions = [
        stock.folded(conv, norm, name=f"{layer.name}_gather_{number}")
        for number, (conv, norm) in enumerate(
            zip(layer.convs, layer.norms, strict=True)
        )
    ]

    def function(x):
        for number, conv in enumerate(convolutions):
            x = ops.relu(x) if number else x
            x = conv(ops.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]))
        return x

    return function


def _global_convolution(layer):
    """Returns the convolution as large as the map: partial sums, and their sum."""
    name = f"{layer.name}_gather_0"
    whole = stock.folded(layer.convs[0], layer.norms[0], name=name)
    kernel, bias = whole.get_weights()
    height, width, channels = kernel.shape[:3]
    size = height * width
    taps = next(d for d in range(min(_TAPS, size), 0, -1) if size % d == 0)
    parts = size // taps
    partial = layers.DepthwiseConv2D(
        (taps, 1),
        data_format="channels_last",
        dtype="float32",
        name=name,
        trainable=whole.trainable,
    )
    weights = [
        kernel.reshape(taps, 1, parts * channels, 1),
        np.tile(bias / parts, parts),
    ]
    partial = stock.filled(partial, (None, taps, 1, parts * channels), weights)

    def function(x):
        sums = partial(ops.reshape(x, (-1, taps, 1, parts * channels)))
        sums = ops.reshape(sums, (-1, 1, parts, channels))
        return ops.sum(sums, axis=2, keepdims=True) if parts > 1 else sums

    return function


class _WindowMeans:
    """Means of windows of 2e - 1 around every e-th position; their kernels are fixed.

    Sums are divided by 2e - 1 everywhere, and corrected where windows reach beyond the
    map. Kernels depend on the width: there are some for each that is met.
    """

    def __init__(self, name, extent):
        self._name, self._extent, self._layers = name, extent, {}

    def __call__(self, x):
        _, height, width, channels = x.shape
        window = 2 * self._extent - 1
        row_gain, column_gain = self._gain(height), self._gain(width)
        rows, columns = len(row_gain), len(column_gain)
        if window**2 <= _TAPS:
            kernel = np.full((window, window, channels), window**-2)
            z = self._convolve(self._padded(x, 1, 2), kernel, "means")
            gain = row_gain[:, None, None] * column_gain[:, None]
            return z * gain[None].astype("float32")
        # Width first: then the correction of the columns is part of a kernel.
        z = ops.reshape(x, (-1, 1, width, channels))
        kernel = np.full((1, window, channels), 1 / window)
        z = self._convolve(self._padded(z, 2), kernel, "means_w")
        z = ops.reshape(z, (-1, height, 1, columns * channels))
        kernel = np.full((window, 1, columns * channels), 1 / window)
        kernel = kernel * np.repeat(column_gain, channels)
        z = self._convolve(self._padded(z, 1), kernel, f"means_h_{width}")
        z = z * row_gain[None, :, None, None].astype("float32")
        return ops.reshape(z, (-1, rows, columns, channels))

    def _gain(self, size):
        """Returns window / (positions of it inside of the map) for each cell."""
        centre = np.arange(0, size, self._extent)
        inside = np.abs(np.arange(size) - centre[:, None]) < self._extent
        return (2 * self._extent - 1) / inside.sum(1)

    def _padded(self, x, *axes):
        """Pads so that the windows of all cells fit exactly."""
        pads = [(0, 0)] * 4
        for axis in axes:
            last = (x.shape[axis] - 1) // self._extent * self._extent
            pads[axis] = (self._extent - 1, last + self._extent - x.shape[axis])
        return ops.pad(x, pads)

    def _convolve(self, x, kernel, role):
        if role not in self._layers:
            conv = layers.DepthwiseConv2D(
                kernel.shape[:2],
                strides=self._extent,
                use_bias=False,
                data_format="channels_last",
                dtype="float32",
                name=f"{self._name}_{role}",
                trainable=False,
            )
            shape = (None, None, None, kernel.shape[2])
            self._layers[role] = stock.filled(conv, shape, [kernel[..., None]])
        return self._layers[role](x)

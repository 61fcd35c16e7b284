"""Convolution of every sample with its own kernel, in forms that are equal.

Maps are channels-last; all sizes but those of channels and kernels may be dynamic.
`gates` are (N, h, w, F * J): of the gates of output channel f, number j serves the j-th
of J equal runs of adjacent input channels (of the group that f belongs to).
"""

from keras import backend, ops

from keras_attention.layers import _common


def convolve(x, kernel, gates, groups, **geometry):
    """Convolves each sample with (1 + A) * K, in the form that is fastest here.

    Chosen by measurements on TensorFlow and a CPU, forward and backward: there, the
    library's convolution of one sample after the other wins while a map has more
    positions than channels, that is, while a kernel is smaller than the patches. It is
    left out elsewhere, where samples in turn would leave an accelerator idle.

    Args:
        x: Tensor (N, H, W, C).
        kernel: Tensor (h, w, C / groups, F): K.
        gates: Tensor (N, h, w, F * J): A.
        groups: Number of groups of channels.
        **geometry: `strides`, `padding` and `dilation`, as of `taps`.

    Returns:
        Tensor (N, H', W', F).
    """
    height, width, channels, filters = kernel.shape
    rows, columns = geometry["strides"]
    positions = (x.shape[1] or 0) * (x.shape[2] or 0) // (rows * columns)
    if channels == 1 and rows == columns:
        form = by_channels
    elif groups > 1:
        form = by_patches
    elif height * width > 1 and positions > channels and _common.on_tensorflow_cpu():
        form = by_samples
    elif gates.shape[-1] == filters:
        form = by_static_kernels
    else:
        form = by_patches
    return form(x, kernel, gates, groups, **geometry)


def adaptive_mean(x, windows):
    """Returns means over windows that divide a map as evenly as they can.

    Window i of n on an axis of size s holds the positions floor(i s / n) up to, and not
    including, ceil((i + 1) s / n): neighbours overlap where n does not divide s.

    Args:
        x: Tensor (N, H, W, C), summed in float32 if its own dtype is narrower.
        windows: (h, w), how many windows per axis; they may exceed H and W.

    Returns:
        Tensor (N, h, w, C), float32 or wider.
    """
    x = ops.cast(x, backend.result_type(x.dtype, "float32"))
    count, height, width, channels = ops.shape(x)
    rows = ops.reshape(x, (count, height, width * channels))
    rows = ops.matmul(_averaging(height, windows[0], x.dtype), rows)
    rows = ops.reshape(rows, (count, windows[0], width, channels))
    return ops.matmul(_averaging(width, windows[1], x.dtype), rows)


def _averaging(size, windows, dtype):
    """Returns the matrix (windows, size) that takes the means of one axis."""
    window, position = ops.arange(windows)[:, None], ops.arange(size)[None]
    begin, end = window * size // windows, -(-(window + 1) * size // windows)
    inside = ops.cast((begin <= position) & (position < end), dtype)
    return inside / ops.sum(inside, axis=1, keepdims=True)


def taps(x, kernel_size, strides, padding, dilation):
    """Returns what each place of a sliding kernel sees, row by row.

    Args:
        x: Tensor (N, H, W, C).
        kernel_size: (h, w).
        strides: Per axis.
        padding: "valid", or "same" as Keras pads.
        dilation: Per axis.

    Returns:
        h * w tensors (N, H', W', C): taps[i * w + j][:, p, q] is
        x[:, p * strides[0] + i * dilation[0], q * strides[1] + j * dilation[1]].
    """
    count, *sizes, channels = ops.shape(x)
    outputs, pads, cells = [], [], []
    for size, k, s, d in zip(sizes, kernel_size, strides, dilation, strict=True):
        extent = (k - 1) * d + 1
        if padding == "same":
            output = -(-size // s)
            total = _at_least_0((output - 1) * s + extent - size)
        else:
            output, total = (size - extent) // s + 1, 0
        cell = -(-(size + total) // s)
        before = total // 2
        outputs.append(output)
        cells.append(cell)
        pads.append((before, cell * s - size - before))
    x = ops.pad(x, [(0, 0), *pads, (0, 0)])
    (rows, columns), (s, t) = cells, strides
    # With the phases of a stride on axes of their own a tap is one dense slice, and its
    # gradient one padding; that of a strided slice takes 30 times as long on a CPU.
    x = ops.reshape(x, (count, rows, s, columns, t, channels))
    found = []
    for i in range(0, kernel_size[0] * dilation[0], dilation[0]):
        for j in range(0, kernel_size[1] * dilation[1], dilation[1]):
            start = (0, i // s, i % s, j // t, j % t, 0)
            shape = (count, outputs[0], 1, outputs[1], 1, channels)
            tap = ops.slice(x, start, shape)
            found.append(ops.reshape(tap, (count, *outputs, channels)))
    return found


def kernels(kernel, gates):
    """Returns the kernel (1 + gates) * kernel of every sample.

    Args:
        kernel: Tensor (h, w, c, F).
        gates: Tensor (N, h, w, F * J), J a divisor of c.

    Returns:
        Tensor (N, h, w, c, F).
    """
    height, width, channels, filters = kernel.shape
    runs = gates.shape[-1] // filters
    gates = ops.reshape(gates, (-1, height, width, filters, runs))
    gates = ops.expand_dims(ops.swapaxes(gates, 3, 4), 4)  # (N, h, w, J, 1, F)
    split = ops.reshape(kernel, (height, width, runs, channels // runs, filters))
    return ops.reshape(split * (1 + gates), (-1, *kernel.shape))


def by_patches(x, kernel, gates, groups, **geometry):
    """Multiplies patches (N, G, H'W', hwc) by kernels (N, G, hwc, F / G).

    Args and returns: as of `convolve`, without restriction.
    """
    height, width, channels, filters = kernel.shape
    seen = taps(x, (height, width), **geometry)
    count, rows, columns, _ = ops.shape(seen[0])
    grouped = (count, rows * columns, groups, channels)
    patches = ops.concatenate([ops.reshape(tap, grouped) for tap in seen], axis=-1)
    patches = ops.swapaxes(patches, 1, 2)  # (N, G, H'W', hwc)
    split = (-1, height * width * channels, groups, filters // groups)
    own = ops.swapaxes(ops.reshape(kernels(kernel, gates), split), 1, 2)
    y = ops.swapaxes(ops.matmul(patches, own), 1, 2)  # (N, H'W', G, F / G)
    return ops.reshape(y, (count, rows, columns, filters))


def by_channels(x, kernel, gates, groups, **geometry):
    """Convolves depthwise, with the batch folded into the channels.

    Args and returns: as of `convolve`, with C = groups and equal strides: TensorFlow's
    depthwise convolution knows no others in float16.
    """
    height, width, _, filters = kernel.shape
    padding, (d, e) = geometry["padding"], geometry["dilation"]
    if padding == "same" and d * e > 1:
        # Strides are 1 then. TensorFlow can't pad for a dilation in a dynamic batch.
        padding, totals = "valid", ((height - 1) * d, (width - 1) * e)
        pads = [(total // 2, total - total // 2) for total in totals]
        x = ops.pad(x, [(0, 0), *pads, (0, 0)])
    count, rows, columns, _ = ops.shape(x)
    folded = ops.reshape(ops.transpose(x, (1, 2, 0, 3)), (1, rows, columns, -1))
    split = (-1, height, width, groups, filters // groups)
    own = ops.transpose(ops.reshape(kernels(kernel, gates), split), (1, 2, 0, 3, 4))
    own = ops.reshape(own, (height, width, -1, filters // groups))
    y = ops.depthwise_conv(
        folded,
        own,
        strides=geometry["strides"],
        padding=padding,
        data_format="channels_last",
        dilation_rate=geometry["dilation"],
    )  # (1, H', W', N * F)
    y = ops.reshape(y, (*ops.shape(y)[1:3], count, filters))
    return ops.transpose(y, (2, 0, 1, 3))


def by_samples(x, kernel, gates, groups, **geometry):
    """Maps an ordinary convolution over the batch.

    Args and returns: as of `convolve`, with one group.
    """

    def convolve(sample):
        image, own = sample
        y = ops.conv(
            ops.expand_dims(image, 0),
            own,
            strides=geometry["strides"],
            padding=geometry["padding"],
            data_format="channels_last",
            dilation_rate=geometry["dilation"],
        )
        return ops.squeeze(y, 0)

    return ops.map(convolve, (x, kernels(kernel, gates)))


def by_static_kernels(x, kernel, gates, groups, **geometry):
    """Sums constant 1x1 convolutions of the taps, each times its gate.

    No sample needs a kernel of its own.

    Args and returns: as of `convolve`, with J = 1 and one group.
    """
    height, width, _, filters = kernel.shape
    gains = ops.reshape(1 + gates, (-1, height * width, 1, 1, filters))
    seen = taps(x, (height, width), **geometry)
    return sum(
        ops.matmul(tap, kernel[place // width, place % width]) * gains[:, place]
        for place, tap in enumerate(seen)
    )


def _at_least_0(size):
    return max(size, 0) if isinstance(size, int) else ops.maximum(size, 0)

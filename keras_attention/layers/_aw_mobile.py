"""AWConv2D in stock layers, for maps of static height and width.

What the places of the kernel see are slices of one padded map ("taps"); the gates meet
the smallest tensor that they fit. Taps of padding alone are left out of sums: for what
is always 0 there is no int8 grid.
"""

import keras
import numpy as np
from keras import ops

from keras_attention import grouped, stock

# Shorter runs of input channels that share a gate, and a product with a kernel that the
# graph computes is faster in int8 than a gated convolution per run.
_LONG_RUN = 48


def function(layer, kernel):
    """Returns a function (N, H, W, C) -> (N, H', W', F) that equals `layer`.

    Args:
        layer: A built, channels-last `AWConv2D`.
        kernel: Its kernel as an array (h, w, C / groups, F).
    """
    channels, filters = kernel.shape[2:]
    runs = layer.expand.filters // filters
    if channels == 1:
        convolve = _depthwise(layer, kernel)
    elif runs == 1 or (layer.groups == 1 and channels // runs >= _LONG_RUN):
        convolve = _gated_convolutions(layer, kernel, runs)
    else:
        convolve = _products(layer, kernel, runs)
    gates, tail = _gates(layer), _tail(layer)

    def function(x):
        seen = _seen(layer, x.shape[1:3])
        return tail(convolve(_padded(layer, x), gates(x), seen))

    return function


def _gates(layer):
    """Returns a function from maps to A, (N, h * w, 1, F * J)."""
    height, width = layer.kernel_size
    reduce = _folded(layer, layer.reduce, layer.reduce_norm, "reduce")
    expand = _folded(layer, layer.expand, layer.expand_norm, "expand")
    gate = stock.activation("sigmoid", name=f"{layer.name}_gate")

    def function(x):
        means = stock.reduce_windows(x, (height, width), ops.mean)
        means = ops.reshape(means, (-1, height * width, 1, x.shape[-1]))
        return gate(expand(ops.relu(reduce(means))))

    return function


def _folded(layer, conv, norm, role):
    kernel, bias = stock.fold(conv, norm)
    name = f"{layer.name}_{role}"
    return stock.pointwise(kernel, bias, name=name, trainable=conv.trainable)


def _axes(layer, sizes):
    return zip(
        sizes, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
    )


def _pads(layer, sizes):
    """Returns (before, after) for both axes: "same" as a valid convolution."""
    if layer.padding == "valid":
        return [(0, 0), (0, 0)]
    totals = [
        max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        for size, k, s, d in _axes(layer, sizes)
    ]
    return [(total // 2, total - total // 2) for total in totals]


def _padded(layer, x):
    """Returns a map that a valid convolution takes to what `layer` asks for."""
    pads = _pads(layer, x.shape[1:3])
    return ops.pad(x, [(0, 0), *pads, (0, 0)]) if any(map(any, pads)) else x


def _seen(layer, sizes):
    """Returns the indices of the kernel's places that see more than padding."""
    rows, columns = (
        [
            any(before <= i * d + p < before + size for p in range(0, positions, s))
            for i in range(k)
        ]
        for (before, after), (size, k, s, d) in zip(
            _pads(layer, sizes), _axes(layer, sizes), strict=True
        )
        for positions in [before + size + after - (k - 1) * d]
    )
    # One of two places three apart sees nothing of one position, nor does the other.
    return np.flatnonzero(np.outer(rows, columns)).tolist() or [0]


def _taps(layer):
    """Returns a function from padded maps to what each place of the kernel sees."""
    (h, w), (s, t), (d, e) = layer.kernel_size, layer.strides, layer.dilation_rate
    # A pooling of one value: strided slices take 10 times as long in int8.
    subsample = keras.layers.MaxPooling2D(
        1, strides=(s, t), data_format="channels_last", name=f"{layer.name}_stride"
    )

    def function(x):
        rows = (x.shape[1] - (h - 1) * d - 1) // s + 1
        columns = (x.shape[2] - (w - 1) * e - 1) // t + 1
        phases = {
            (i, j): subsample(x[:, i:, j:]) if s * t > 1 else x
            for i in range(min(s, h))
            for j in range(min(t, w))
        }
        return [
            phases[i % s, j % t][:, i // s : i // s + rows, j // t : j // t + columns]
            for i in range(0, h * d, d)
            for j in range(0, w * e, e)
        ]

    return function


def _gated_convolutions(layer, kernel, runs):
    """Sums constant 1x1 convolutions of the taps, each times its 1 + A."""
    height, width, channels, filters = kernel.shape
    length, groups = channels // runs, layer.groups
    pieces, constraint = kernel.reshape(-1, length, filters), None
    if groups > 1:
        constraint = grouped.BlockDiagonal(groups)
        pieces = np.tile(pieces, (1, groups, 1))
        pieces = [ops.convert_to_numpy(constraint(piece)) for piece in pieces]
    convs = [
        stock.pointwise(
            piece,
            name=f"{layer.name}_tap_{index}",
            trainable=layer.trainable,
            kernel_constraint=constraint,
        )
        for index, piece in enumerate(pieces)
    ]
    taps_of = _taps(layer)

    def function(x, gates, seen):
        taps, gates = taps_of(x), gates + 1.0
        if runs > 1:
            seen = [i * runs + run for i in seen for run in range(runs)]
            cuts = range(0, channels, length)
            taps = [tap[..., cut : cut + length] for tap in taps for cut in cuts]
            gates = ops.reshape(gates, (-1, height * width, filters, runs))
            gates = ops.transpose(gates, (0, 1, 3, 2))
            gates = ops.reshape(gates, (-1, len(taps), 1, filters))
        return _sum([convs[i](taps[i]) * gates[:, i : i + 1] for i in seen])

    return function


def _depthwise(layer, kernel):
    """Adds a convolution by 1.5 K and the taps, each times (A - 0.5) K.

    The taps times (1 + A) K alone would be equal, but the largest part of the sum would
    be rounded to 8 bits at every place of the kernel.
    """
    height, width, _, filters = kernel.shape
    multiplier, places = filters // layer.groups, height * width
    s, t = layer.strides
    mean = keras.layers.DepthwiseConv2D(
        (height, width),
        strides=s if s == t else 1,  # unequal ones are not safe in TensorFlow
        depth_multiplier=multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        data_format="channels_last",
        dtype="float32",
        name=f"{layer.name}_mean",
        trainable=layer.trainable,
    )
    split = 1.5 * kernel.reshape(height, width, layer.groups, multiplier)
    stock.filled(mean, (None, None, None, layer.groups), [split])
    scale = _scale(layer, kernel.reshape(-1, 1))
    taps_of = _taps(layer)
    if multiplier > 1:
        spread = stock.group_spread(layer.groups, filters, name=f"{layer.name}_spread")

    def function(x, gates, seen):
        own = ops.reshape(gates - 0.5, (-1, 1, 1, places * filters))
        own = ops.reshape(scale(own), (-1, places, 1, filters))
        taps = taps_of(x if multiplier == 1 else spread(x))
        y = mean(x) if s == t else mean(x)[:, ::s, ::t]
        return y + _sum([taps[i] * own[:, i : i + 1] for i in seen])

    return function


def _products(layer, kernel, runs):
    """Multiplies the patches of each group by the kernels of its sample."""
    height, width, channels, filters = kernel.shape
    places, each = height * width, filters // layer.groups
    # The gates, brought to the order (F, h, w, J), times rows of C / J numbers.
    scale = _scale(layer, np.moveaxis(kernel, -1, 0).reshape(-1, channels // runs))
    taps_of = _taps(layer)

    def product(taps, own):
        patches = _concatenate(taps, axis=3)
        _, rows, columns, values = patches.shape
        patches = ops.reshape(patches, (-1, rows * columns, values))
        y = ops.matmul(patches, ops.transpose(own, (0, 2, 1)))
        return ops.reshape(y, (-1, rows, columns, own.shape[1]))

    def function(x, gates, seen):
        own = ops.reshape(gates + 1.0, (-1, places, filters, runs))
        own = ops.reshape(
            ops.transpose(own, (0, 2, 1, 3)), (-1, 1, 1, filters * places * runs)
        )
        own = ops.reshape(scale(own), (-1, filters, places * channels))
        taps = taps_of(x)
        if layer.groups == 1:
            return product(taps, own)
        outputs = []
        for g in range(layer.groups):
            cut = slice(g * channels, (g + 1) * channels)
            part = own[:, g * each : (g + 1) * each]
            outputs.append(product([tap[..., cut] for tap in taps], part))
        return _concatenate(outputs, axis=3)

    return function


def _scale(layer, kernel):
    """Returns (N, 1, 1, n) -> (N, 1, 1, n * m): each number times a row of (n, m)."""
    conv = keras.layers.DepthwiseConv2D(
        1,
        depth_multiplier=kernel.shape[1],
        use_bias=False,
        data_format="channels_last",
        dtype="float32",
        name=f"{layer.name}_kernel",
        trainable=layer.trainable,
    )
    return stock.filled(conv, (None, None, None, len(kernel)), [kernel[None, None]])


def _tail(layer):
    """Returns the layer's bias and activation as a function."""
    steps = []
    if layer.use_bias:
        # A convolution, into which a normalization behind the layer can be folded.
        bias, ones = ops.convert_to_numpy(layer.bias), np.ones(layer.filters)
        name = f"{layer.name}_bias"
        steps = [stock.scale_shift(ones, bias, name=name, trainable=layer.trainable)]
    if layer.activation not in (None, keras.activations.linear):
        name = f"{layer.name}_activation"
        steps.append(stock.activation(layer.activation, name=name))

    def function(x):
        for step in steps:
            x = step(x)
        return x

    return function


def _concatenate(tensors, axis):
    return ops.concatenate(tensors, axis) if len(tensors) > 1 else tensors[0]


def _sum(terms):
    """Returns a sum by pairs: the fewer terms a sum has, the finer is its int8 step."""
    while len(terms) > 1:
        pairs = zip(terms[::2], terms[1::2], strict=False)
        terms = [a + b for a, b in pairs] + terms[len(terms) // 2 * 2 :]
    return terms[0]

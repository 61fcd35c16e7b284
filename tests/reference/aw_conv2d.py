"""AWConv2D restated in numpy, from what is known of arXiv 2108.08205.

Kernel by kernel and position by position, in float64. Weights have the names and
layouts that the golden files have: `weight` (filters, C / groups, h, w), `pw1.weight`
and `pw2.weight` (out, in, 1, 1), `bn1` and `bn2`, and `bias`, if there is one.
"""

import numpy as np

EPSILON = 1e-5


def pooled(x, height, width):
    """Returns means (N, height, width, C) of x (N, H, W, C), as PyTorch divides it."""

    def window(index, count, size):
        return slice(
            int(np.floor(index * size / count)), -(-(index + 1) * size // count)
        )

    means = np.zeros((len(x), height, width, x.shape[-1]))
    for i in range(height):
        for j in range(width):
            rows, columns = window(i, height, x.shape[1]), window(j, width, x.shape[2])
            cell = x[:, rows, columns]
            means[:, i, j] = cell.sum((1, 2)) / (cell.shape[1] * cell.shape[2])
    return means


def normalized(x, weights, name, training):
    """Returns x (N, h, w, C) normalized with running statistics or its own."""
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        mean = x.mean((0, 1, 2))
        variance = ((x - mean) ** 2).mean((0, 1, 2))
    x = (x - mean) / np.sqrt(variance + EPSILON)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(x, weights, training=False):
    """Returns A (N, filters, C / groups, h, w) of x (N, H, W, C)."""
    filters, channels, height, width = np.shape(weights["weight"])
    a = pooled(np.asarray(x, "float64"), height, width)
    a = a @ np.asarray(weights["pw1.weight"], "float64")[:, :, 0, 0].T
    a = np.maximum(normalized(a, weights, "bn1", training), 0)
    a = a @ np.asarray(weights["pw2.weight"], "float64")[:, :, 0, 0].T
    a = 1 / (1 + np.exp(-normalized(a, weights, "bn2", training)))
    runs = a.shape[-1] // filters
    full = np.zeros((len(x), filters, channels, height, width))
    for f in range(filters):
        for c in range(channels):
            full[:, f, c] = a[..., f * runs + c // (channels // runs)]
    return full


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def convolved(x, kernel, strides, padding, dilation, groups):
    """Returns one sample x (H, W, C), convolved with (filters, C / groups, h, w)."""
    filters, channels, height, width = kernel.shape
    pads, sizes = [], []
    for size, k, s, d in zip(
        x.shape[:2], (height, width), strides, dilation, strict=True
    ):
        extent = (k - 1) * d + 1
        output, total = (size - extent) // s + 1, 0
        if padding == "same":
            output = -(-size // s)
            total = max((output - 1) * s + extent - size, 0)
        pads.append((total // 2, total - total // 2))
        sizes.append(output)
    x = np.pad(x, [*pads, (0, 0)])
    y = np.zeros((*sizes, filters))
    each = filters // groups
    for p in range(sizes[0]):
        for q in range(sizes[1]):
            rows = p * strides[0] + dilation[0] * np.arange(height)
            columns = q * strides[1] + dilation[1] * np.arange(width)
            seen = x[rows][:, columns]  # (h, w, C)
            for g in range(groups):
                part = seen[..., g * channels : (g + 1) * channels]
                own = kernel[g * each : (g + 1) * each]
                y[p, q, g * each : (g + 1) * each] = np.einsum("ijc,fcij", part, own)
    return y


def forward(
    x,
    weights,
    training=False,
    strides=1,
    padding="valid",
    dilation_rate=1,
    groups=1,
    activation=None,
    **arguments,
):
    """Returns y (N, H', W', filters) of x (N, H, W, C).

    Sizes of the kernel, bottleneck and runs of channels that share a gate follow from
    the weights.
    """
    x = np.asarray(x, "float64")
    kernel = np.asarray(weights["weight"], "float64")
    geometry = pair(strides), padding, pair(dilation_rate), groups
    y = np.array(
        [
            convolved(sample, kernel + a * kernel, *geometry)
            for sample, a in zip(x, attention(x, weights, training), strict=True)
        ]
    )
    y = y + np.asarray(weights.get("bias", 0.0), "float64")
    return {None: y, "relu": np.maximum(y, 0), "tanh": np.tanh(y)}[activation]

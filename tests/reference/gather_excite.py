"""GatherExcite restated in numpy, from the rules of arXiv 1810.12348 as fixed here.

Cell by cell, in float64. Weights have the names and layouts of the PyTorch port that
the golden files were made with: `gather.conv<n>` (C, 1, h, w) with `gather.norm<n>`,
and `mlp.fc1`, `mlp.fc2` (out, in, 1, 1).
"""

import numpy as np

EPSILON = 1e-5


def _windows(x, extent):
    """Means of the windows that are centred on every extent-th position."""
    height, width = x.shape[1:3]
    centres_h, centres_w = range(0, height, extent), range(0, width, extent)
    z = np.zeros((len(x), len(centres_h), len(centres_w), x.shape[-1]))
    for i, row in enumerate(centres_h):
        for j, column in enumerate(centres_w):
            top, left = max(0, row - extent + 1), max(0, column - extent + 1)
            z[:, i, j] = x[:, top : row + extent, left : column + extent].mean((1, 2))
    return z


def _depthwise(x, kernel, stride, padding):
    pads = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    x, (height, width) = np.pad(x, pads), kernel.shape[2:]
    rows = (x.shape[1] - height) // stride + 1
    columns = (x.shape[2] - width) // stride + 1
    y = np.zeros((len(x), rows, columns, x.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            window = x[:, top : top + height, left : left + width]
            y[:, i, j] = np.einsum("nhwc,chw->nc", window, kernel[:, 0])
    return y


def _normalize(x, weights, name, training):
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    x = (x - mean) / np.sqrt(variance + EPSILON)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(x, weights, name):
    return x @ weights[f"{name}.weight"][:, :, 0, 0].T + weights[f"{name}.bias"]


def cells(x, weights, training=False, variant="theta_plus", extent=0, reduction=16):
    """Returns the gates of the cells, (N, h, w, C)."""
    x = np.asarray(x, "float64")
    weights = {name: np.asarray(value, "float64") for name, value in weights.items()}
    if variant == "theta_minus":
        z = _windows(x, extent) if extent else x.mean((1, 2), keepdims=True)
    elif extent == 0:
        z = _depthwise(x, weights["gather.conv1.weight"], 1, 0)
        z = _normalize(z, weights, "gather.norm1", training)
    else:
        z, number = x, 1
        while 2**number <= extent:
            z = np.maximum(z, 0) if number > 1 else z
            z = _depthwise(z, weights[f"gather.conv{number}.weight"], 2, 1)
            z = _normalize(z, weights, f"gather.norm{number}", training)
            number += 1
    if variant == "theta_plus":
        z = _linear(np.maximum(_linear(z, weights, "mlp.fc1"), 0), weights, "mlp.fc2")
    return 1 / (1 + np.exp(-z))


def forward(x, weights, training=False, **arguments):
    """Returns y of x (N, H, W, C), channels last."""
    gates = cells(x, weights, training, **arguments)
    y = np.array(x, "float64")
    height, width = y.shape[1:3]
    for i in range(height):
        for j in range(width):
            cell = i * gates.shape[1] // height, j * gates.shape[2] // width
            y[:, i, j] *= gates[:, cell[0], cell[1]]
    return y

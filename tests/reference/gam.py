"""GAM restated in numpy, from the equations of arXiv 2112.05561.

In float64. Weights have the names of the public code; `channel_gate` None is what that
code does without the paper's sigmoid, and the shuffle is how it uses groups.
"""

import numpy as np

EPSILON = 1e-5


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _linear(x, weights, name):
    matrix = np.asarray(weights[f"{name}.weight"], "float64")
    return x @ matrix.reshape(matrix.shape[:2]).T + weights[f"{name}.bias"]


def _convolve(x, weights, name, groups):
    """Returns the zero-padded grouped convolution of x (N, H, W, C), its bias added."""
    kernel = np.asarray(weights[f"{name}.weight"], "float64")  # (F, C / groups, k, k)
    outputs, inputs, size, _ = kernel.shape
    _, height, width, _ = x.shape
    reach, run = size // 2, outputs // groups
    padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
    y = np.zeros((*x.shape[:3], outputs)) + weights[f"{name}.bias"]
    for group in range(groups):
        sees = slice(group * inputs, (group + 1) * inputs)
        gives = slice(group * run, (group + 1) * run)
        for i in range(size):
            for j in range(size):
                shifted = padded[:, i : i + height, j : j + width, sees]
                y[..., gives] += shifted @ kernel[gives, :, i, j].T
    return y


def _normalize(y, weights, name, training):
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        mean = y.mean((0, 1, 2))
        variance = ((y - mean) ** 2).mean((0, 1, 2))
    y = (y - mean) / np.sqrt(variance + EPSILON)
    return y * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def channel_gates(x, weights, channel_gate="sigmoid"):
    """Returns the first factor of x (N, H, W, C), of the same shape."""
    middle = np.maximum(_linear(x, weights, "channel_attention.0"), 0)
    gates = _linear(middle, weights, "channel_attention.2")
    return _sigmoid(gates) if channel_gate == "sigmoid" else gates


def spatial_gates(u, weights, training=False, groups=1):
    """Returns the second factor of u (N, H, W, C), of the same shape."""
    y = _convolve(u, weights, "spatial_attention.0", groups)
    y = np.maximum(_normalize(y, weights, "spatial_attention.1", training), 0)
    y = _convolve(y, weights, "spatial_attention.3", groups)
    gates = _sigmoid(_normalize(y, weights, "spatial_attention.4", training))
    run = gates.shape[-1] // groups
    places = [group * run + i for i in range(run) for group in range(groups)]
    return gates[..., places]


def forward(x, weights, training=False, channel_gate="sigmoid", groups=1, **arguments):
    """Returns y of x (N, H, W, C); the widths follow from the weights."""
    x = np.asarray(x, "float64")
    u = x * channel_gates(x, weights, channel_gate)
    return u * spatial_gates(u, weights, training, groups)

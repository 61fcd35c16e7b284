"""StripPooling restated in numpy, from the description of arXiv 2003.13328.

Row by row and column by column, in float64. Weights have the names and layouts of the
authors' code: `spm.conv1` (out, in, 3, 1) runs along H, `spm.conv2` (out, in, 1, 3)
along W, `spm.conv3` (out, in, 1, 1) makes the gates.
"""

import numpy as np

EPSILON = 1e-5


def _along(strip, kernel):
    """Convolves a strip (N, L, C) by (out, C, 3), zeros beyond its ends."""
    y = np.zeros((*strip.shape[:2], len(kernel)))
    for i in range(strip.shape[1]):
        for tap in range(3):
            if 0 <= i + tap - 1 < strip.shape[1]:
                y[:, i] += strip[:, i + tap - 1] @ kernel[:, :, tap].T
    return y


def _normalize(strip, weights, name, training):
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        mean, variance = strip.mean((0, 1)), strip.var((0, 1))
    strip = (strip - mean) / np.sqrt(variance + EPSILON)
    return strip * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gates(x, weights, training=False):
    """Returns the gates (N, H, W, C) of x (N, H, W, C)."""
    x = np.asarray(x, "float64")
    weights = {name: np.asarray(value, "float64") for name, value in weights.items()}
    kernel_h = weights["spm.conv1.weight"][:, :, :, 0]
    kernel_w = weights["spm.conv2.weight"][:, :, 0, :]
    rows = _normalize(_along(x.mean(2), kernel_h), weights, "spm.bn1", training)
    columns = _normalize(_along(x.mean(1), kernel_w), weights, "spm.bn2", training)
    kernel = weights["spm.conv3.weight"][:, :, 0, 0]
    g = np.zeros(x.shape)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            f = np.maximum(rows[:, i] + columns[:, j], 0)
            g[:, i, j] = 1 / (1 + np.exp(-(f @ kernel.T + weights["spm.conv3.bias"])))
    return g


def forward(x, weights, training=False):
    """Returns y of x (N, H, W, C), channels last."""
    return np.asarray(x, "float64") * gates(x, weights, training)

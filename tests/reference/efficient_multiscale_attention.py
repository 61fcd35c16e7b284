"""EfficientMultiScaleAttention restated in numpy, from the equations of its paper.

Sample by sample and group by group, in float64, every step as published (arXiv
2305.13563): the 3x3 convolution with all its outputs, the normalized map and its mean.
Weights have the authors' names and layouts: `conv1x1`, `conv3x3` (out, in, h, w), `gn`.
"""

import numpy as np

EPSILON = 1e-5


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(x / 2))


def _softmax(vector):
    exponentials = np.exp(vector - vector.max())
    return exponentials / exponentials.sum()


def _strip(means, weights):
    """Returns the 1x1 convolution of a strip (positions, c)."""
    kernel = np.asarray(weights["conv1x1.weight"], "float64")[:, :, 0, 0]
    return means @ kernel.T + weights["conv1x1.bias"]


def _convolve(x, weights):
    """Returns the zero-padded 3x3 convolution of x (H, W, c)."""
    height, width, _ = x.shape
    kernel = np.asarray(weights["conv3x3.weight"], "float64")
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = np.zeros(x.shape) + weights["conv3x3.bias"]
    for i in range(3):
        for j in range(3):
            y += padded[i : i + height, j : j + width] @ kernel[:, :, i, j].T
    return y


def attention_map(x, weights):
    """Returns the map (H, W) of one group x (H, W, c) of one sample."""
    rows = _sigmoid(_strip(x.mean(1), weights))  # (H, c)
    columns = _sigmoid(_strip(x.mean(0), weights))  # (W, c)
    gated = x * rows[:, None] * columns[None]
    mean, variance = gated.mean((0, 1)), gated.var((0, 1))
    x_1 = (gated - mean) / np.sqrt(variance + EPSILON)
    x_1 = x_1 * weights["gn.weight"] + weights["gn.bias"]
    x_2 = _convolve(x, weights)
    a_1, a_2 = _softmax(x_1.mean((0, 1))), _softmax(x_2.mean((0, 1)))
    return _sigmoid(x_2 @ a_1 + x_1 @ a_2)


def forward(x, weights, training=False, groups=32):
    """Returns y of x (N, H, W, C), channels last; training makes no difference.

    The width of a group follows from the weights, so `groups` may be None.
    """
    x = np.asarray(x, "float64")
    width = len(weights["gn.weight"])
    assert groups in (None, x.shape[-1] // width)
    y = np.empty_like(x)
    for sample, result in zip(x, y, strict=True):
        for start in range(0, x.shape[-1], width):
            group = sample[..., start : start + width]
            gate = attention_map(group, weights)
            result[..., start : start + width] = group * gate[..., None]
    return y

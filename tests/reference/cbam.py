"""CBAM restated in numpy, from the equations of arXiv 1807.06521.

Place by place, in float64. Weights have the names of the authors' code.
"""

import numpy as np

EPSILON = 1e-5


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _linear(vector, weights, name):
    matrix = np.asarray(weights[f"{name}.weight"], "float64")
    return matrix.reshape(len(matrix), -1) @ vector + np.ravel(weights[f"{name}.bias"])


def channel_gates(x, weights):
    """Returns one gate for each channel of a sample x (H, W, C)."""
    logits = 0
    for vector in (x.mean((0, 1)), x.max((0, 1))):
        middle = np.maximum(_linear(vector, weights, "ChannelGate.mlp.1"), 0)
        logits = logits + _linear(middle, weights, "ChannelGate.mlp.3")
    return _sigmoid(logits)


def convolve(maps, kernel):
    """Returns the zero-padded convolution of maps (H, W, n) with a kernel (n, k, k)."""
    height, width, count = maps.shape
    reach = kernel.shape[-1] // 2
    padded = np.zeros((height + 2 * reach, width + 2 * reach, count))
    padded[reach : reach + height, reach : reach + width] = maps
    y = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            window = padded[i : i + 2 * reach + 1, j : j + 2 * reach + 1]
            y[i, j] = (window * np.moveaxis(kernel, 0, -1)).sum()
    return y


def normalize(scores, weights, name, training):
    """Returns scores of one channel, of any shape, after batch normalization."""
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        mean, variance = scores.mean(), ((scores - scores.mean()) ** 2).mean()
    y = (scores - np.ravel(mean)) / np.sqrt(np.ravel(variance) + EPSILON)
    return y * np.ravel(weights[f"{name}.weight"]) + np.ravel(weights[f"{name}.bias"])


def spatial_scores(u, weights):
    """Returns the scores (N, H, W) of u (N, H, W, C), before the normalization."""
    kernel = np.asarray(weights["SpatialGate.spatial.conv.weight"], "float64")[0]
    pooled = np.stack([u.max(-1), u.mean(-1)], axis=-1)
    return np.array([convolve(maps, kernel) for maps in pooled])


def refined(x, weights):
    """Returns x (N, H, W, C) after the gates per channel."""
    return np.array([sample * channel_gates(sample, weights) for sample in x])


def forward(x, weights, training=False, **arguments):
    """Returns y of x (N, H, W, C); the sizes follow from the weights."""
    u = refined(np.asarray(x, "float64"), weights)
    scores = spatial_scores(u, weights)
    scores = normalize(scores, weights, "SpatialGate.spatial.bn", training)
    return u * _sigmoid(scores)[..., None]

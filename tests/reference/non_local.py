"""NonLocal restated in numpy, from the equations of arXiv 1711.07971.

Position by position, in float64. Weights have the names and layouts of the PyTorch port
that the golden files were made with: `theta`, `phi`, `g`, `out`, each (out, in, 1, 1),
and `bn`.
"""

import numpy as np

EPSILON = 1e-5


def _convolve(rows, weights, name):
    kernel = np.asarray(weights[f"{name}.weight"], "float64")
    return rows @ kernel.reshape(kernel.shape[:2]).T + weights.get(f"{name}.bias", 0)


def pooled(sample):
    """Returns the rows (M, C) of one pooled sample (H, W, C) or (D, H, W, C)."""
    rows = []
    for frame in sample.reshape(-1, *sample.shape[-3:]):
        height, width, _ = frame.shape
        high, wide = min(height, 2), min(width, 2)
        for top in range(0, height - high + 1, high):
            for left in range(0, width - wide + 1, wide):
                rows.append(frame[top : top + high, left : left + wide].max((0, 1)))
    return np.array(rows)


def attention_map(sample, weights, pool=True, scale=True):
    """Returns the weights (L, M) that positions of one sample give to others."""
    rows = sample.reshape(-1, sample.shape[-1])
    theta = _convolve(rows, weights, "theta")
    phi = _convolve(pooled(sample) if pool else rows, weights, "phi")
    found = []
    for query in theta:
        scores = np.array([(query * key).sum() for key in phi])
        scores = scores / np.sqrt(len(query)) if scale else scores
        exponentials = np.exp(scores - scores.max())
        found.append(exponentials / exponentials.sum())
    return np.array(found)


def branch(sample, weights, pool=True, scale=True):
    """Returns what the positions of one sample receive, (L, C), not normalized."""
    rows = sample.reshape(-1, sample.shape[-1])
    g = _convolve(pooled(sample) if pool else rows, weights, "g")
    return _convolve(attention_map(sample, weights, pool, scale) @ g, weights, "out")


def forward(x, weights, training=False, pool=True, scale=True, **arguments):
    """Returns y of x (N, H, W, C) or (N, D, H, W, C), channels last.

    The width of the embeddings follows from the weights, as do the biases.
    """
    x = np.asarray(x, "float64")
    y = np.array([branch(sample, weights, pool, scale) for sample in x])
    mean, variance = weights["bn.running_mean"], weights["bn.running_var"]
    if training:
        rows = y.reshape(-1, y.shape[-1])
        mean = rows.sum(0) / len(rows)
        variance = ((rows - mean) ** 2).sum(0) / len(rows)
    y = (y - mean) / np.sqrt(variance + EPSILON)
    y = y * weights["bn.weight"] + weights["bn.bias"]
    return x + y.reshape(x.shape)

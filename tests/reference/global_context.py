"""GlobalContext restated in numpy, from the equations of arXiv 1904.11492.

Sample by sample, in float64. Weights have the names and layouts of the authors' code:
`conv_mask`, `channel_add_conv.0` (or `channel_mul_conv.0`), `.1`, the normalization,
and `.3`.
"""

import numpy as np

EPSILON = 1e-5


def _convolve(x, weights, name):
    kernel = np.asarray(weights[f"{name}.weight"], "float64")
    return x @ kernel.reshape(kernel.shape[:2]).T + weights[f"{name}.bias"]


def attention_map(sample, weights):
    """Returns the weights (L,) of the positions of one sample (..., C)."""
    rows = sample.reshape(-1, sample.shape[-1])
    scores = _convolve(rows, weights, "conv_mask")[:, 0]
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def transform(sample, weights, prefix="channel_add_conv"):
    """Returns what one sample (..., C) gives to all of its positions, (C,)."""
    context = np.zeros(sample.shape[-1])
    rows = sample.reshape(-1, sample.shape[-1])
    for weight, row in zip(attention_map(sample, weights), rows, strict=True):
        context += weight * row
    h = _convolve(context, weights, f"{prefix}.0")
    centered = h - h.sum() / len(h)
    h = centered / np.sqrt((centered**2).sum() / len(h) + EPSILON)
    h = h * np.ravel(weights[f"{prefix}.1.weight"])
    h = h + np.ravel(weights[f"{prefix}.1.bias"])
    return _convolve(np.maximum(h, 0), weights, f"{prefix}.3")


def forward(x, weights, training=False, fusion="add", **arguments):
    """Returns y of x (N, H, W, C) or (N, D, H, W, C), channels last.

    The width of the bottleneck follows from the weights.
    """
    x = np.asarray(x, "float64")
    if fusion == "add":
        return np.array([sample + transform(sample, weights) for sample in x])
    logits = [transform(sample, weights, "channel_mul_conv") for sample in x]
    gates = [1 / (1 + np.exp(-t)) for t in logits]
    return np.array([s * g for s, g in zip(x, gates, strict=True)])

"""ShuffleAttention restated in numpy, from the equations of arXiv 2102.00240.

Group by group and channel by channel, in float64. Weights have the names of the
authors' PyTorch code: `cweight`, `cbias`, `sweight`, `sbias`, `gn.weight` and
`gn.bias`, each with one number for each channel of half a group.
"""

import numpy as np

EPSILON = 1e-5


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gates(sample, weights, groups):
    """Returns the gates of one sample (H, W, C), before the shuffle."""
    w = {name: np.ravel(value).astype("float64") for name, value in weights.items()}
    half = sample.shape[-1] // (2 * groups)
    result = np.empty_like(sample)
    for group in range(groups):
        for index in range(half):
            first = 2 * half * group + index
            mean = sample[..., first].sum() / sample[..., first].size
            gate = _sigmoid(w["cweight"][index] * mean + w["cbias"][index])
            result[..., first] = gate
            second = first + half
            values = sample[..., second]
            mean = values.sum() / values.size
            variance = ((values - mean) ** 2).sum() / values.size
            normalized = (values - mean) / np.sqrt(variance + EPSILON)
            normalized = normalized * w["gn.weight"][index] + w["gn.bias"][index]
            logits = w["sweight"][index] * normalized + w["sbias"][index]
            result[..., second] = _sigmoid(logits)
    return result


def forward(x, weights, training=False, groups=64, **arguments):
    """Returns y of x (N, H, W, C)."""
    x = np.asarray(x, "float64")
    channels = x.shape[-1]
    if groups is None:
        groups = max(g for g in range(1, 65) if channels // 2 % g == 0)
    y = np.empty_like(x)
    for sample, result in zip(x, y, strict=True):
        gated = sample * gates(sample, weights, groups)
        for index in range(channels // 2):
            result[..., 2 * index] = gated[..., index]
            result[..., 2 * index + 1] = gated[..., channels // 2 + index]
    return y

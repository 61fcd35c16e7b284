"""NAM restated in numpy, from the equations of arXiv 2111.12419.

Channel by channel, in float64. Weights have the names of the authors' PyTorch code:
`Channel_Att.bn2`, each (C,).
"""

import numpy as np

EPSILON = 1e-5
NORM = "Channel_Att.bn2"


def forward(x, weights, training=False, **arguments):
    """Returns y of x (N, H, W, C)."""
    x = np.asarray(x, "float64")
    gamma, beta, means, variances = (
        np.asarray(weights[f"{NORM}.{part}"], "float64")
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    total = sum(abs(scale) for scale in gamma)
    y = np.empty_like(x)
    for channel, scale in enumerate(gamma):
        values = x[..., channel]
        mean, variance = means[channel], variances[channel]
        if training:
            mean = values.sum() / values.size
            variance = ((values - mean) ** 2).sum() / values.size
        normalized = (values - mean) / np.sqrt(variance + EPSILON)
        normalized = scale * normalized + beta[channel]
        weight = abs(scale) / total
        y[..., channel] = values / (1 + np.exp(-weight * normalized))
    return y

"""SpatialGroupEnhance restated in numpy, from the equations of arXiv 1905.09646.

Group by group and position by position, in float64. Weights have the names of the
authors' PyTorch code: `weight` and `bias`, one number per group.
"""

import numpy as np

EPSILON = 1e-5


def attention_map(group, weight, bias):
    """Returns the (H, W) map of one sample's group (H, W, c)."""
    height, width, channels = group.shape
    means = [
        group[..., channel].sum() / (height * width) for channel in range(channels)
    ]
    likeness = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            for channel, mean in enumerate(means):
                likeness[row, column] += group[row, column, channel] * mean
    centered = likeness - likeness.sum() / likeness.size
    variance = (centered**2).sum() / max(likeness.size - 1, 1)
    standardized = centered / (variance**0.5 + EPSILON)
    return 1 / (1 + np.exp(-(weight * standardized + bias)))


def forward(x, weights, training=False, **arguments):
    """Returns y of x (N, H, W, C); there are as many groups as weights."""
    x = np.asarray(x, "float64")
    weight, bias = (
        np.ravel(weights[name]).astype("float64") for name in ("weight", "bias")
    )
    width = x.shape[-1] // len(weight)
    y = np.empty_like(x)
    for sample in range(len(x)):
        for group in range(len(weight)):
            channels = slice(group * width, (group + 1) * width)
            values = x[sample][..., channels]
            gate = attention_map(values, weight[group], bias[group])
            y[sample][..., channels] = values * gate[..., None]
    return y

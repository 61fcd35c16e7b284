"""DoubleAttention restated in numpy, from the equations of arXiv 1810.11579.

Position by position and map by map, in float64. Weights have the names and layouts of
the PyTorch port that the golden files were made with: `convA`, `convB`, `convV` and
`conv_reconstruct`, each (out, in, 1, 1[, 1]); `bn` is the optional normalization.
"""

import numpy as np

EPSILON = 1e-5


def _convolve(x, weights, name):
    kernel = np.asarray(weights[f"{name}.weight"], "float64")
    kernel = kernel.reshape(kernel.shape[:2])
    y = np.zeros((*x.shape[:-1], len(kernel)))
    for out, row in enumerate(kernel):
        y[..., out] = (x * row).sum(-1)
        if f"{name}.bias" in weights:
            y[..., out] += weights[f"{name}.bias"][out]
    return y


def _softmax(vector):
    exponentials = np.exp(vector - vector.max())
    return exponentials / exponentials.sum()


def extension(x, weights):
    """Returns what one sample x (L, C) receives, before any normalization."""
    features = _convolve(x, weights, "convA")  # (L, m)
    where = _convolve(x, weights, "convB")  # (L, n)
    which = _convolve(x, weights, "convV")  # (L, n)
    descriptors = []
    for scores in where.T:
        mean = np.zeros(features.shape[1])
        for weight, feature in zip(_softmax(scores), features, strict=True):
            mean += weight * feature
        descriptors.append(mean)
    received = [
        sum(w * d for w, d in zip(_softmax(scores), descriptors, strict=True))
        for scores in which
    ]
    return _convolve(np.array(received), weights, "conv_reconstruct")


def forward(x, weights, training=False, residual=True, **arguments):
    """Returns y of x (N, H, W, C) or (N, D, H, W, C), channels last.

    The widths follow from the weights, and the normalization is used if it is there.
    """
    x = np.asarray(x, "float64")
    y = np.array([extension(s.reshape(-1, s.shape[-1]), weights) for s in x])
    if "bn.weight" in weights:
        mean, variance = weights["bn.running_mean"], weights["bn.running_var"]
        if training:
            rows = y.reshape(-1, y.shape[-1])
            mean = rows.sum(0) / len(rows)
            variance = ((rows - mean) ** 2).sum(0) / len(rows)
        y = (y - mean) / np.sqrt(variance + EPSILON)
        y = y * weights["bn.weight"] + weights["bn.bias"]
    y = y.reshape(x.shape)
    return x + y if residual else y

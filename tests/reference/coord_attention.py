"""CoordAttention restated in numpy, from equations 4 to 9 of arXiv 2103.02907.

Weights are a dict of arrays: `f1`, `f_h` and `f_w` are matrices (in, out), with biases
`f1_bias`, ...; `gamma`, `beta`, `mean`, `variance` belong to the normalization.
"""

import numpy as np

EPSILON = 1e-5


def random_weights(rng, channels, bottleneck):
    """Returns weights that give gates far from constant."""

    def matrix(inputs, outputs):
        return rng.normal(0, 2 / np.sqrt(inputs), (inputs, outputs))

    return {
        "f1": matrix(channels, bottleneck),
        "f1_bias": rng.normal(0, 0.3, bottleneck),
        "gamma": rng.uniform(0.5, 1.5, bottleneck),
        "beta": rng.normal(0, 0.5, bottleneck),
        "mean": rng.normal(0, 0.3, bottleneck),
        "variance": rng.uniform(0.1, 0.5, bottleneck),
        "f_h": matrix(bottleneck, channels),
        "f_h_bias": rng.normal(0, 0.5, channels),
        "f_w": matrix(bottleneck, channels),
        "f_w_bias": rng.normal(0, 0.5, channels),
    }


def strips(x):
    """Returns the means of x (N, H, W, C) per row, (N, H, C), and column, (N, W, C)."""
    return x.sum(2) / x.shape[2], x.sum(1) / x.shape[1]


def batch_statistics(x, weights):
    """Returns mean and biased variance of the bottleneck, and how many positions."""
    pre = np.concatenate([z.reshape(-1, z.shape[-1]) for z in strips(x)])
    pre = pre @ weights["f1"] + weights["f1_bias"]
    mean = pre.mean(0)
    return mean, ((pre - mean) ** 2).mean(0), len(pre)


def gates(x, weights, training=False):
    """Returns the gates (N, H, C) and (N, W, C) of x (N, H, W, C)."""
    mean, variance = weights["mean"], weights["variance"]
    if training:
        mean, variance, _ = batch_statistics(x, weights)

    def gate(z, matrix, bias):
        pre = z @ weights["f1"] + weights["f1_bias"]
        f = (pre - mean) / np.sqrt(variance + EPSILON)
        f = f * weights["gamma"] + weights["beta"]
        f = f * np.clip(f + 3, 0, 6) / 6
        return 1 / (1 + np.exp(-(f @ matrix + bias)))

    z_h, z_w = strips(x)
    return (
        gate(z_h, weights["f_h"], weights["f_h_bias"]),
        gate(z_w, weights["f_w"], weights["f_w_bias"]),
    )


def coord_attention(x, weights, training=False):
    """Returns y (N, H, W, C): y[n, i, j] = x[n, i, j] * g_h[n, i] * g_w[n, j]."""
    g_h, g_w = gates(x, weights, training)
    return np.einsum("nijc,nic,njc->nijc", x, g_h, g_w)

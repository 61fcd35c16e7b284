"""Triplet attention restated in numpy, from the equations of arXiv 2010.03045.

The tensor is rotated, as the paper says, so that the pooled axis is the last one. In
float64; weights have the names of the authors' code.
"""

import numpy as np

EPSILON = 1e-5

# Branch: rotation of (N, H, W, C) to (N, the axes in the branch's name, pooled axis).
ROTATIONS = {
    "cw": (0, 3, 2, 1),
    "hc": (0, 1, 3, 2),
    "hw": (0, 1, 2, 3),
}


def _convolve(maps, kernel):
    """Returns the zero-padded convolution of maps (A, B, n) with a kernel (n, k, k)."""
    rows, columns, _ = maps.shape
    reach = kernel.shape[-1] // 2
    y = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            for di in range(-reach, reach + 1):
                for dj in range(-reach, reach + 1):
                    if 0 <= i + di < rows and 0 <= j + dj < columns:
                        taps = kernel[:, di + reach, dj + reach]
                        y[i, j] += maps[i + di, j + dj] @ taps
    return y


def scores(x, weights, branch):
    """Returns the convolution's output of a branch, (N, A, B), not normalized."""
    rotated = np.transpose(np.asarray(x, "float64"), ROTATIONS[branch])
    pooled = np.stack([rotated.max(-1), rotated.mean(-1)], axis=-1)
    kernel = np.asarray(weights[f"{branch}.conv.conv.weight"], "float64")[0]
    return np.array([_convolve(maps, kernel) for maps in pooled])


def gates(x, weights, branch, training=False):
    """Returns the gates of a branch, (N, A, B), axes as its name has them."""
    y, norm = scores(x, weights, branch), f"{branch}.conv.bn"
    mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
    if training:
        mean, variance = y.mean(), ((y - y.mean()) ** 2).mean()
    y = (y - np.ravel(mean)) / np.sqrt(np.ravel(variance) + EPSILON)
    y = y * np.ravel(weights[f"{norm}.weight"]) + np.ravel(weights[f"{norm}.bias"])
    return 1 / (1 + np.exp(-y))


def forward(x, weights, training=False, **arguments):
    """Returns y of x (N, H, W, C); the kernel's size follows from the weights."""
    x, total = np.asarray(x, "float64"), 0
    for branch, rotation in ROTATIONS.items():
        rotated = np.transpose(x, rotation)
        gated = rotated * gates(x, weights, branch, training)[..., None]
        total = total + np.transpose(gated, np.argsort(rotation))
    return total / 3

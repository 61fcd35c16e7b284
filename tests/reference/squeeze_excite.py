"""SqueezeExcite restated in numpy, from the equations of arXiv 1709.01507.

Sample by sample, in float64. Weights have the names and layouts of two fully connected
PyTorch layers: `fc1` (m, C[, 1, 1]) and `fc2` (C, m[, 1, 1]), with or without biases.
"""

import numpy as np

ACTIVATIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "hard_silu": lambda z: z * np.clip(z + 3, 0, 6) / 6,
    "silu": lambda z: z / (1 + np.exp(-z)),
}
GATES = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "hard_sigmoid": lambda z: np.clip(z + 3, 0, 6) / 6,
}


def _dense(z, weights, name):
    matrix = np.asarray(weights[f"{name}.weight"], "float64")
    matrix = matrix.reshape(matrix.shape[:2])
    return matrix @ z + weights.get(f"{name}.bias", 0)


def gates(sample, weights, activation="relu", gate="sigmoid"):
    """Returns the gates (C,) of one sample (..., C)."""
    mean = sample.reshape(-1, sample.shape[-1]).mean(0)
    hidden = ACTIVATIONS[activation](_dense(mean, weights, "fc1"))
    return GATES[gate](_dense(hidden, weights, "fc2"))


def forward(x, weights, training=False, activation="relu", gate="sigmoid", **arguments):
    """Returns y of x (N, H, W, C) or (N, D, H, W, C), channels last.

    The width of the bottleneck follows from the weights, as do the biases.
    """
    x = np.asarray(x, "float64")
    return np.array([s * gates(s, weights, activation, gate) for s in x])

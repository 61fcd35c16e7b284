"""BAM restated in numpy, from the equations of arXiv 1807.06514.

In float64. Weights have the names of the authors' code; `combine` "product" is what
that code does with the logits that the paper adds.
"""

import numpy as np

EPSILON = 1e-5
CHANNEL, SPATIAL = "channel_att.gate_c.gate_c_", "spatial_att.gate_s.gate_s_"


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _convolve(x, weights, name, dilation=1):
    """Returns the zero-padded convolution of x (N, H, W, C), its bias added."""
    kernel = np.asarray(weights[f"{name}.weight"], "float64")
    kernel = kernel.reshape(*kernel.shape[:2], *(kernel.shape[2:] or (1, 1)))
    batch, height, width, _ = x.shape
    size = kernel.shape[-1]
    reach = dilation * (size // 2)
    padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
    y = np.zeros((batch, height, width, len(kernel))) + weights[f"{name}.bias"]
    for i in range(size):
        for j in range(size):
            top, left = dilation * i, dilation * j
            shifted = padded[:, top : top + height, left : left + width]
            y += shifted @ kernel[:, :, i, j].T
    return y


def _normalize(y, weights, name, training):
    """Returns y (N, H, W, C) after batch normalization."""
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        mean = y.mean((0, 1, 2))
        variance = ((y - mean) ** 2).mean((0, 1, 2))
    y = (y - mean) / np.sqrt(variance + EPSILON)
    return y * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def channel_logits(x, weights, training=False):
    """Returns the logits per channel of x (N, H, W, C), (N, 1, 1, C)."""
    z = x.mean((1, 2), keepdims=True)
    z = _convolve(z, weights, f"{CHANNEL}fc_0")
    z = np.maximum(_normalize(z, weights, f"{CHANNEL}bn_1", training), 0)
    return _convolve(z, weights, f"{CHANNEL}fc_final")


def spatial_logits(x, weights, training=False, dilation=4):
    """Returns the logits per position of x (N, H, W, C), (N, H, W, 1)."""
    y = _convolve(x, weights, f"{SPATIAL}conv_reduce0")
    y = np.maximum(_normalize(y, weights, f"{SPATIAL}bn_reduce0", training), 0)
    for layer in ("di_0", "di_1"):
        y = _convolve(y, weights, f"{SPATIAL}conv_{layer}", dilation)
        y = np.maximum(_normalize(y, weights, f"{SPATIAL}bn_{layer}", training), 0)
    return _convolve(y, weights, f"{SPATIAL}conv_final")


def forward(x, weights, training=False, dilation=4, combine="sum", **arguments):
    """Returns y of x (N, H, W, C); the widths follow from the weights."""
    x = np.asarray(x, "float64")
    channel = channel_logits(x, weights, training)
    spatial = spatial_logits(x, weights, training, dilation)
    logits = channel + spatial if combine == "sum" else channel * spatial
    return x + x * _sigmoid(logits)

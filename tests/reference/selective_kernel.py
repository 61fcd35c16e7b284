"""SelectiveKernel restated in numpy, from the description of arXiv 1903.06586.

Position by position and group by group, in float64. Weights have the names and layouts
of the PyTorch port that the golden files were made with: `paths.<i>.conv`
(C, C / groups, 3, 3) with `paths.<i>.bn`, `attn.fc_reduce` with `attn.bn`, and
`attn.fc_select` (M C, m, 1, 1), path by path.
"""

import numpy as np

EPSILON = 1e-5


def _grouped(x, kernel, dilation, stride):
    """Convolves 3x3, padded by the dilation on all sides."""
    filters, inputs = kernel.shape[:2]
    own = filters * inputs // x.shape[-1]  # outputs of a group
    pads = [(0, 0), (dilation, dilation), (dilation, dilation), (0, 0)]
    padded = np.pad(x, pads)
    rows, columns = range(0, x.shape[1], stride), range(0, x.shape[2], stride)
    y = np.zeros((len(x), len(rows), len(columns), filters))
    for group in range(filters // own):
        seen = padded[..., group * inputs : (group + 1) * inputs]
        part = kernel[group * own : (group + 1) * own]
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                window = seen[
                    :,
                    row : row + 2 * dilation + 1 : dilation,
                    column : column + 2 * dilation + 1 : dilation,
                ]
                value = np.einsum("nhwc,fchw->nf", window, part)
                y[:, i, j, group * own : (group + 1) * own] = value
    return y


def _normalize(x, weights, name, training):
    axes = tuple(range(x.ndim - 1))
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        mean, variance = x.mean(axes), x.var(axes)
    x = (x - mean) / np.sqrt(variance + EPSILON)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def parts(x, weights, training=False, strides=1):
    """Returns the branches (M, N, H', W', C) and their weights (M, N, C)."""
    x = np.asarray(x, "float64")
    weights = {name: np.asarray(value, "float64") for name, value in weights.items()}
    branches = []
    while f"paths.{len(branches)}.conv.weight" in weights:
        path, dilation = f"paths.{len(branches)}", len(branches) + 1
        u = _grouped(x, weights[f"{path}.conv.weight"], dilation, strides)
        branches.append(np.maximum(_normalize(u, weights, f"{path}.bn", training), 0))
    s = sum(branches).mean((1, 2))
    z = s @ weights["attn.fc_reduce.weight"][:, :, 0, 0].T
    z = np.maximum(_normalize(z, weights, "attn.bn", training), 0)
    scores = z @ weights["attn.fc_select.weight"][:, :, 0, 0].T
    scores = np.stack(np.split(scores, len(branches), axis=1))  # (M, N, C)
    e = np.exp(scores - scores.max(0))
    return np.stack(branches), e / e.sum(0)


def forward(x, weights, training=False, strides=1, **arguments):
    """Returns y of x (N, H, W, C), channels last.

    Branches, groups and widths follow from the weights.
    """
    branches, a = parts(x, weights, training, strides)
    return (branches * a[:, :, None, None]).sum(0)

"""Grouped convolutions as dense ones: their kernels, and what they are cut into.

A dense convolution whose kernel has zeros between the groups computes a grouped one. It
computes the zeros, too: several dense convolutions, each of a run of adjacent groups,
compute fewer of them.
"""

import math

import keras
import numpy as np
from keras import ops

# Convolutions of few channels are no cheaper than wider ones: at least so many channels
# each, the mean of inputs and outputs. Measured, int8 and float files, and training on
# a CPU (3x3): of 32 groups of 128 to 1024 channels, dense is 4 to 26 times as slow.
_RUN_CHANNELS = 12
_POINTWISE_RUN_CHANNELS = 32


@keras.saving.register_keras_serializable(package="keras_attention")
class BlockDiagonal(keras.constraints.Constraint):
    """Keeps a dense kernel block-diagonal over groups of channels.

    A dense convolution under this constraint computes a grouped convolution: the last
    two axes of the kernel, (in, out), are cut into `groups` contiguous runs each, and
    entries that connect different groups are set to exactly 0 after every update.

    Args:
        groups: Number of groups; must divide the input and the output channels.

    Raises:
        ValueError: `groups` is not a positive integer, or does not divide the channels.
    """

    def __init__(self, groups):
        if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
            raise ValueError(f"groups must be a positive integer; received {groups!r}")
        self.groups = groups

    def __call__(self, w):
        """Returns `w`, shape (..., in, out), with zeros between different groups."""
        inputs, outputs = w.shape[-2:]
        if inputs % self.groups or outputs % self.groups:
            raise ValueError(
                f"groups={self.groups} must divide the kernel's input and output "
                f"channels; received a kernel of shape {tuple(w.shape)}"
            )
        block = np.ones((inputs // self.groups, outputs // self.groups), bool)
        mask = np.kron(np.eye(self.groups, dtype=bool), block)
        # A selection, not a product: 0 * inf would leave NaN between the groups.
        return ops.where(mask, w, ops.zeros_like(w))

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"groups": self.groups}


def dense_kernel(kernel, groups):
    """Returns the dense kernel of a grouped convolution, zeros between the groups.

    Args:
        kernel: Tensor or array (h, w, C / groups, F).
        groups: Number of groups.

    Returns:
        Tensor (h, w, C, F).
    """
    if groups == 1:
        return kernel
    return BlockDiagonal(groups)(ops.tile(kernel, (1, 1, groups, 1)))


def grouped_kernel(kernel, groups):
    """Returns the kernel that `dense_kernel` was made of.

    Args:
        kernel: Array (h, w, C, F); what connects different groups is left out.
        groups: Number of groups.

    Returns:
        Array (h, w, C / groups, F).
    """
    parts = np.split(kernel, groups, axis=2)
    blocks = [np.split(part, groups, axis=3)[i] for i, part in enumerate(parts)]
    return np.concatenate(blocks, axis=3)


def run_count(kernel_shape, groups):
    """Returns into how many equal runs of groups a convolution is best cut.

    A run itself is not cut any further.

    Args:
        kernel_shape: (h, w, C / groups, F).
        groups: Number of groups, which the result divides.
    """
    height, width, inputs, filters = kernel_shape
    least = _RUN_CHANNELS if height * width > 1 else _POINTWISE_RUN_CHANNELS
    most = math.isqrt(inputs * groups * filters) // least
    return next(d for d in range(max(1, min(groups, most)), 0, -1) if groups % d == 0)

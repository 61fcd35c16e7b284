"""Parameters and multiply-adds of every block, as in the layers' docstrings."""

import dataclasses
import math
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Formula:
    """What a block costs, as published.

    Attributes:
        parameters: (height, width, channels) -> trainable parameters.
        adds: (height, width, channels) -> multiply-adds of convolutions and matrix
            products, per image.
        arguments: channels -> arguments of the layer, where the defaults don't fit.
        differs: whether the training form is counted otherwise than is published.
    """

    parameters: Callable[[int, int, int], int]
    adds: Callable[[int, int, int], int]
    arguments: Callable[[int], dict] = lambda c: {}
    differs: bool = False


def _hidden(channels, reduction, least=1):
    return max(least, channels // reduction)


def _groups(channels):
    """Returns groups of four channels in each half, for ShuffleAttention."""
    return channels // 8


def _coord(h, w, c):
    return 2 * (h + w) * c * _hidden(c, 32, 8)


def _ema(h, w, c):
    each = c // 32
    return h * w * (9 * c * each + 2 * c) + (h + w) * c * each


def _a2(h, w, c):
    return 2 * h * w * c * c + h * w * c * c // 2


def _kernel(c):
    """Returns ECA's kernel size."""
    size = int(abs((math.log2(c) + 1) / 2))
    return size if size % 2 else size + 1


def _nl(h, w, c):
    most, fewer, m = h * w, (h // 2) * (w // 2), c // 2
    return 2 * (most + fewer) * c * m + 2 * most * fewer * m


FORMULAS = {
    "coord": Formula(
        lambda h, w, c: (3 * c + 3) * _hidden(c, 32, 8) + 2 * c,
        _coord,
    ),
    "ema": Formula(
        lambda h, w, c: 10 * (c // 32) ** 2 + 4 * (c // 32),
        _ema,
        differs=True,  # a dense convolution to one channel per group
    ),
    "a2": Formula(lambda h, w, c: 2 * c * c + 5 * c // 2, _a2),
    "aw": Formula(
        lambda h, w, c: (9 * c + 2) * c + 2 * (c + 1) * (c // 16),
        lambda h, w, c: 9 * h * w * c * c + 18 * c * (c // 16),
        lambda c: {
            "filters": c,
            "kernel_size": 3,
            "padding": "same",
            "use_bias": False,
        },
        differs=True,  # the means are matrix products
    ),
    "se": Formula(
        lambda h, w, c: 2 * c * (c // 16) + c // 16 + c,
        lambda h, w, c: 2 * c * (c // 16),
    ),
    "cbam": Formula(
        lambda h, w, c: (2 * c + 1) * (c // 16) + c + 2 * 49 + 2,
        lambda h, w, c: 4 * c * (c // 16) + 2 * 49 * h * w,
    ),
    "bam": Formula(
        lambda h, w, c: (3 * c + 18 * (c // 16) + 13) * (c // 16) + c + 1,
        lambda h, w, c: (2 * c + h * w * (c + 18 * (c // 16) + 1)) * (c // 16),
        differs=True,  # TensorFlow computes dilated convolutions on padded pieces
    ),
    "eca": Formula(
        lambda h, w, c: _kernel(c),
        lambda h, w, c: _kernel(c) * c,
    ),
    "gc": Formula(
        lambda h, w, c: (2 * c + 3) * (c // 16) + 2 * c + 1,
        lambda h, w, c: 2 * h * w * c + 2 * c * (c // 16),
    ),
    "nl": Formula(lambda h, w, c: 2 * c * c + 3 * (c // 2) + 3 * c, _nl),
    "simam": Formula(lambda h, w, c: 0, lambda h, w, c: 0),
    "triplet": Formula(
        lambda h, w, c: 6 * 49 + 6,
        lambda h, w, c: 2 * 49 * (h * w + h * c + c * w),
    ),
    "nam": Formula(lambda h, w, c: 2 * c, lambda h, w, c: 0),
    "sa": Formula(
        lambda h, w, c: 3 * c // _groups(c),
        lambda h, w, c: 0,
        lambda c: {"groups": _groups(c)},
    ),
    "sge": Formula(
        lambda h, w, c: 2 * _groups(c),
        lambda h, w, c: 0,
        lambda c: {"groups": _groups(c)},
        differs=True,  # sums over groups are matrix products
    ),
    "gam": Formula(
        lambda h, w, c: (100 * c + 4) * (c // 4) + 4 * c,
        lambda h, w, c: 100 * h * w * c * (c // 4),
    ),
    "ge": Formula(
        lambda h, w, c: h * w * c + 3 * c + (2 * c + 1) * (c // 16),
        lambda h, w, c: h * w * c + 2 * c * (c // 16),
        differs=True,  # the convolution of the whole map is a product and a sum
    ),
    "sk": Formula(
        lambda h, w, c: 18 * c * c // 32 + 4 * c + (3 * c + 2) * _hidden(c, 16, 32),
        lambda h, w, c: 18 * h * w * c * c // 32 + 3 * c * _hidden(c, 16, 32),
        differs=True,  # on TensorFlow's CPU, grouped convolutions are partly dense
    ),
    "sp": Formula(
        lambda h, w, c: 7 * c * c + 5 * c,
        lambda h, w, c: (3 * (h + w) + h * w) * c * c,
    ),
}

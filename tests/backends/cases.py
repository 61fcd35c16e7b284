"""Outputs and gradients of every block, as numbers that other backends can be held to.

    KERAS_BACKEND=tensorflow python tests/backends/cases.py FILE.npz

writes TensorFlow's. The weights are random but the same on all backends: TensorFlow
need not be installed where its numbers are compared with.
"""

import dataclasses
import pathlib
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
from support.comparing import features
from support.gradients import gradients
from support.torch_weights import FIRST, apply, live

import keras_attention
from keras_attention.weights.torch_state import torch_parameters

IMAGES = (8, 9, 11, 32)
VIDEO = (8, 3, 4, 5, 32)

# Arguments of each block: the first are the defaults, where these fit 32 channels.
ARGUMENTS = {
    "a2": ({}, {"value_channels": 6, "zero_init_norm": True}),
    "aw": (
        {"filters": 24, "kernel_size": 3, "padding": "same"},
        {
            "filters": 12,
            "kernel_size": (2, 3),
            "strides": 2,
            "groups": 4,
            "input_sharing": 2,
        },
    ),
    "bam": ({}, {"combine": "product", "dilation": 2}),
    "cbam": ({}, {"kernel_size": 3, "reduction": 4}),
    "coord": ({}, {"reduction": 8, "min_channels": 3, "activation": "relu"}),
    "eca": ({}, {"kernel_size": 5}),
    "ema": ({"groups": 8}, {"groups": None}),
    "gam": ({}, {"groups": 4, "reduction": 2}),
    "gc": ({"reduction": 4}, {"fusion": "mul", "reduction": 2}),
    "ge": (
        {},
        {"variant": "theta_plus", "extent": 4},
        {"variant": "theta", "extent": 2},
        {"variant": "theta_minus", "extent": 8},
    ),
    "nam": ({},),
    "nl": ({}, {"pool": False, "scale": False, "reduction": 4}),
    "sa": ({"groups": 4}, {"groups": 16}),
    "se": ({}, {"reduction": 4, "activation": "silu", "gate": "hard_sigmoid"}),
    "sge": ({"groups": 8}, {"groups": 1}),
    "simam": ({}, {"e_lambda": 0.1}),
    "sk": ({}, {"branches": 3, "groups": 4, "strides": 2}),
    "sp": ({},),
    "triplet": ({}, {"kernel_size": 3}),
}
TAKE_VIDEO = ("a2", "eca", "gc", "nl", "se", "simam")


@dataclasses.dataclass(frozen=True)
class Case:
    """A block, what it is made with, and the shape of a channels-last input."""

    block: str
    number: int
    shape: tuple[int, ...] = IMAGES

    def __str__(self):
        return f"{self.block}-{'video' if self.shape == VIDEO else self.number}"

    @property
    def formats(self):
        """The defaults in both data formats, the others in the less usual one."""
        return (FIRST,) if self.number else ("channels_last", FIRST)

    def numbers(self, data_format):
        """Returns {name: array} of one inference and one training step.

        Images are channels-last, weights are in PyTorch's layouts: the names and shapes
        do not depend on the data format.
        """
        arguments = ARGUMENTS[self.block][self.number]
        layer = keras_attention.get(self.block, data_format=data_format, **arguments)
        layer, _ = live(layer, self.shape)
        first = data_format == FIRST
        # Samples whose means differ, as images' do: where a block normalizes means over
        # the batch, rounding would else be all that it sees.
        ones = (1,) * (len(self.shape) - 2)
        means = features(self.shape[0], *ones, self.shape[-1], seed=3)
        x = features(*self.shape) + means
        found = {"inference": apply(layer, x)}
        cotangent = features(*found["inference"].shape, seed=2)
        if first:
            x, cotangent = np.moveaxis(x, -1, 1), np.moveaxis(cotangent, -1, 1)
        y, dx, weights = gradients(layer, x, cotangent)
        found |= {"training": y, "dx": dx}
        if first:
            found |= {
                name: np.moveaxis(found[name], 1, -1) for name in ("training", "dx")
            }
        for name, parameter in torch_parameters(layer).items():
            if parameter.variable.trainable:
                gradient = weights[id(parameter.variable)]
                found[f"gradient/{name}"] = parameter.to_torch(gradient)
            else:
                found[f"after/{name}"] = parameter.variable.numpy()
        return found


CASES = [
    Case(block, number)
    for block, arguments in ARGUMENTS.items()
    for number in range(len(arguments))
]
CASES += [Case(block, 0, VIDEO) for block in TAKE_VIDEO]


def differences(actual, expected):
    """Returns {name: largest difference as a part of the largest value}.

    Gradients of weights are held against the largest one of their kind in the block,
    matrices or vectors: some, of a bias in front of a normalization, are 0 but for
    rounding.
    """
    assert set(actual) == set(expected)
    largest = {}
    for name, array in expected.items():
        kind = _kind(name, array)
        largest[kind] = max(largest.get(kind, 0), np.abs(array).max())
    found = {}
    for name, array in expected.items():
        assert actual[name].shape == array.shape, name
        difference = np.abs(actual[name] - array).max()
        found[name] = difference / largest[_kind(name, array)]
    return found


def _kind(name, array):
    return ("gradient", array.ndim > 1) if name.startswith("gradient/") else name


def main(path):
    """Writes the numbers of all cases."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{case}/{data_format}/{name}": array
        for case in CASES
        for data_format in case.formats
        for name, array in case.numbers(data_format).items()
    }
    np.savez(path, **arrays)
    print(f"{len(arrays)} arrays of {len(CASES)} cases in {path}")


if __name__ == "__main__":
    main(sys.argv[1])

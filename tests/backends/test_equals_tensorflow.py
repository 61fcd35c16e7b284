"""Every block gives TensorFlow's outputs and gradients, on every backend."""

import os
import pathlib

import keras
import numpy as np
import pytest
from backends import cases
from support.comparing import CLOSE
from support.torch_weights import FIRST

import keras_attention

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
FILE = os.environ.get("TENSORFLOW_NUMBERS")


@pytest.fixture(scope="module")
def of_tensorflow():
    if not FILE:
        pytest.fail("TENSORFLOW_NUMBERS names no file: see `make test-backends`")
    with np.load(pathlib.Path(FILE)) as file:
        return dict(file)


@pytest.fixture(scope="module")
def largest():
    """The largest differences so far; they are printed at the end."""
    found = {"outputs": (0.0, ""), "gradients": (0.0, "")}
    yield found
    for kind, (difference, where) in found.items():
        print(f"\nLargest difference of {kind}: {difference:.1e} ({where})")


def check(actual, expected, case, largest):
    found = cases.differences(actual, expected)
    for name, difference in found.items():
        kind = "outputs" if name in ("inference", "training") else "gradients"
        largest[kind] = max(largest[kind], (float(difference), f"{case} {name}"))
    assert {name: d for name, d in found.items() if not d <= CLOSE} == {}
    # what was compared is alive
    assert expected["training"].std() >= 0.05 * np.abs(expected["training"]).mean()


def test_every_block_has_cases():
    assert sorted(cases.ARGUMENTS) == keras_attention.names()


if ON_TENSORFLOW:

    @pytest.mark.parametrize("case", cases.CASES, ids=str)
    def test_data_formats_are_equal(case, largest):
        expected = case.numbers("channels_last")
        check(case.numbers(FIRST), expected, case, largest)

else:  # Each format is compared.

    @pytest.mark.parametrize("case", cases.CASES, ids=str)
    def test_equals_tensorflow(case, of_tensorflow, largest):
        for data_format in case.formats:
            prefix = f"{case}/{data_format}/"
            expected = {
                name.removeprefix(prefix): array
                for name, array in of_tensorflow.items()
                if name.startswith(prefix)
            }
            check(case.numbers(data_format), expected, case, largest)


def test_differences_are_seen():
    case = cases.Case("se", 0)
    expected = case.numbers("channels_last")
    assert max(cases.differences(expected, expected).values()) == 0
    for name in ("inference", "training", "dx", "gradient/fc1.weight"):
        moved = expected | {name: expected[name].copy()}
        largest = np.abs(expected[name]).max()
        moved[name].flat[0] += 1e-4 * largest
        assert cases.differences(moved, expected)[name] > CLOSE, name

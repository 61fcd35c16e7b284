"""Fixtures for all tests: golden files, seeds, hypothesis profiles."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = pathlib.Path(
    os.environ.get("KERAS_ATTENTION_SHARED") or ROOT.parent / "shared"
)
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")

# The first example compiles kernels: no deadline. CI must give the same answer twice.
hypothesis.settings.register_profile("default", deadline=None, max_examples=15)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=15, derandomize=True, database=None
)
# For JAX, where each example compiles every operation anew for its shapes.
hypothesis.settings.register_profile(
    "few", deadline=None, max_examples=2, derandomize=True, database=None
)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=300)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if IN_CI else "default")
)


@pytest.fixture(autouse=True)
def _seeds():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def shared_file():
    """Finds a shared test file by its path; without it skips, but fails in CI."""

    def find(name):
        path = SHARED / name
        if not path.exists():
            reason = f"{path} is missing; KERAS_ATTENTION_SHARED names its folder"
            if IN_CI:
                pytest.fail(reason)
            pytest.skip(reason)
        return path

    return find


@pytest.fixture(scope="session")
def golden(shared_file):
    """Loads a golden file by name, e.g. "coord_attention" or "networks/resnet18"."""

    def load(name):
        with np.load(shared_file(f"golden/{name}.npz")) as file:
            return dict(file)

    return load

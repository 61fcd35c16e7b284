"""Fixtures for the tests of the way to a phone."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from support.mobile_nets import small
from support.quantizing import DATA

from keras_attention.mobile import quantize

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def python():
    """Runs code in a new process; returns what it prints last, read as JSON."""

    def run(code, *arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def net():
    """A small float network with live weights."""
    return small()


@pytest.fixture(scope="module")
def quantized(net):
    """The same, quantized."""
    return quantize(net, DATA)

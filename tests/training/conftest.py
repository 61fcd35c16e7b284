"""What several files of tests want to be so, or to stay so."""

import os

import matplotlib
import pytest
from matplotlib import pyplot


@pytest.fixture
def quick_disk(monkeypatch):
    """Nothing waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def matplotlib_stays():
    """Drawing leaves matplotlib's settings as they were, and no figure open."""
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []

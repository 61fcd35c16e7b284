"""Fixtures: a network that the tests share, weights of the golden networks."""

import importlib.util

import pytest
from support.small_networks import SMALL, randomize

from keras_attention import models


@pytest.fixture(scope="session")
def small():
    """A network with attention on random weights; not to be changed."""
    model = models.MobileNetV2(**SMALL, attention="coord")
    randomize(model)
    return model


@pytest.fixture(scope="session")
def small_file(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.keras"
    small.save(path)
    return path


@pytest.fixture
def state_dict(shared_file):
    """The function that gives a golden network's weights."""
    path = shared_file("golden/networks/rule.py")
    spec = importlib.util.spec_from_file_location("golden_rule", path)
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return rule.state_dict

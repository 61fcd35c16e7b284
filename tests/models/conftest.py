"""Fixtures: a network that the tests share."""

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

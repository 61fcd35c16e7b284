"""Every block in networks of `keras.applications`, up to the int8 file."""

import pytest
from support.keras_networks import NETWORKS, check_every_step, keras_network

from keras_attention import models, names

pytestmark = pytest.mark.nightly

NO_WARM_START = ("sa", "simam", "sk")


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return request.param, keras_network(request.param)


@pytest.mark.parametrize("block", names())
def test_in_every_unit_of_its_own(network, block, tmp_path):
    preset, model = network
    warm = block not in NO_WARM_START
    result = models.insert(model, block, at=preset, warm_start=warm)
    check_every_step(result, model if warm else None, tmp_path)

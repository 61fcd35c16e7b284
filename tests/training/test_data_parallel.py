"""JAX: two forced CPU devices, and two processes, compute what one device computes.

The one device they are compared with is TensorFlow's.
"""

import re

import numpy as np
import pytest
from support import distribution
from support.distribution import assert_equal, one_device

ON_DEVICES = [
    "plain",
    "adamw",
    "batch_normalization",
    "global_clipnorm",
    "accumulation",
    "last_batch",
    "digits",
]
ON_HOSTS = ["plain", "batch_normalization", "last_batch", "digits"]
DEVICES = {
    "KERAS_BACKEND": "jax",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
}
REFUSED = {
    "batch of a recipe": "divisible by the 2 replicas .* received 9: use 8 or 10$",
    "small batch": "received 1: use 2$",
    "batch of data": "received 7: use 6 or 8$",
    "no steps": "^fit on several devices needs steps_per_epoch",
    "own train_step": "^OwnStep overrides train_step",
    "own compute_loss": "^OwnLoss overrides compute_loss",
    "subclassed": "NotFunctional is neither$",
    "unbuilt": "Sequential is neither$",
    "outside": "was built outside of Engine.scope\\(\\): .*kernel has one copy",
    "mirrored": '^"mirrored" is TensorFlow\'s; the backend is jax',
    "multi_worker": '^"multi_worker" is TensorFlow\'s; the backend is jax',
}


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    names = [
        *(*ON_DEVICES, "evaluated", "saved", "resumed", "not_finite", "predicted"),
        "refusals",
    ]
    with distribution.running(folder, names, [DEVICES]) as results:
        for name in ON_DEVICES:
            one_device(name)
    return results[0]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    names = [*ON_HOSTS, "evaluated", "not_finite", "refusals", "agree"]
    with distribution.running(folder, names, distribution.jax_hosts(2)) as results:
        for name in ON_HOSTS:
            one_device(name)
    return results


def test_the_engines(devices, hosts):
    assert devices["engine"] == ["data_parallel", 2, 1, 0, True]
    assert [host["engine"] for host in hosts] == [
        ["data_parallel", 2, 2, 0, True],
        ["data_parallel", 2, 2, 1, False],
    ]


@pytest.mark.parametrize("name", ON_DEVICES)
def test_devices_equal_one_device(devices, name):
    # Another backend and other sums: float32 rounding, 6 steps.
    assert_equal(devices[name], name, tolerance=1e-5, weights=1e-5)


@pytest.mark.parametrize("name", ON_HOSTS)
def test_hosts_equal_one_device(hosts, name):
    for host in hosts:
        assert_equal(host[name], name, tolerance=1e-5, weights=1e-5)


def test_hosts_have_the_same_weights(hosts):
    for name in ON_HOSTS:
        assert hosts[0][name]["weights"] == hosts[1][name]["weights"]


def test_evaluation_before_any_training(devices, hosts):
    from support.distribution_cases import evaluated

    from keras_attention.training import strategy

    expected = evaluated(strategy.Engine())
    for found in (devices, *hosts):
        np.testing.assert_allclose(found["evaluated"], expected, atol=1e-5)


def test_normalization_stays_as_it_is(devices):
    # Keras raises for synchronized=True on JAX, where the batch is the global one.
    saved = devices["saved"]
    assert saved["during"] == [[False, False]]
    distribution.assert_saved_plain(saved)


def test_a_run_goes_on_in_the_middle_of_an_epoch(devices):
    distribution.assert_resumed(devices["resumed"])


def test_a_loss_that_is_not_finite_is_traced_to_its_layer(devices, hosts):
    for found in (devices, *hosts):
        distribution.assert_not_finite(found["not_finite"])


def test_any_number_of_images_is_predicted(devices):
    distribution.assert_predicted(devices["predicted"])


@pytest.mark.parametrize("name", REFUSED)
def test_refused(devices, name):
    assert re.search(REFUSED[name], devices["refusals"][name] or "")


def test_hosts_know_whether_they_agree(hosts):
    assert [host["agree"] for host in hosts] == [[True, False]] * 2


def test_predict_is_refused_on_several_hosts(devices, hosts):
    assert devices["refusals"]["predict"] is None
    assert devices["refusals"]["sequential"] is None  # built, so it is a graph
    for host in hosts:
        assert re.search(
            "^predict does not work on several", host["refusals"]["predict"]
        )

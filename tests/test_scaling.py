"""The paper calculation of docs/scaling.md: benchmarks/scaling.py."""

import importlib.util
import pathlib

import numpy as np
import pytest

from keras_attention import models

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/scaling.md"


@pytest.fixture
def scaling(monkeypatch):
    """The module benchmarks/scaling.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location(
        "scaling_of_the_page", ROOT / "benchmarks/scaling.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ring(gradients):
    """Sums gradients in a ring, part by part; returns sums and bytes sent by each."""
    count = len(gradients)
    parts = [np.split(gradient.copy(), count) for gradient in gradients]
    sent = np.zeros(count, int)
    for turn in range(2 * (count - 1)):
        moving = [parts[gpu][(gpu - turn) % count] for gpu in range(count)]
        for gpu, part in enumerate(moving):
            receiver, index = parts[(gpu + 1) % count], (gpu - turn) % count
            # First each part is summed once around; then its sum is handed on.
            receiver[index] = part + receiver[index] if turn < count - 1 else part
            sent[gpu] += part.nbytes
    return [np.concatenate(own) for own in parts], sent


@pytest.mark.parametrize("gpus", [2, 3, 8])
def test_bytes_are_those_of_a_ring(scaling, gpus):
    rng = np.random.default_rng(0)
    gradients = rng.normal(0, 1, (gpus, 24 * gpus)).astype("float32")
    sums, sent = ring(gradients)
    for own in sums:
        # float32 sums of up to eight numbers, in another order
        np.testing.assert_allclose(own, gradients.sum(0), rtol=1e-5, atol=1e-6)
    expected = scaling.all_reduce_bytes(gradients.shape[1], gpus)
    assert set(sent) == {expected}


def test_times(scaling):
    network = scaling.Network("any", parameters=1_000_000, images_per_second=1000)
    # 2 * 7 / 8 * 4 MB over 1 GB/s
    assert scaling.all_reduce_seconds(network, 8, 1e9) == pytest.approx(7e-3)
    assert scaling.step_seconds(network, 63) == pytest.approx(63e-3)
    assert scaling.efficiency(network, 63, 8, 1e9) == pytest.approx(0.9)
    # 11 images compute 11 ms, 7.33 of these backward; 10 images only 6.67.
    assert scaling.smallest_batch(network, 8, 1e9) == 11


def test_one_gpu_sends_nothing(scaling):
    network = scaling.NETWORKS[0]
    assert scaling.all_reduce_bytes(network.parameters, 1) == 0
    assert scaling.efficiency(network, 32, 1, 1e9) == 1


def test_parameters_are_the_networks(scaling):
    presets = models.presets()
    plain = 23_705_252  # the CIFAR ResNet-50 without attention, 100 classes
    for block in ("coord", "ema"):
        added = presets[f"resnet50_cifar_{block}"].parameters - plain
        assert scaling.in_resnet50(block) == added
    found = {network.name: network.parameters for network in scaling.NETWORKS}
    assert found["MobileNetV2 + CA"] == presets["mobilenet_v2_coord"].parameters
    assert found["ResNet-50"] == presets["resnet50_simam"].parameters  # adds none


def test_batch_stays_below_the_largest(scaling):
    for cluster in scaling.CLUSTERS:
        assert cluster.batch * cluster.gpus <= scaling.LARGEST_BATCH
    assert scaling.Cluster(8, {}).batch == 256
    assert scaling.Cluster(64, {}).batch == 128


def test_page_has_these_tables(scaling):
    page = PAGE.read_text()
    for line in [*scaling.demand_lines(scaling.PER_CORE), *scaling.link_lines()]:
        assert line in page

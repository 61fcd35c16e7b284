"""Whole runs on several devices and hosts: what they leave, and that they agree."""

import pathlib

import keras
import numpy as np
import pytest
from support import distribution, training_run

from keras_attention import models

SCRIPT = pathlib.Path(training_run.__file__)
MIXED = {
    "mirrored": lambda: [{}],
    "multi_worker": lambda: distribution.tensorflow_hosts(2),
    "data_parallel": lambda: distribution.jax_hosts(2),
}
# What a run on one host leaves; on several the models are evaluated afterwards.
FILES = {"model.keras", "recipe.yaml", "labels.txt", "report.html", "report.json"}


def train(folder, strategy, number=0):
    results = folder / f"results{number}"
    results.mkdir()
    arguments = [folder / "out", strategy]
    with distribution.running(
        results, arguments, MIXED[strategy](), script=SCRIPT
    ) as found:
        pass
    return found


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        # The run puts a small network there.
        patch.setattr(models, "MobileNetV2", models.MobileNetV2)
        out = tmp_path_factory.mktemp("one")
        return out, training_run.run(out, "none")


@pytest.mark.parametrize("strategy", ["mirrored", "multi_worker"])
def test_tensorflow_equals_one_device(one_device, strategy, tmp_path):
    expected_out, expected = one_device
    found = train(tmp_path, strategy)
    for host in found:
        assert host["strategy"] == [strategy, 2] and host["resumed"] == "None"
        assert set(host["history"]) == set(expected["history"])
        for name in ("loss", "val_loss"):
            # Sums over the batch in another order, and 22 steps: float32 rounding.
            np.testing.assert_allclose(
                host["history"][name], expected["history"][name], atol=1e-5
            )
    assert [host["wrote"] for host in found] == [True, False][: len(found)]
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} >= FILES | {"quantized.keras"}
    for name, tolerance in (("model.keras", 1e-5), ("quantized.keras", 1e-3)):
        one, other = (
            keras.saving.load_model(folder / name) for folder in (out, expected_out)
        )
        for weight, like in zip(one.weights, other.weights, strict=True):
            # Float32 rounding; and steps of Adam, 22 of at most 5e-5. A range follows
            # the mean of the replicas' extremes: see docs/distribution.md.
            if "range" not in weight.path:
                np.testing.assert_allclose(
                    weight, like, atol=tolerance, err_msg=weight.path
                )


@pytest.mark.slow
def test_jax_hosts_agree_and_go_on(tmp_path):
    one, other = train(tmp_path, "data_parallel")
    assert one == other | {"wrote": True} and not other["wrote"]
    assert one["strategy"] == ["data_parallel", 2]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= FILES
    keras.saving.load_model(tmp_path / "out" / "model.keras")
    again, _ = train(tmp_path, "data_parallel", 1)
    assert again["resumed"] == "Position(epoch=1, step=0)"
    assert again["history"] == one["history"]

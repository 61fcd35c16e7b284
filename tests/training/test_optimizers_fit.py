"""Optimizers of recipes inside `fit`: files, replicas, backends, frozen layers."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from support import optimizing

import keras_attention
from keras_attention.optimization import CoupledSGD
from keras_attention.training import optimizers
from keras_attention.training.recipe import Recipe

ROOT = pathlib.Path(keras_attention.__file__).resolve().parents[1]


def recipe(*overrides):
    return Recipe().replace(["schedule.name=constant", *overrides])


def run(*arguments, backend="tensorflow"):
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_frozen_kernels_stay():
    x = keras.Input((4,))
    frozen = keras.layers.Dense(3, trainable=False)
    model = keras.Model(x, keras.layers.Dense(2)(frozen(x)))
    before = np.asarray(frozen.kernel)
    model.compile(optimizers.build(recipe("optimizer.weight_decay=0.5"), 2), "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 2)), 2, verbose=0)
    np.testing.assert_array_equal(frozen.kernel, before)


def test_decay_behind_loss_scaling():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2, dtype="mixed_float16")]
    )
    built = optimizers.build(
        recipe("optimizer.lr=0.1", "optimizer.weight_decay=0.1"), 5
    )
    model.compile(keras.optimizers.LossScaleOptimizer(built), "mse")
    assert isinstance(model.optimizer.inner_optimizer, CoupledSGD)
    before = np.asarray(model.layers[0].kernel)
    model.fit(np.ones((4, 4)), np.ones((4, 2)), sample_weight=np.zeros(4), verbose=0)
    np.testing.assert_allclose(
        model.layers[0].kernel, before * 0.99, rtol=1e-6
    )  # float32


def test_losses_have_no_penalty_and_files_load_alone(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2)(x))
    built = optimizers.build(
        Recipe().replace(
            [
                "optimizer.weight_decay=0.5",
                "schedule={name: step, milestones: [5, 9], warmup_epochs: 2}",
            ]
        ),
        4,
    )
    model.compile(built, "mse")
    data = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    assert model.losses == []
    model.fit(data, data[:, :2], 2, epochs=3, verbose=0)
    model.save(tmp_path / "model.keras")
    code = """
import sys, json, keras, keras_attention
model = keras.models.load_model(sys.argv[1])
rate = model.optimizer.learning_rate
config = model.optimizer.get_config()
steps = int(model.optimizer.iterations.numpy())
print(json.dumps([steps, float(rate), config["coupled_weight_decay"]]))
print(model.losses, [v.regularizer for v in model.variables])
"""
    first, second = run("-c", code, str(tmp_path / "model.keras"))
    assert json.loads(first) == [12, pytest.approx(0.1, rel=1e-6), 0.5]
    assert second == "[] [None, None]"


@pytest.mark.parametrize(
    ("backend", "arguments"), [("tensorflow", ["mirrored"]), ("jax", [])]
)
def test_two_replicas_and_jax_do_the_same(backend, arguments):
    script = ROOT / "tests/support/optimizing.py"
    found = json.loads(run(str(script), *arguments, backend=backend)[-1])
    for name in optimizing.OPTIMIZERS:
        expected = optimizing.trained(name)
        for ours, theirs in zip(found[name], expected, strict=True):
            # Sums in another order; RMSprop and Adam divide by roots of small squares,
            # which makes a few units in the 7th digit ten times as many.
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=3e-5)

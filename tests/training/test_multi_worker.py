"""Keras' private trainer contract, and two processes on loopback that rely on it."""

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import distribution
from support.distribution import assert_equal, one_device

EQUAL = [
    "plain",
    "batch_normalization",
    "global_clipnorm",
    "steps_per_execution",
    "last_batch",
    "digits",
]


class Recorded(keras.Model):
    """Writes down what the loops of Keras call, and runs no step."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        self.calls.append(("build", iterator._get_iterator().element_spec))

    def make_train_function(self, force=False):
        self.train_function = self.function("train")

    def make_test_function(self, force=False):
        self.test_function = self.function("test")

    def function(self, name):
        def run(iterator):
            for _ in range(self.steps_per_execution):
                next(iterator)
            self.calls.append((name, type(iterator)))
            return {"loss": 0.0}

        return run


def test_keras_calls_what_the_mixin_replaces():
    # If this fails, Keras has changed: read the header of training/multi_worker.py.
    x = keras.Input((4,))
    model = Recorded(x, keras.layers.Dense(2)(x))
    model.calls = []
    model.compile("sgd", "mse", steps_per_execution=2)
    arrays = np.zeros((8, 4), "float32"), np.zeros((8, 2), "float32")
    data = tf.data.Dataset.from_tensor_slices(arrays).batch(2).repeat()
    model.fit(data, steps_per_epoch=4, epochs=2, verbose=0, shuffle=False)
    spec, iterator = data.element_spec, type(iter(data))
    assert model.calls == [("build", spec), *[("train", iterator)] * 4]
    model.calls.clear()
    model.evaluate(data, steps=4, verbose=0)
    assert model.calls == [("build", spec), *[("test", iterator)] * 2]


def test_keras_builds_from_an_example():
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2, name="inner")(x))
    model.compile(keras.optimizers.SGD(momentum=0.9), "mse", metrics=["mae"])
    example = tf.zeros((1, 4)), tf.zeros((1, 2))
    assert set(inspect.signature(model._maybe_symbolic_build).parameters) == {
        "iterator",
        "data_batch",
    }
    model._symbolic_build(data_batch=example)
    assert model.optimizer.built
    assert {metric.name for metric in model.metrics} == {"loss", "compile_metrics"}
    assert len(model.metrics_variables) == 4  # A sum and a count of each.
    outer = keras.Sequential([keras.Input((4,)), model])
    names = [layer.name for layer in outer._flatten_layers(include_self=False)]
    assert names.index(model.name) < names.index("inner")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multi_worker")
    names = [*EQUAL, "masks", "overflow", "not_finite", "refusals", "agree"]
    hosts = distribution.tensorflow_hosts(2)
    with distribution.running(folder, names, hosts) as results:
        for name in EQUAL:
            one_device(name)
    return results


def test_the_engines(found):
    assert [result["engine"] for result in found] == [
        ["multi_worker", 2, 2, 0, True],
        ["multi_worker", 2, 2, 1, False],
    ]


@pytest.mark.parametrize("name", EQUAL)
def test_equals_one_device(found, name):
    for host in found:
        # Sums over the batch are taken in another order: float32 rounding.
        assert_equal(host[name], name, tolerance=1e-5, weights=1e-5)


def test_hosts_have_the_same_weights(found):
    for name in EQUAL:
        assert found[0][name]["weights"] == found[1][name]["weights"]


def test_masks(found):
    assert found[0]["masks"] == found[1]["masks"]
    first, second = found[0]["masks"]
    assert first == second
    # Identical masks on both hosts would have no feature that passes once.
    assert all(96 < passed.count(1) < 160 for passed in first["passed"])


def test_overflow(found):
    assert found[0]["overflow"] == found[1]["overflow"]
    overflow = found[0]["overflow"]
    assert overflow["0"] == overflow["1"]
    assert overflow["1"]["scale"] == 2**14
    assert all(np.isfinite(values).all() for values in overflow["1"]["weights"])


def test_a_loss_that_is_not_finite_is_traced_to_its_layer(found):
    for host in found:
        distribution.assert_not_finite(host["not_finite"])


def test_hosts_know_whether_they_agree(found):
    assert [host["agree"] for host in found] == [[True, False]] * 2


def test_predict_is_refused(found):
    for host in found:
        assert re.search(
            "^predict does not work on several", host["refusals"]["predict"]
        )

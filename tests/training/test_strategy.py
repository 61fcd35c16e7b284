"""Which engine is chosen, what is refused by name, and one device."""

import json
import types

import keras
import pytest
from support.distribution import Images, batches

from keras_attention.training import strategy


def config(**cluster):
    task = {"type": "worker", "index": 0}
    return json.dumps({"cluster": cluster, "task": task})


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("KERAS_DISTRIBUTION_NUM_PROCESSES", raising=False)


@pytest.mark.parametrize("name", [None, "none"])
def test_one_device(name):
    engine = strategy.choose(name)
    assert engine == strategy.Engine("none", replicas=1, hosts=1, host=0)
    assert engine.is_chief
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2)(x))
    with engine.scope():
        assert engine.prepare(model) is model
    test = batches(5)
    assert engine.evaluation(test) is test
    # Epoch 2 from its step 1 on.
    first, _ = next(iter(engine.dataset(Images(), 2, 1)))
    second, _ = list(Images().epochs(2).take(2))[1]
    assert (first.numpy() == second.numpy()).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mirored",
            "^strategy must be one of none, mirrored, multi_worker, data_parallel; "
            "received 'mirored': did you mean 'mirrored'\\?$",
        ),
        ("MultiWorker", "did you mean 'multi_worker'\\?$"),
        ("", "received ''"),
        ("ParameterServerStrategy", 'no code for it.* Use "multi_worker"\\.$'),
        ("parameter_server", "is not offered: Keras 3 has no code for it"),
        ("CentralStorageStrategy", 'batch normalization.* Use "mirrored"\\.$'),
        ("central-storage", "is not offered"),
        ("TPUStrategy", 'no TPU operations.* "data_parallel"\\.$'),
        ("OneDeviceStrategy", 'it adds nothing to "none"'),
        ("horovod", 'no way to Keras 3\\. Use "multi_worker"'),
        ("data_parallel", '"data_parallel" needs the JAX backend, this is tensorflow'),
        ("mirrored", '^"mirrored" needs several devices, here is 1 CPU: use "none"$'),
        ("multi_worker", "needs the environment variable TF_CONFIG .* it names 0$"),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        strategy.choose(name)


def test_a_cluster_chooses_multi_worker(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config(worker=["a:1", "b:1"]))
    assert strategy.workers() == 2
    assert strategy.what_is_there() == "multi_worker"
    monkeypatch.setenv("TF_CONFIG", config(chief=["a:1"], worker=["b:1", "c:1"]))
    assert strategy.workers() == 3
    monkeypatch.setenv("TF_CONFIG", config(worker=["a:1"]))
    assert strategy.what_is_there() == "none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "^TF_CONFIG is not as documented: '{'$"),
        ("[1]", "^TF_CONFIG is not as documented"),
        ('{"cluster": 3}', "^TF_CONFIG is not as documented"),
        (config(worker=["a:1"], ps=["b:1"]), r"parameter servers \('ps'\).*'worker'$"),
    ],
)
def test_clusters_that_are_refused(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message):
        strategy.choose()


def test_recipes_are_checked_before_training():
    recipe = types.SimpleNamespace(batch_size=9)
    assert strategy.choose("none", recipe).replicas == 1
    engine = strategy.Engine("mirrored", replicas=4)
    assert engine.part_of(8) == 2
    for batch, advice in ((9, "use 8 or 12"), (3, "use 4")):
        with pytest.raises(ValueError, match=f"4 replicas .*{batch}: {advice}$"):
            engine.check(types.SimpleNamespace(batch_size=batch))


def test_several_hosts_have_one_chief():
    hosts = [strategy.Engine("multi_worker", 4, 2, host) for host in range(2)]
    assert [engine.is_chief for engine in hosts] == [True, False]

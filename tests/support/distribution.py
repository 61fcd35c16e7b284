"""Trains small networks on several devices, in processes of their own.

A process has one strategy, so that a test starts one per strategy (or as many as there
are hosts) and has all cases run in it: `python distribution_cases.py FILE CASE ...`
writes what each case returned into a JSON file. The same cases on one device are what
they are compared with.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_attention import CoordAttention, data
from keras_attention.training import strategy

SIDE, CLASSES, BATCH, STEPS = 8, 3, 8, 3
ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = pathlib.Path(__file__).with_name("distribution_cases.py")


@dataclasses.dataclass(frozen=True)
class Images:
    """Random labelled images with the parts of `ImageData` that an engine asks for."""

    batch_size: int = BATCH
    steps: int = STEPS

    def epochs(self, start_epoch=0, start_step=0, shard=(1, 0)):
        x, y = (tf.constant(part) for part in samples(self.batch_size * self.steps))
        hosts, host = shard
        part = self.batch_size // hosts

        def batch(number):
            # Each epoch begins one sample later.
            epoch, step = number // self.steps, number % self.steps
            first = epoch + step * self.batch_size + host * part
            rows = (first + tf.range(part, dtype=tf.int64)) % len(x)
            return tf.gather(x, rows), tf.gather(y, rows)

        return tf.data.Dataset.counter(start_epoch * self.steps + start_step).map(batch)


def samples(count, seed=0):
    """Images whose labels a small network can learn, and the labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count).astype("int32")
    x = rng.normal(0, 1, (count, SIDE, SIDE, 3)) * (1 + y[:, None, None, None])
    return x.astype("float32"), y


def batches(count):
    """Test data: batches of 8, the last one what is left."""
    return tf.data.Dataset.from_tensor_slices(samples(count, seed=1)).batch(BATCH)


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, how it is trained, and on how many samples it is tested."""

    optimizer: Callable = lambda: keras.optimizers.SGD(0.1, momentum=0.9)
    normalized: bool = False
    regularizer: Any = None
    policy: str = "float32"
    test: tuple[int, ...] = (21,)
    steps_per_execution: int = 1
    steps: int = STEPS
    digits: bool = False  # Real images, read by `keras_attention.data`.

    def network(self):
        keras.utils.set_random_seed(0)
        x = keras.Input((SIDE, SIDE, 3))
        y = keras.layers.Conv2D(
            4, 3, kernel_regularizer=self.regularizer, dtype=self.policy
        )(x)
        if self.normalized:
            y = keras.layers.BatchNormalization(momentum=0.5)(y)
            y = CoordAttention(reduction=2, min_channels=2)(y)
        y = keras.layers.ReLU()(y)
        y = keras.layers.GlobalAveragePooling2D()(y)
        model = keras.Model(x, keras.layers.Dense(10 if self.digits else CLASSES)(y))
        rng = np.random.default_rng(0)
        for weight in model.trainable_weights:
            values = rng.normal(0, 0.3, weight.shape) + (weight.name == "gamma")
            weight.assign(values.astype("float32"))
        return model

    def __call__(self, engine):
        with engine.scope():
            model = self.network()
            trained = engine.prepare(model)
            trained.compile(
                self.optimizer(),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"],
                steps_per_execution=self.steps_per_execution,
            )
        if self.digits:
            images = data.load("digits", image_size=SIDE, batch_size=64)
            tests = [images.test]
        else:
            images = Images(steps=self.steps)
            tests = [batches(count) for count in self.test]
        history = trained.fit(
            engine.dataset(images, 0, 0),
            steps_per_epoch=self.steps,
            epochs=2,
            validation_data=engine.evaluation(tests[0]),
            shuffle=False,
            verbose=0,
        ).history
        found = [trained.evaluate(engine.evaluation(t), verbose=0) for t in tests]
        return {
            "history": history,
            "tests": found,
            "weights": [
                keras.ops.convert_to_numpy(w).ravel().tolist() for w in model.weights
            ],
            "steps": int(keras.ops.convert_to_numpy(trained.optimizer.iterations)),
        }


SGD, AdamW = keras.optimizers.SGD, keras.optimizers.AdamW

# Each of them equals one device.
TRAINED = {
    "plain": Case(),
    "adamw": Case(lambda: AdamW(0.01, weight_decay=0.1, use_ema=True)),
    "global_clipnorm": Case(lambda: SGD(0.1, global_clipnorm=0.05)),
    "clipnorm": Case(lambda: SGD(0.1, clipnorm=0.02)),
    "clipvalue": Case(lambda: SGD(0.1, clipvalue=0.01)),
    "batch_normalization": Case(normalized=True),
    "regularizer": Case(regularizer=keras.regularizers.L2(0.1)),
    "steps_per_execution": Case(steps_per_execution=2, steps=4, test=(40,)),
    "last_batch": Case(test=(17, 16, 9, 3)),
    "digits": Case(digits=True),
    "accumulation": Case(lambda: SGD(0.1, gradient_accumulation_steps=2)),
}


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def tensorflow_hosts(count):
    """Environments of `count` processes under MultiWorkerMirroredStrategy."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    return [
        {
            "TF_CONFIG": json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }
            )
        }
        for index in range(count)
    ]


def jax_hosts(count):
    """Environments of `count` processes under keras.distribution."""
    (port,) = free_ports(1)
    return [
        {
            "KERAS_BACKEND": "jax",
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
            "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
            "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
        }
        for index in range(count)
    ]


@contextlib.contextmanager
def running(folder, names, environments, timeout=600, script=SCRIPT):
    """Runs cases in new processes that belong together, beside the code inside.

    Args:
        folder: For their logs and results.
        names: Of the cases.
        environments: One per process: what is added to the environment.
        timeout: Seconds for all of them.
        script: What is run: is given a file for its results, and the names.

    Yields:
        A list to which, at the end, each process' results are added: a dictionary from
        names to what the cases returned.
    """
    common = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
    }
    until, found = time.monotonic() + timeout, []
    paths = [folder / f"{index}.json" for index in range(len(environments))]
    logs = [path.with_suffix(".log") for path in paths]
    with contextlib.ExitStack() as stack:
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error::UserWarning", script, path, *names],
                env=os.environ | common | environment,
                stdout=stack.enter_context(log.open("w")),
                stderr=subprocess.STDOUT,
            )
            for path, log, environment in zip(paths, logs, environments, strict=True)
        ]
        for process in processes:
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield found
        # One that failed leaves the others waiting for it.
        codes = [None]
        while None in codes and not any(codes) and time.monotonic() < until:
            time.sleep(0.1)
            codes = [process.poll() for process in processes]
    assert codes == [0] * len(processes), "\n".join(
        [f"{codes} within {timeout} s", *(log.read_text()[-6000:] for log in logs)]
    )
    found += [json.loads(path.read_text()) for path in paths]


@functools.cache
def one_device(name):
    """What a case of `TRAINED` returns on one device."""
    return TRAINED[name](strategy.Engine())


def assert_equal(found, name, tolerance, weights):
    """Checks a case of `TRAINED` against one device.

    Args:
        found: What it returned.
        name: Of the case.
        tolerance: Of losses and accuracies: largest absolute difference.
        weights: Of weights and moving statistics.
    """
    expected = one_device(name)
    assert found["steps"] == expected["steps"]
    assert set(found["history"]) == set(expected["history"])
    for key, values in expected["history"].items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(
            found["history"][key], values, rtol=0, atol=tolerance, err_msg=key
        )
    np.testing.assert_allclose(
        found["tests"], expected["tests"], rtol=0, atol=tolerance
    )
    for one, other in zip(found["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=weights)
    loss = largest_difference(found["history"]["loss"], expected["history"]["loss"])
    weight = largest_difference(found["weights"], expected["weights"])
    print(f"{name}: losses within {loss:.1e}, weights within {weight:.1e}")  # pytest -s


def largest_difference(found, expected):
    """The largest absolute difference of two lists of numbers or of lists."""
    pairs = zip(found, expected, strict=True)
    return max(np.abs(np.subtract(one, other)).max() for one, other in pairs)


def assert_saved_plain(saved):
    """Checks that what training put into layers is in none of them afterwards."""
    assert saved["after"] == [False, False]
    assert saved["same_class"] and saved["class"] == "Functional"
    assert saved["difference"] == 0.0


def assert_resumed(found):
    """Checks what `distribution_runs.resumed` returned."""
    assert set(found) == {"float32", "mixed_float16"}
    for epoch, step, difference in found.values():
        # From the checkpoint before; and the same operations in the same order.
        assert (epoch, step, difference) == (1, 2, 0)


def assert_not_finite(found):
    """Checks what `distribution_runs.not_finite` returned."""
    assert found == (
        "the loss is not finite in step 4 of epoch 2: it began with the output of the "
        "layer steep. The model is back at the checkpoint of epoch 1, step 2"
    )


def assert_predicted(found):
    """Checks what two batch sizes answered to 37 images."""
    one, other = found
    assert np.shape(one) == (37, 3)
    # Other batch sizes: float32 rounding.
    np.testing.assert_allclose(one, other, atol=1e-5)


def main(cases, devices=2):
    """What a process does: chooses the engine and writes what the cases return."""
    path, *names = sys.argv[1:]
    if keras.backend.backend() == "tensorflow" and "TF_CONFIG" not in os.environ:
        cpu = tf.config.list_physical_devices("CPU")[0]
        halves = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, halves)
        engine = strategy.choose("mirrored")
    else:
        engine = strategy.choose()
    found = {
        "engine": [
            engine.name,
            engine.replicas,
            engine.hosts,
            engine.host,
            engine.is_chief,
        ]
    }
    for name in names:
        print(name, flush=True)
        found[name] = cases[name](engine)
    pathlib.Path(path).write_text(json.dumps(found))

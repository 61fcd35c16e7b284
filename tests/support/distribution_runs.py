"""Cases of `distribution.py` in which a run breaks off: killed, or by its loss."""

import dataclasses
import pathlib
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf
from support.checkpointing import BreakOff
from support.distribution import samples

from keras_attention.training import non_finite, resuming
from keras_attention.training.checkpoints import Checkpoints

EPOCHS, STEPS = 2, 5
BROKEN = (1, 3)  # epoch and step in front of which a run breaks off
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Random rows: every batch another one.

    `height` is what a number has in the batch at which a run breaks off.
    """

    height: float = 0.0
    batch_size: int = 8

    def epochs(self, start_epoch=0, start_step=0, shard=(1, 0)):
        hosts, host = shard
        x, y = samples(EPOCHS * STEPS * self.batch_size)
        rows = x.reshape(len(x), -1)[:, :8]
        # In the half of the last of several hosts.
        rows[(BROKEN[0] * STEPS + BROKEN[1] + 1) * self.batch_size - 1, 0] += (
            self.height
        )
        data = tf.data.Dataset.from_tensor_slices((rows, y))
        data = data.batch(self.batch_size // hosts).shard(hosts, host)
        return data.repeat().skip(STEPS * start_epoch + start_step)


def _run(engine, folder, policy="float32", rows=Rows(), callbacks=()):  # noqa: B008
    """Trains, or goes on; returns where it began and the values of all variables."""
    with engine.scope():
        keras.utils.set_random_seed(0)
        x = keras.Input((8,))
        y = keras.layers.Dense(4, dtype=policy)(x)
        y = keras.layers.BatchNormalization(dtype=policy)(y)
        y = keras.layers.Dropout(0.5, dtype=policy)(y)
        y = keras.layers.Dense(3, dtype=policy)(y)
        # Infinite where its input is large.
        steep = keras.layers.Activation("exponential", name="steep", dtype=policy)(x)
        y = keras.layers.Add(dtype=policy)([y, steep[:, :3]])
        model = keras.Model(x, y)
        trained = engine.prepare(model)
        rate = keras.optimizers.schedules.CosineDecay(0.1, EPOCHS * STEPS)
        trained.compile(keras.optimizers.AdamW(rate, use_ema=True), LOSS)
    kept = Checkpoints(folder, write=engine.is_chief)
    start = kept.restore(trained)
    resuming.fit(
        trained,
        lambda at: engine.dataset(rows, at.epoch, at.step),
        checkpoints=kept,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        start=start,
        every_steps=2,
        batches=lambda at: rows.epochs(at.epoch, at.step),
        callbacks=callbacks,
        verbose=0,
    )
    variables = (*trained.variables, *trained.optimizer.variables)
    return start, [np.asarray(keras.ops.convert_to_numpy(v)) for v in variables]


def resumed(engine):
    """Runs broken off in the second epoch: where they went on, and how they ended.

    Returns:
        By precision: the first batch, and the largest difference from a whole run of
        any variable of the model and of its optimizer.
    """
    found = {}
    for policy in ("float32", "mixed_float16"):
        with tempfile.TemporaryDirectory() as folder:
            whole, broken = (pathlib.Path(folder, name) for name in ("a", "b"))
            _, expected = _run(engine, whole, policy)
            try:
                _run(engine, broken, policy, callbacks=[BreakOff(*BROKEN)])
            except InterruptedError:
                start, values = _run(engine, broken, policy)
        differences = [
            float(np.abs(one.astype("float64") - other).max())
            for one, other in zip(values, expected, strict=True)
        ]
        found[policy] = [start.epoch, start.step, max(differences)]
    return found


def not_finite(engine):
    """What is said of a batch under which one layer is infinite, for one sample."""
    # Beside the file of the first process' results, for all hosts.
    folder = pathlib.Path(sys.argv[1]).parent / "not_finite"
    try:
        _run(engine, folder, rows=Rows(height=1e3))
    except non_finite.NonFiniteLoss as error:
        return str(error)

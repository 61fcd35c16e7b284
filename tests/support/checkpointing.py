"""A net with all kinds of state, and what a folder of checkpoints holds."""

import keras
import numpy as np

from keras_attention.training.checkpoints import Position

IMAGES = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
CLASSES = np.arange(8) % 3


def network(inputs, units, dropout, classes, dtype="float32"):
    """Batch statistics and random masks between two dense layers."""
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(units, activation="relu", dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.Dropout(dropout, dtype=dtype),
            keras.layers.Dense(classes, dtype=dtype),
        ]
    )


def make_model(units=5, dtype="float32", optimizer=None):
    model = network(4, units, 0.5, 3, dtype)
    model.compile(
        optimizer or keras.optimizers.AdamW(0.01, use_ema=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=True,  # tracing would take most of the time
    )
    return model


def train(model, steps=3):
    for _ in range(steps):
        model.train_on_batch(IMAGES, CLASSES)
    return model


def state(model):
    variables = (*model.variables, *model.optimizer.variables)
    return [variable.numpy() for variable in variables]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


class BreakOff(keras.callbacks.Callback):
    """Raises in front of a batch."""

    def __init__(self, epoch, step, begin=None):
        super().__init__()
        self.at = epoch, step
        self.begin = begin or Position()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        offset = self.begin.step if self.epoch == self.begin.epoch else 0
        if (self.epoch, offset + batch) == self.at:
            raise InterruptedError


def names(checkpoints):
    return [path.name.split(".")[0] for path in checkpoints.paths]

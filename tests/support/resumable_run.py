"""A small training run that can be killed: `python resumable_run.py FOLDER [STRATEGY]`.

Trains a net with batch normalization and dropout on the augmented digits, with cosine
schedule and averaged weights, on from whatever checkpoints FOLDER has. At the end it
leaves FOLDER/final.npz: every variable, and the log of every epoch.

Prints "step" before each step, and "writing" when a checkpoint is about to be written,
so that a test can kill it at a chosen moment.
"""

import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_attention import data
from keras_attention.training import checkpoints, resuming, strategy

EPOCHS, BATCH_SIZE, EVERY_STEPS = 4, 64, 6
WRITING_SECONDS = 0.05


class Tell(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        print("step", flush=True)


def slow_sync(descriptor, sync=os.fsync):
    # Longer than it takes, so that a kill can come between writing and renaming.
    print("writing", flush=True)
    time.sleep(WRITING_SECONDS)
    sync(descriptor)


def make_model(steps, engine):
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(layers.ReLU()(x))
    x = layers.Dropout(0.3)(x)
    network = keras.Model(inputs, layers.Dense(10)(x))
    model = engine.prepare(network)
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(0.1, steps),
            momentum=0.9,
            nesterov=True,
            use_ema=True,
            ema_momentum=0.9,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.optimizer.build(model.trainable_variables)
    return model


def main(folder, name="none"):
    engine = strategy.choose(name)
    keras.utils.set_random_seed(0)
    images = data.load("digits", image_size=8, batch_size=BATCH_SIZE)

    with engine.scope():
        model = make_model(EPOCHS * images.steps_per_epoch, engine)
    kept = checkpoints.Checkpoints(folder / "checkpoints", write=engine.is_chief)
    recipe = {"epochs": EPOCHS, "batch_size": BATCH_SIZE}
    start = kept.restore(model, recipe)
    print("begins at", start, flush=True)
    history = resuming.fit(
        model,
        lambda position: engine.dataset(images, position.epoch, position.step),
        checkpoints=kept,
        epochs=EPOCHS,
        steps_per_epoch=images.steps_per_epoch,
        start=start,
        recipe=recipe,
        every_steps=EVERY_STEPS,
        validation_data=engine.evaluation(images.test),
        callbacks=[Tell()],
        verbose=0,
    )
    variables = (*model.variables, *model.optimizer.variables)
    values = {f"variable {i}": v.numpy() for i, v in enumerate(variables)}
    if engine.is_chief:
        np.savez(folder / "final.npz", **values, **history)


if __name__ == "__main__":
    os.fsync = slow_sync
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])

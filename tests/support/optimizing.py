"""Two epochs of a small network under each optimizer, on a backend and its devices.

KERAS_BACKEND=jax python tests/support/optimizing.py [mirrored]

prints the trained weights as JSON; "mirrored": on two logical CPUs of TensorFlow.
"""

import contextlib
import json
import sys

import keras
import numpy as np

from keras_attention.training import optimizers
from keras_attention.training.recipe import Recipe

OPTIMIZERS = {
    "sgd": ["optimizer.lr=0.05", "optimizer.nesterov=true"],
    "rmsprop": ["optimizer.name=rmsprop", "optimizer.lr=0.01"],
    "adamw": ["optimizer.name=adamw", "optimizer.lr=0.01"],
}
STEPS, BATCH = 6, 8


def network():
    """Convolution, depthwise convolution, Dense: no random numbers, no statistics."""
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    x = keras.layers.DepthwiseConv2D(3)(x)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def trained(name, scope=contextlib.nullcontext):
    """Returns {name: weights} after two epochs with a decay that can't be missed."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, 6, 6, 3)).astype("float32")
    y = rng.normal(size=(STEPS * BATCH, 2)).astype("float32")
    recipe = Recipe().replace(
        [
            "epochs=2",
            "optimizer.weight_decay=0.2",
            "schedule.warmup_epochs=0.5",
            *OPTIMIZERS[name],
        ]
    )
    with scope():
        model = network()
        for weight in model.weights:
            weight.assign(0.3 * rng.normal(size=weight.shape))
        model.compile(optimizers.build(recipe, STEPS), "mse")
    model.fit(x, y, BATCH, epochs=2, shuffle=False, verbose=0)
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def main(mirrored=""):
    """Prints what each optimizer leaves."""
    scope = contextlib.nullcontext
    if mirrored:
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, logical)
        scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope
    found = {
        name: [weight.tolist() for weight in trained(name, scope)]
        for name in OPTIMIZERS
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

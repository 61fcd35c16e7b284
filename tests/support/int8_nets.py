"""Small live nets and images for the tests of the way to TFLite."""

import keras
import numpy as np
from support.small_networks import randomize

from keras_attention import CoordAttention, image_input
from keras_attention.mobile import litert


def randomized(model, seed=1):
    """Returns the model with random weights and statistics: never test initial ones."""
    randomize(model, seed)
    return model


def photo_bytes(count, size, seed=2):
    """Returns uint8 images (count, size, size, 3) with flat patches, as photos have."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (count, -(-size // 4), -(-size // 4), 3), "uint8")
    return patches.repeat(4, 1).repeat(4, 2)[:, :size, :size]


def scaled(images):
    """Returns what the Python pipeline makes of bytes: b / 128 - 1, float32."""
    return images.astype("float32") / 128 - 1


def small_net(classes=5, size=8, activation=None):
    """A live convolutional net of a few layers, (N, size, size, 3) -> (N, classes)."""
    layers = keras.layers
    image = image_input.make_input((size, size, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(image)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu6", name="depth")(x)
    x = layers.Add(name="sum")([x, layers.Conv2D(8, 1, name="project")(y)])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, activation=activation, name="classifier")(x)
    return randomized(keras.Model(image, outputs, name="small"))


def attentive_net(classes=4):
    """A live net with two CoordAttention blocks, (N, 8, 8, 3) -> (N, classes)."""
    layers = keras.layers
    image = image_input.make_input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu6", name="stem")(image)
    x = CoordAttention(reduction=2, name="first")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="body")(x)
    x = CoordAttention(reduction=2, name="second")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, name="classifier")(x)
    return randomized(keras.Model(image, outputs, name="attentive"))


def file_answers(path, x):
    """Returns what a file of one output answers to real inputs, in real numbers."""
    runner = litert.Runner(path)
    return litert.dequantize(runner(x)[0], runner.outputs[0])

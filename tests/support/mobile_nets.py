"""Networks of every form that `keras_attention.mobile` takes, on live weights."""

import keras
import numpy as np
from keras import layers, ops

from keras_attention import CoordAttention, models


def images(count, size=16, seed=1):
    """Returns bytes (count, size, size, 3): colours, gradients and waves, as photos."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j][..., None, None]
    y, x = np.moveaxis(y, 2, 0), np.moveaxis(x, 2, 0)  # (1, size, size, 1)

    def random(low, high):
        return rng.uniform(low, high, (count, 1, 1, 3))

    values = (
        random(0, 1) + random(-0.7, 0.7) * (x - 0.5) + random(-0.7, 0.7) * (y - 0.5)
    )
    waves = np.sin(random(-20, 20) * x + random(-20, 20) * y + random(0, 6))
    return np.round(255 * np.clip(values + 0.3 * waves, 0, 1)).astype("uint8")


def scaled(photos):
    """Returns bytes as the networks of this package take them."""
    return photos.astype("float32") / 128 - 1


def randomize(model, seed=0):
    """Gives every weight a random value, with which signals keep their size.

    Initial weights would hide mistakes: zero biases, means of 0 and variances of 1.
    """
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape, name = tuple(weight.shape), weight.name
        if not keras.backend.is_float_dtype(weight.dtype):
            continue  # the state of a random number generator
        if name == "kernel":
            depthwise = len(shape) == 4 and shape[-1] == 1
            inputs = np.prod(shape[:2] if depthwise else shape[:-1])
            value = rng.normal(0, np.sqrt(2 / inputs), shape)
        elif name in ("beta", "bias", "moving_mean"):
            value = rng.normal(0, 0.3, shape)
        else:
            value = rng.uniform(0.5, 1.5, shape)
        weight.assign(value)
    return model


def settle(model, data, damping=0.05, seed=0):
    """Gives every batch normalization nearly the statistics of the data.

    With statistics that have nothing to do with the data a deep network gives the same
    output for all images. With exactly those of the data it is chaotic: it amplifies
    the rounding errors of float32 to 1e-3. Both make comparisons worthless; a small
    number added to the variances stands between the two.
    """
    rng = np.random.default_rng(seed)
    norms = [
        layer
        for layer in all_layers(model)
        if isinstance(layer, layers.BatchNormalization)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(data, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean = ops.convert_to_numpy(norm.moving_mean)
        variance = ops.convert_to_numpy(norm.moving_variance)
        mean = mean + rng.normal(0, 0.1, mean.shape) * np.sqrt(variance)
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(
            (variance + damping) * rng.uniform(0.8, 1.25, mean.shape)
        )
    return model


def all_layers(layer):
    """Returns a layer and all layers inside of it, each once."""
    found, stack = {}, [layer]
    while stack:
        value = stack.pop()
        if isinstance(value, keras.Layer):
            if id(value) not in found:
                found[id(value)] = value
                stack += getattr(value, "layers", None) or vars(value).values()
        elif isinstance(value, list | tuple):
            stack += value
        elif isinstance(value, dict):
            stack += value.values()
    return list(found.values())


def mobilenet(attention="coord"):
    """MobileNetV2 of this package, all 17 units, in 32 px."""
    return models.MobileNetV2((32, 32, 3), 10, width=0.35, attention=attention)


def application(front):
    """MobileNetV2 of keras.applications behind a layer that takes bytes."""
    inputs = keras.Input((32, 32, 3), name="image")
    if front == "rescaling":
        x = layers.Rescaling(1 / 127.5, offset=-1, name="front")(inputs)
    else:
        mean, variance = (120.0, 110.0, 100.0), (60.0**2, 58.0**2, 65.0**2)
        x = layers.Normalization(mean=mean, variance=variance, name="front")(inputs)
    backbone = keras.applications.MobileNetV2(
        (32, 32, 3), 0.35, weights=None, classes=10, classifier_activation=None
    )
    return keras.Model(inputs, backbone(x))


def residual():
    """ResNet-like: sums, a projection, and a normalization behind a sum."""
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    for unit, (channels, stride) in enumerate([(8, 1), (16, 2), (16, 1)]):
        name, shortcut = f"unit_{unit}", x
        if stride > 1:
            shortcut = layers.Conv2D(channels, 1, stride, name=f"{name}_project")(x)
            shortcut = layers.BatchNormalization(name=f"{name}_project_norm")(shortcut)
        y = layers.Conv2D(channels, 3, stride, "same", name=f"{name}_conv_1")(x)
        y = layers.BatchNormalization(name=f"{name}_norm_1")(y)
        y = layers.Activation("relu", name=f"{name}_relu_1")(y)
        y = layers.Conv2D(channels, 3, padding="same", name=f"{name}_conv_2")(y)
        y = layers.BatchNormalization(name=f"{name}_norm_2")(y)
        x = layers.Add(name=f"{name}_add")([shortcut, y])
        x = layers.ReLU(name=f"{name}_relu_2")(x)
    x = layers.Add(name="three")([x, shortcut, y])
    x = layers.BatchNormalization(name="alone")(x)  # not behind a convolution
    x = layers.ReLU(name="last_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.BatchNormalization(name="flat")(x)
    return keras.Model(inputs, layers.Dense(5, name="classifier")(x))


def sequential():
    """A plain Sequential net, with layers that matter in training only."""
    return keras.Sequential(
        [
            keras.Input((16, 16, 3), name="image"),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.1),
            layers.Conv2D(8, 3, activation="relu", name="conv_1"),
            layers.BatchNormalization(name="norm_1"),
            layers.MaxPooling2D(name="pool_1"),
            layers.GaussianNoise(0.1),
            layers.Conv2D(8, 3, activation="relu6", name="conv_2"),
            layers.BatchNormalization(name="norm_2"),
            layers.SpatialDropout2D(0.2),
            layers.AveragePooling2D(2, name="pool_2"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.5),
            layers.Dense(12, activation="relu", name="hidden"),
            layers.Dense(5, activation="softmax", name="classifier"),
        ],
        name="plain",
    )


def nested():
    """A backbone that is called twice, in a model that stands in a Sequential."""
    backbone = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 3, strides=2, padding="same", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(6.0, name="relu"),
        ],
        name="backbone",
    )
    inputs = keras.Input((16, 16, 3))
    one = backbone(inputs)
    two = backbone(layers.AveragePooling2D(3, 1, "same", name="blur")(inputs))
    x = layers.Concatenate(name="both")([one, two])
    inner = keras.Model(inputs, layers.Conv2D(12, 3, name="mix")(x), name="inner")
    head = [
        layers.ReLU(name="relu"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(5, name="classifier"),
    ]
    return keras.Sequential([keras.Input((16, 16, 3)), inner, *head], name="outer")


def twice():
    """A convolution and its normalization called twice, and an attention block."""
    conv = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")
    norm = layers.BatchNormalization(name="norm")
    attention = CoordAttention(reduction=4, name="attention")
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 1, activation="relu", name="widen")(inputs)
    x = attention(layers.ReLU(name="relu_1")(norm(conv(x))))
    x = attention(layers.ReLU(name="relu_2")(norm(conv(x))))
    x = layers.Flatten(name="flatten")(layers.MaxPooling2D(4, name="pool")(x))
    return keras.Model(inputs, layers.Dense(5, name="classifier")(x))


def several():
    """Two inputs and two outputs, in lists."""
    image, vector = (
        keras.Input((16, 16, 3), name="image"),
        keras.Input((4,), name="side"),
    )
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="conv")(image)
    y = layers.Dense(8, activation="sigmoid", name="gate")(vector)
    x = layers.Multiply(name="gated")([x, layers.Reshape((1, 1, 8), name="to_map")(y)])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    both = layers.Concatenate(name="both")([x, y])
    outputs = [layers.Dense(5, name="classes")(both), layers.Dense(3, name="box")(x)]
    return keras.Model([image, vector], outputs)


def dictionaries():
    """The same in dictionaries, whose keys are not in the order of the layers."""
    model = several()
    inputs = {"side": model.inputs[1], "image": model.inputs[0]}
    return keras.Model(inputs, {"scores": model.outputs[0], "box": model.outputs[1]})


@keras.saving.register_keras_serializable(package="mobile_nets")
class Branches(layers.Layer):
    """A composite layer: lists and dictionaries of layers, and a gamma of its own."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.convs = [layers.Conv2D(filters, k, padding="same") for k in (1, 3)]
        self.norms = {"last": layers.BatchNormalization()}
        self.drop = layers.Dropout(0.5)
        self.squeeze = keras.Sequential(
            [layers.Conv2D(4, 1, activation="relu"), layers.Conv2D(filters, 1)]
        )

    def build(self, shape):
        for conv in self.convs:
            conv.build(shape)
        self.norms["last"].build((*shape[:-1], self.filters))
        self.squeeze.build((None, 1, 1, self.filters))
        self.gamma = self.add_weight(shape=(self.filters,), name="gamma")

    def call(self, x, training=False):
        y = self.convs[0](x) + ops.relu(self.convs[1](x))
        y = self.norms["last"](y, training=training)
        gate = self.squeeze(ops.mean(y, axis=(1, 2), keepdims=True))
        y = y * ops.sigmoid(gate)
        return self.drop(x + y * self.gamma, training=training)

    def get_config(self):
        return super().get_config() | {"filters": self.filters}


def composite():
    """A composite layer that is called twice."""
    block = Branches(8, name="block")
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, name="stem")(inputs)
    x = block(block(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(5, name="classifier")(x))


def in_bfloat16(make):
    """Returns what `make` makes, in mixed precision."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return make()
    finally:
        keras.config.set_dtype_policy(policy)


def small(classes=5, size=8):
    """The smallest net that has a bit of everything, for tests of one thing."""
    inputs = keras.Input((size, size, 3), name="image")
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(6.0, name="relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomize(keras.Model(inputs, layers.Dense(classes, name="classifier")(x)))


PHOTOS, PIXELS = images(8), images(8, 32)
BYTES = PIXELS.astype("float32")
SIDE = np.random.default_rng(3).normal(0, 2, (8, 4)).astype("float32")
_BOTH = {"image": scaled(PHOTOS), "side": SIDE}

# name -> (function that makes the network, data for it, damping)
NETWORKS = {
    "mobilenet_coord": (mobilenet, scaled(PIXELS), 0.05),
    "application_rescaling": (lambda: application("rescaling"), BYTES, 0.1),
    "application_normalization": (lambda: application("normalization"), BYTES, 0.1),
    "residual": (residual, scaled(PHOTOS), 0.05),
    "sequential": (sequential, scaled(PHOTOS), 0.05),
    "nested": (nested, scaled(PHOTOS), 0.05),
    "twice": (twice, scaled(PHOTOS), 0.05),
    "several": (several, [scaled(PHOTOS), SIDE], 0.05),
    "dictionaries": (dictionaries, _BOTH, 0.05),
    "composite": (composite, scaled(PHOTOS), 0.05),
}


def network(name):
    """Returns a live network and data for it."""
    make, data, damping = NETWORKS[name]
    return settle(randomize(make()), data, damping), data

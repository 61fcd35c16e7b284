"""Keras' image layers as pure functions of a seed, inside tf.data.

A Keras layer draws from a `SeedGenerator`, a counter: in a parallel map its numbers
depend on which thread came first, and no checkpoint restores it. Its public
`get_random_transformation(images, seed=...)` takes any `SeedGenerator`, though, and
`_Seeds` is one without state. Two composite layers don't hand their argument on to
their parts, RandAugment and RandomColorJitter: here the parts are called instead, which
for RandAugment also means that one operation is computed and not all eleven.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from keras_attention.data.augmentation import Augmentation

# Whatever the global policy and image format of the model to be trained are.
PLAIN = {"dtype": "float32", "data_format": "channels_last"}
# The layers' own generators, which nobody draws from, must not consume Python's random
# numbers: those decide the seeds of the layers of a model.
UNSEEDED = {"seed": 0, **PLAIN}


class _Seeds(keras.random.SeedGenerator):
    """The n-th seed that is drawn is a function of `seed` and n."""

    def __init__(self, seed: tf.Tensor):
        # Not the base class's: it makes a variable.
        self._seed = seed
        self._drawn = 0

    def next(self, ordered=True):
        self._drawn += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._drawn)


def changes(augmentation: Augmentation) -> list[Callable]:
    """The colour and pixel changes that `augmentation` asks for, in their order.

    Returns:
        Functions (image, seed) -> image: `float32` (height, width, 3) in [0, 255],
        static shape; `int64` (2,). The functions are to be called inside tf.data.
    """
    found = []
    if augmentation.color_jitter:
        found.append(_color_jitter(augmentation.color_jitter))
    if augmentation.rand_augment:
        found.append(
            _rand_augment(augmentation.rand_augment, augmentation.rand_augment_ops)
        )
    if augmentation.random_erasing:
        found.append(_random_erasing(augmentation.random_erasing))
    return found


def _stateless(layer: keras.layers.Layer) -> Callable:
    """`layer` as a function (image, seed) -> image."""

    def change(image, seed):
        # The layers' way to run in tf.data when another backend trains; some of them
        # set it back.
        layer.backend.set_backend("tensorflow")
        images = image[None]
        drawn = layer.get_random_transformation(
            images, training=True, seed=_Seeds(seed)
        )
        layer.backend.set_backend("tensorflow")
        changed = layer.transform_images(images, drawn, training=True)
        return tf.ensure_shape(changed[0], image.shape)

    return change


def _color_jitter(strength: float) -> Callable:
    layers = keras.layers
    # The layer's factor f stands for f / (1 - f).
    saturation = [(1 + way * strength) / (2 + way * strength) for way in (-1, 1)]
    parts = [
        _stateless(layers.RandomBrightness(strength / 2, **UNSEEDED)),
        # A single number would mean "up to", never "down to".
        _stateless(layers.RandomContrast((strength, strength), **UNSEEDED)),
        # The layer cuts saturation, which is at most 1, to `value_range`.
        _stateless(
            layers.RandomSaturation(tuple(saturation), value_range=(0, 1), **UNSEEDED)
        ),
    ]

    def change(image, seed):
        for number, part in enumerate(parts):
            image = part(image, _fold(seed, number))
        return image

    return change


def _solarize(magnitude: float) -> Callable:
    """Invert what is brighter than a threshold, at least 255 * (1 - magnitude).

    `keras.layers.Solarization` takes no lower end: it forgets to scale it to bytes.
    """

    def change(image, seed):
        share = tf.random.stateless_uniform((), seed, 1 - magnitude, 1.0)
        return tf.where(image < 255 * share, image, 255 - image)

    return change


def _operations(m: float) -> list[Callable]:
    """RandAugment's operations at magnitude `m`.

    At 1 they are as strong as AutoAugment's table has them (as recalled).

    `keras.layers.RandAugment` takes the magnitude for every layer's factor: 0.5 would
    rotate by up to 180 degrees, and posterize less the larger it is.
    """
    layers = keras.layers
    constant = {"fill_mode": "constant", **UNSEEDED}
    middle = (0.5 - 0.45 * m, 0.5 + 0.45 * m)
    bits = 8 - round(4 * m)
    return [
        *map(
            _stateless,
            (
                layers.RandomShear(0.3 * m, 0.0, **constant),
                layers.RandomShear(0.0, 0.3 * m, **constant),
                layers.RandomTranslation(0.45 * m, 0.0, **constant),
                layers.RandomTranslation(0.0, 0.45 * m, **constant),
                layers.RandomRotation(30 / 360 * m, **constant),
                layers.RandomBrightness(0.45 * m, **UNSEEDED),
                layers.RandomContrast((0.9 * m, 0.9 * m), **UNSEEDED),
                layers.RandomColorDegeneration(0.9 * m, **UNSEEDED),
                layers.RandomSharpness(middle, **UNSEEDED),
                layers.RandomPosterization((bits, bits), **UNSEEDED),
                layers.AutoContrast(**PLAIN),
                layers.Equalization(**PLAIN),
            ),
        ),
        _solarize(m),
    ]


def _rand_augment(magnitude: float, count: int) -> Callable:
    operations = _operations(magnitude)

    def change(image, seed):
        chosen = tf.random.stateless_uniform(
            (count,), seed, maxval=len(operations), dtype=tf.int32
        )
        for number in range(count):
            own = _fold(seed, number)
            branches = [
                # Bound now: the loop goes on before the branch is traced.
                lambda operation=operation, image=image, own=own: operation(image, own)
                for operation in operations
            ]
            image = tf.switch_case(chosen[number], branches)
        return image

    return change


def _random_erasing(probability: float) -> Callable:
    # Drawing the noise takes longer than reading a photo: only where it is wanted.
    erase = _stateless(keras.layers.RandomErasing((1.0, 1.0), **UNSEEDED))

    def change(image, seed):
        return tf.cond(
            tf.random.stateless_uniform((), seed) < probability,
            lambda: erase(image, _fold(seed, 0)),
            lambda: image,
        )

    return change


def _fold(seed: tf.Tensor, number: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, number)

"""From images and labels to tf.data: deterministic, augmented, prefetched."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_attention.data import augment as augmentation
from keras_attention.data import digits, folder, images
from keras_attention.image_input import BYTE_RANGE

DIGITS_SIZE = 32
PHOTO_SIZE = 224


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Labelled images, split into a training and a test part.

    Every dataset yields pairs of `float32` images (batch, height, width, 3) in
    `input_range` and `int32` labels (batch,).

    Attributes:
        labels: Class names; a label is an index into them.
        image_shape: (height, width, 3).
        input_range: What byte 0 and byte 255 became.
        batch_size: Images per batch.
        train_size: Number of training images.
        test_size: Number of test images.
        epoch: `epoch(number)` is the training part in the order and with the
            augmentation of that epoch. It depends on the seed and the number alone.
        train: The training part; its first pass is `epoch(0)`, its second `epoch(1)`
            and so on, so that `model.fit(data.train)` sees other pixels every time.
            An incomplete last batch is dropped.
        test: The test part, in order, complete.
        calibration: The training part without augmentation, in one fixed mixed order,
            so that a few batches show every class.
        skipped: Damaged files that were left out.
    """

    labels: tuple[str, ...]
    image_shape: tuple[int, int, int]
    input_range: tuple[float, float]
    batch_size: int
    train_size: int
    test_size: int
    epoch: Callable[[int], tf.data.Dataset]
    train: tf.data.Dataset
    test: tf.data.Dataset
    calibration: tf.data.Dataset
    skipped: tuple[folder.SkippedFile, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over `train`."""
        return int(self.train.cardinality())


@dataclasses.dataclass(frozen=True)
class _Part:
    """One part of a data set: labels, and how to make pixels of image number `index`.

    `plain(index)` is what models are judged on, `augmented(index, seed)` what they are
    trained on; both return uint8 tensors of the part's image shape.
    """

    labels: np.ndarray
    plain: Callable
    augmented: Callable


def load(
    spec: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    augment: bool = True,
    strict: bool = False,
    input_range: tuple[float, float] = BYTE_RANGE,
) -> ImageData:
    """Load labelled images by name.

    Args:
        spec: "digits" (1,797 handwritten digits that scikit-learn brings along) or
            "folder:PATH" (one sub-folder of images per class, see `scan_folder`).
        image_size: Side of the square, or (height, width); 32 for digits and 224 for
            folders if None.
        batch_size: Images per batch; at most the number of training images.
        seed: Decides order and augmentation of the training part, nothing else.
        augment: Whether `train` is augmented: digits are shifted by up to 2 of 32
            pixels, photos get a random crop of at least 35 % of the area and a random
            left-right flip.
        strict: Whether a damaged file is an error instead of being skipped.
        input_range: What byte 0 and byte 255 become, default (-1, 127/128).

    Returns:
        The datasets and what is known about them.

    Raises:
        ValueError: If `spec`, a size or the folder's content is not usable.
        OSError: If the folder can't be read.
    """
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    name, _, path = str(spec).partition(":")
    if spec == "digits":
        size = images.size_of(DIGITS_SIZE if image_size is None else image_size)
        labels, parts, skipped = _digits(size)
    elif name == "folder" and path:
        size = images.size_of(PHOTO_SIZE if image_size is None else image_size)
        labels, parts, skipped = _photos(path, size, strict)
    else:
        raise ValueError(f'data must be "digits" or "folder:PATH", got {spec!r}')
    return _build(
        labels, parts, skipped, size, int(batch_size), seed, augment, input_range
    )


def _digits(size):
    pixels, labels = digits.load_digits(size)

    def part(indices):
        chosen = tf.constant(pixels[indices])
        return _Part(
            labels[indices],
            lambda index: chosen[index],
            lambda index, seed: augmentation.shift(chosen[index], seed),
        )

    names = tuple(str(digit) for digit in range(10))
    return names, [part(indices) for indices in digits.split_digits(labels)], ()


def _photos(path: str | os.PathLike, size, strict):
    found = folder.scan_folder(path, strict=strict)

    def part(samples: Sequence[folder.Sample]):
        files = [str(sample.path) for sample in samples]

        def plain(index):
            read = lambda i: images.read_image(files[i], size)  # noqa: E731
            return tf.ensure_shape(
                tf.numpy_function(read, [index], tf.uint8), (*size, 3)
            )

        def augmented(index, seed):
            draws = augmentation.crop_draws(seed)
            read = lambda i, draws: augmentation.read_crop(  # noqa: E731
                files[i], size, draws
            )
            return tf.ensure_shape(
                tf.numpy_function(read, [index, draws], tf.uint8), (*size, 3)
            )

        labels = np.array([sample.label for sample in samples], "int32")
        return _Part(labels, plain, augmented)

    return found.labels, [part(found.train), part(found.test)], found.skipped


def _build(labels, parts, skipped, size, batch_size, seed, augment, input_range):
    train, test = parts
    train_size = len(train.labels)
    batch_size = min(batch_size, train_size)

    def batches(order, part: _Part, pixels, drop_remainder=False):
        answers = tf.constant(part.labels)
        return (
            tf.data.Dataset.from_tensor_slices(order)
            .map(lambda i: (pixels(i), answers[i]), num_parallel_calls=tf.data.AUTOTUNE)
            .batch(batch_size, drop_remainder=drop_remainder)
            .map(
                lambda x, y: (images.to_float(tf.cast(x, tf.float32), input_range), y),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        )

    def epoch(number):
        # One key per epoch for the order, one per image and epoch for its pixels.
        number = tf.cast(number, tf.int64)
        order = tf.random.experimental.stateless_shuffle(
            tf.range(train_size), seed=tf.stack([tf.cast(seed, tf.int64), number])
        )

        def pixels(index):
            key = number * train_size + tf.cast(index, tf.int64)
            return train.augmented(index, tf.stack([tf.cast(seed, tf.int64), key]))

        return batches(
            order, train, pixels if augment else train.plain, drop_remainder=True
        )

    passes = itertools.count()
    mixed = np.random.default_rng(seed).permutation(train_size).astype("int32")
    steps = train_size // batch_size
    ready = tf.data.AUTOTUNE
    return ImageData(
        labels=labels,
        image_shape=(*size, 3),
        input_range=tuple(input_range),
        batch_size=batch_size,
        train_size=train_size,
        test_size=len(test.labels),
        epoch=lambda number: epoch(number).prefetch(ready),
        train=tf.data.Dataset.range(1)
        .map(lambda _: tf.numpy_function(lambda: next(passes), [], tf.int64))
        .flat_map(epoch)
        .apply(tf.data.experimental.assert_cardinality(steps))
        .prefetch(ready),
        test=batches(
            np.arange(len(test.labels), dtype="int32"), test, test.plain
        ).prefetch(ready),
        calibration=batches(mixed, train, train.plain).prefetch(ready),
        skipped=skipped,
    )

"""From images and labels to tf.data: deterministic, augmented, prefetched."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_attention.data import augment as geometry
from keras_attention.data import cache as caching
from keras_attention.data import images, mixing, photometric
from keras_attention.data.augmentation import Augmentation
from keras_attention.data.digits import open_digits
from keras_attention.data.folder import open_folder
from keras_attention.data.source import Part, SkippedFile, Source
from keras_attention.data.tfds import open_tfds
from keras_attention.data.tfrecord import open_tfrecords
from keras_attention.image_input import BYTE_RANGE

# What follows a colon, or None if nothing may -> what opens it.
_SOURCES = {
    "digits": (None, open_digits),
    "folder": ("PATH", open_folder),
    "tfrecord": ("PATH", open_tfrecords),
    "tfds": ("NAME", open_tfds),
}
_NOTHING = Augmentation(crop="none", flip=False)


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Labelled images, split into a training and a test part.

    Every dataset yields pairs of `float32` images (batch, height, width, 3) in
    `input_range` and `int32` labels (batch,). With mixup or cutmix the labels of the
    training part are shares of the classes, `float32` (batch, classes).

    Attributes:
        labels: Class names; a label is an index into them.
        image_shape: (height, width, 3).
        input_range: What byte 0 and byte 255 became.
        batch_size: Images per batch.
        train_size: Number of training images.
        test_size: Number of test images.
        digest: Of the training part, as of `Part.digest`: other data has another one.
        augmentation: How the training part is changed, without "auto" and None.
        cache_bytes: Memory that the cache will take, or would take.
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
    digest: str
    augmentation: Augmentation
    cache_bytes: int
    epoch: Callable[[int], tf.data.Dataset]
    train: tf.data.Dataset
    test: tf.data.Dataset
    calibration: tf.data.Dataset
    skipped: tuple[SkippedFile, ...] = ()
    _stream: Callable | None = dataclasses.field(default=None, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over `train`."""
        return self.train_size // self.batch_size

    def epochs(
        self,
        start_epoch: int = 0,
        start_step: int = 0,
        shard: tuple[int, int] | None = None,
    ) -> tf.data.Dataset:
        """All epochs from one position on, without an end.

        It is what an uninterrupted run reads from there on, to the last bit; nothing
        in front of the position is read or decoded.

        Args:
            start_epoch: The epoch to begin with.
            start_step: The batch of that epoch to begin with; `steps_per_epoch` is
                batch 0 of the next one.
            shard: (count, index) yields part `index` of `count` of every batch, for
                hosts that train on a batch together.

        Returns:
            A dataset of batches.

        Raises:
            ValueError: If the position is negative or behind the end of its epoch, the
                batch can't be divided, or (with mixup or cutmix) not into pairs.
        """
        if start_epoch < 0 or not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(
                f"there is no step {start_step} of epoch {start_epoch}: epochs count "
                f"from 0 and have {self.steps_per_epoch} steps"
            )
        count, index = shard or (1, 0)
        if not 0 <= index < count or self.batch_size % count:
            raise ValueError(
                f"shard must be (count, index) with index < count, and the batch size "
                f"{self.batch_size} a multiple of count; got {shard}"
            )
        return self._stream(start_epoch, start_step, count, index)


def load(
    spec: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    augment: bool | Augmentation = True,
    strict: bool = False,
    input_range: tuple[float, float] = BYTE_RANGE,
    cache: bool = False,
) -> ImageData:
    """Load labelled images by name.

    Args:
        spec: "digits" (1,797 handwritten digits that scikit-learn brings along),
            "folder:PATH" (one sub-folder of images per class, see `scan_folder`),
            "tfrecord:PATH" (see `tfrecord.open_tfrecords`) or "tfds:NAME" (any image
            classification data set of TensorFlow Datasets, see `tfds.open_tfds`).
        image_size: Side of the square, or (height, width); if None 32 for digits, 224
            for photos, and their own for the small images of TensorFlow Datasets.
        batch_size: Images per batch; at most the number of training images.
        seed: Decides order and augmentation of the training part, nothing else.
        augment: How `train` is changed; True is `Augmentation()`, False nothing.
        strict: Whether a damaged file is an error instead of being skipped.
        input_range: What byte 0 and byte 255 become, default (-1, 127/128).
        cache: Whether images stay in memory once they were read, see `cache.cached`;
            `cache_bytes` says how much it takes.

    Returns:
        The datasets and what is known about them.

    Raises:
        ValueError: If `spec`, a size or the data's content is not usable, or the cache
            takes more memory than is available.
        OSError: If the data can't be read; a ConnectionError if it can't be downloaded.
    """
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    name, colon, rest = str(spec).partition(":")
    argument, opens = _SOURCES.get(name, (None, None))
    if opens is None or bool(rest) != bool(argument) or bool(colon) != bool(argument):
        known = [f'"{k}"' if not v else f'"{k}:{v}"' for k, (v, _) in _SOURCES.items()]
        raise ValueError(
            f"data must be {', '.join(known[:-1])} or {known[-1]}, got {spec!r}"
        )
    source = opens(rest, image_size, strict)
    if augment is True:
        augment = Augmentation()
    changed = _NOTHING if augment is False else source.resolve(augment)
    reach = (
        source.reach
        if augment and augment.crop == "auto" and source.reach
        else (changed.padding,) * 2
    )
    cache_bytes = caching.size(source, changed.crop)
    if cache:
        source = caching.cached(source, changed.crop)
    batch_size = min(int(batch_size), len(source.train))
    return _Pipeline(source, batch_size, seed, changed, reach, input_range).data(
        cache_bytes
    )


@dataclasses.dataclass(frozen=True)
class _Pipeline:
    """Makes the datasets of one data set."""

    source: Source
    batch_size: int
    seed: int
    augmentation: Augmentation
    reach: tuple[int, int]
    input_range: tuple[float, float]

    def data(self, cache_bytes: int) -> ImageData:
        source, size = self.source, len(self.source.train)
        steps = size // self.batch_size
        passes = itertools.count()
        mixed = np.random.default_rng(self.seed).permutation(size).astype("int32")
        # Keras layers make variables: once, and never while tf.data traces.
        change = self.change()
        mix = mixing.mixer(self.augmentation) if self.augmentation.mixes else None

        def whole(number):
            return self.positions(tf.cast(number, tf.int64), 0, 1, 0)

        def epoch(number):
            return self.batches(whole(number), 1, change, mix)

        def stream(start_epoch, start_step, count, index):
            def rest(number):
                first = tf.where(number == start_epoch, start_step, 0)
                return self.positions(number, first, count, index)

            # One parallel map over all epochs: no pause between them.
            numbers = tf.data.Dataset.range(start_epoch, tf.int64.max)
            return self.batches(numbers.flat_map(rest), count, change, mix)

        # Counts its passes, which a dataset can't by itself.
        one_pass = tf.data.Dataset.range(1).map(
            lambda _: tf.numpy_function(lambda: next(passes), [], tf.int64)
        )
        return ImageData(
            labels=source.labels,
            image_shape=(*source.size, 3),
            input_range=tuple(self.input_range),
            batch_size=self.batch_size,
            train_size=size,
            test_size=len(source.test),
            digest=source.train.digest(),
            augmentation=self.augmentation,
            cache_bytes=cache_bytes,
            epoch=epoch,
            train=self.batches(one_pass.flat_map(whole), 1, change, mix).apply(
                tf.data.experimental.assert_cardinality(steps)
            ),
            test=self.plain(np.arange(len(source.test), dtype="int32"), source.test),
            calibration=self.plain(mixed, source.train),
            skipped=source.skipped,
            _stream=stream,
        )

    def plain(self, order: np.ndarray, part: Part) -> tf.data.Dataset:
        """A part as models are judged on it."""
        answers = tf.constant(part.labels)
        return (
            tf.data.Dataset.from_tensor_slices(order)
            .map(
                lambda index: (part.plain(index), answers[index]),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
            .batch(self.batch_size)
            .map(
                lambda x, y: (self.to_float(x), y), num_parallel_calls=tf.data.AUTOTUNE
            )
            .prefetch(tf.data.AUTOTUNE)
        )

    def positions(self, number, first, count: int, index: int) -> tf.data.Dataset:
        """What to read in an epoch, from step `first` on: (epoch, position, image).

        Of every batch it is the part that shard `index` of `count` reads.
        """
        size, batch = len(self.source.train), self.batch_size
        steps, own = size // batch, batch // count
        # One key per epoch for the order, one per image and epoch for its pixels.
        order = tf.random.experimental.stateless_shuffle(
            tf.range(size), seed=tf.stack([tf.cast(self.seed, tf.int64), number])
        )
        begin = index * own
        chosen = [
            tf.reshape(
                tf.reshape(array[: steps * batch], (steps, batch))[
                    first:, begin : begin + own
                ],
                [-1],
            )
            for array in (tf.range(size), order)
        ]
        numbers = tf.fill(tf.shape(chosen[0]), number)
        return tf.data.Dataset.from_tensor_slices((numbers, *chosen))

    def batches(
        self,
        positions: tf.data.Dataset,
        count: int,
        change: Callable,
        mix: Callable | None,
    ) -> tf.data.Dataset:
        """Augmented batches, or shards of them, of what `positions` names."""
        train, size = self.source.train, len(self.source.train)
        own = self.batch_size // count
        if mix and own % 2:
            raise ValueError(
                f"mixup and cutmix take pairs of images: the {own} images of a batch "
                f"of {self.batch_size} on each of {count} hosts must be an even number"
            )
        answers = tf.constant(train.labels)
        classes = len(self.source.labels)

        def seeded(key):
            return tf.stack([tf.cast(self.seed, tf.int64), key])

        def read(number, position, index):
            seed = seeded(number * size + tf.cast(index, tf.int64))
            # One by one they still are in the processor's cache.
            image = self.to_float(change(index, seed))
            if not mix:
                return image, answers[index]
            # Other numbers than the pixels', and than those of any other pair.
            pair = seeded(number * size + tf.cast(position // 2, tf.int64))
            drawn = mixing.draw(
                self.augmentation,
                self.source.size,
                tf.random.experimental.stateless_fold_in(pair, _PAIR),
                tf.random.experimental.stateless_fold_in(seed, _MIX),
            )
            return image, answers[index], drawn

        def mixed(pixels, labels, drawn):
            return mix(pixels, tf.one_hot(labels, classes), drawn)

        batches = positions.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(
            own, drop_remainder=True
        )
        if mix:
            batches = batches.map(mixed, num_parallel_calls=tf.data.AUTOTUNE)
        return batches.prefetch(tf.data.AUTOTUNE)

    def change(self) -> Callable:
        """From (index, seed) to a training image, `float32` in [0, 255]."""
        wanted, train = self.augmentation, self.source.train
        alterations = photometric.changes(wanted)

        def change(index, seed):
            draws = geometry.crop_draws(seed)
            if wanted.crop == "resized":
                pixels = train.crop(index, draws, wanted.min_area, wanted.flip)
            else:
                image = train.plain(index)
                if wanted.crop == "padded":
                    image = geometry.padded_crop(image, self.reach, seed)
                if wanted.flip:
                    image = geometry.flip(image, draws)
                pixels = tf.cast(image, tf.float32)
            pixels = tf.ensure_shape(pixels, (*self.source.size, 3))
            for number, alter in enumerate(alterations, _FIRST_CHANGE):
                own = tf.random.experimental.stateless_fold_in(seed, number)
                pixels = alter(pixels, own)
            return pixels

        return change

    def to_float(self, pixels: tf.Tensor) -> tf.Tensor:
        return images.to_float(tf.cast(pixels, tf.float32), self.input_range)


# What a seed is folded with, so that every draw has numbers of its own.
_PAIR, _MIX, _FIRST_CHANGE = 1, 2, 3

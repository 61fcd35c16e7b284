"""What a data set is before it is shuffled, augmented and batched."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_attention.data import augment
from keras_attention.data.augmentation import Augmentation
from keras_attention.data.encoded import Encoded

PHOTO_SIZE = 224
# Images up to this size are cropped from a padded image, as those of CIFAR are.
SMALL = 64


@dataclasses.dataclass(frozen=True)
class SkippedFile:
    """A damaged file, or part of one, and why it could not be read."""

    path: pathlib.Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Part:
    """The training or the test images.

    Attributes:
        labels: `int32`, shape (count,).
        plain: From an index, an `int32` scalar, to what models are judged on: `uint8`
            of the source's size and 3 channels.
        crop: (index, draws, min_area, flip) -> a random region as `float32`; `flip`,
            a Python bool, says whether half of them are mirrored.
        encoded: The encoded images that both are read from, or None.
        pixels: The images in memory that both are read from, or None.
    """

    labels: np.ndarray
    plain: Callable
    crop: Callable
    encoded: Encoded | None = None
    pixels: tf.Tensor | None = None

    def __len__(self):
        return len(self.labels)

    def digest(self) -> str:
        """Tells parts apart without reading files: 16 hexadecimal digits.

        Of images in memory it sees every pixel, of others the order of their labels
        and shapes, and how many bytes they are together.
        """
        found = hashlib.sha256(self.labels.tobytes())
        if self.pixels is not None:
            found.update(self.pixels.numpy())
        if self.encoded is not None:
            found.update(self.encoded.shapes.tobytes())
            found.update(str(self.encoded.total_bytes).encode())
        return found.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        labels: Class names.
        size: (height, width) of the images.
        train: Training part.
        test: Test part.
        crop: What `Augmentation.crop` "auto" means, "resized" or "padded".
        flip: What `Augmentation.flip` None means.
        reach: Rows and columns of zeros for the "auto" crop, if not `padding`.
        skipped: Damaged files that were left out.
    """

    labels: tuple[str, ...]
    size: tuple[int, int]
    train: Part
    test: Part
    crop: str = "resized"
    flip: bool = True
    reach: tuple[int, int] | None = None
    skipped: tuple[SkippedFile, ...] = ()

    def resolve(self, augmentation: Augmentation) -> Augmentation:
        """`augmentation` without "auto" and None."""
        auto = augmentation.crop == "auto"
        return dataclasses.replace(
            augmentation,
            crop=self.crop if auto else augmentation.crop,
            flip=self.flip if augmentation.flip is None else augmentation.flip,
        )


def encoded_part(images: Encoded, size: tuple[int, int]) -> Part:
    """A part whose images are decoded one by one."""
    return Part(
        images.labels,
        lambda index: images.plain(index, size),
        lambda *how: images.crop(*how, size),
        images,
    )


def array_part(pixels: np.ndarray, labels: np.ndarray) -> Part:
    """A part whose images, `uint8` of one size, are in memory."""
    stored, size = tf.constant(pixels), pixels.shape[1:3]
    return Part(
        labels,
        lambda index: stored[index],
        lambda index, *how: augment.crop_pixels(stored[index], *how, size),
        pixels=stored,
    )

"""Encoded photos: what they are, and how they become pixels in tf.data.

What a model is judged on is read by Pillow, by `images.read_image` alone. Training
crops of ordinary JPEGs are decoded by TensorFlow, which skips the rows outside of the
crop and runs outside of Python's lock; everything else (orientation to be applied,
CMYK, PNG, WebP, ...) goes through Pillow there, too.
"""

import concurrent.futures
import dataclasses
import io
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_attention.data import augment, images

_ORIENTATION = 0x0112
_UPRIGHT = 1

# By what libjpeg can shrink while it decodes, averaging.
_RATIOS = (1, 2, 4, 8)

_PILLOWS = (0, 0)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Encoded images that are read one by one, in any order.

    Attributes:
        labels: `int32`, shape (count,).
        shapes: `int32`, shape (count, 2), as `check` found them: height and width of
            those that TensorFlow decodes for training, (0, 0) for the others.
        handle: From an index, an `int32` scalar, to a scalar string: what `contents`
            and `opened` take.
        contents: From a handle to the encoded image, scalar strings.
        opened: From a handle as Python bytes to what Pillow opens.
        total_bytes: Size of all encoded images together.
    """

    labels: np.ndarray
    shapes: np.ndarray
    handle: Callable[[tf.Tensor], tf.Tensor]
    contents: Callable[[tf.Tensor], tf.Tensor]
    opened: Callable
    total_bytes: int

    def plain(self, index: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
        """What `images.read_image` returns: `uint8`, shape (*size, 3)."""
        return _in_python(
            lambda handle: images.read_image(self.opened(_bytes(handle)), size),
            [self.handle(index)],
            size,
        )

    def crop(
        self,
        index: tf.Tensor,
        draws: tf.Tensor,
        min_area: float,
        flip: bool,
        size: tuple[int, int],
    ) -> tf.Tensor:
        """A random region, by chance mirrored: `float32`, shape (*size, 3)."""
        handle = self.handle(index)

        def with_tensorflow():
            most = int(self.shapes.min(1).max()) // min(size)
            ratios = [ratio for ratio in _RATIOS if ratio == 1 or ratio <= most]
            shape = tf.gather(self.shapes, index)
            contents = self.contents(handle)
            return _jpeg_crop(contents, shape, draws, min_area, flip, size, ratios)

        def with_pillow():
            def read(handle, draws):
                source = self.opened(_bytes(handle))
                return _pillow_crop(source, draws, min_area, flip, size)

            return tf.cast(_in_python(read, [handle, draws], size), tf.float32)

        # Asked in Python where all images go one way: a branch takes its time.
        if self.shapes.all():
            pixels = with_tensorflow()
        elif not self.shapes.any():
            pixels = with_pillow()
        else:
            direct = tf.gather(self.shapes, index)[0] > 0
            pixels = tf.cond(direct, with_tensorflow, with_pillow)
        return tf.ensure_shape(pixels, (*size, 3))


def check(source: str | os.PathLike | bytes) -> tuple[int, int]:
    """Decode an image once, and find who is to decode it for training.

    Args:
        source: A path, or the encoded image.

    Returns:
        Height and width in pixels of a JPEG of three colours or of gray, to be shown as
        it is stored, that TensorFlow decodes; (0, 0) for what takes Pillow.

    Raises:
        images.UnreadableImageError: If it can't be decoded.
        FileNotFoundError: If there is no such file.
    """
    shape = _tensorflow_shape(source)
    if shape == _PILLOWS:
        images.open_image(
            io.BytesIO(source) if isinstance(source, bytes) else source, (1, 1)
        )
    return shape


def _tensorflow_shape(source: str | os.PathLike | bytes) -> tuple[int, int]:
    try:
        given = isinstance(source, bytes)
        data = source if given else pathlib.Path(source).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT
            if image.format != "JPEG" or image.mode not in ("RGB", "L") or turned:
                return _PILLOWS
            shape = image.height, image.width
        # An eighth of the size, yet to the end.
        tf.io.decode_jpeg(data, ratio=8)
    except Exception:
        # Pillow is asked next: it gets over it, or says what is wrong.
        return _PILLOWS
    return shape


def check_all(sources: Iterable) -> list[tuple[int, int] | Exception]:
    """`check` every source: what it returned, or what it raised."""

    def attempt(source):
        try:
            return check(source)
        except (images.UnreadableImageError, FileNotFoundError) as error:
            return error

    # Both decoders work outside of Python's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(attempt, sources))


def _jpeg_crop(contents, shape, draws, min_area, flip, size, ratios) -> tf.Tensor:
    sides = tf.cast(shape, tf.float32)
    first, last = augment.crop_box(sides, size[1] / size[0], draws, min_area, tf)

    def decode(ratio):
        region = augment.window(sides, (first, last), ratio)
        return tf.io.decode_and_crop_jpeg(contents, region, channels=3, ratio=ratio)

    if len(ratios) == 1:
        pixels = decode(1)
    else:
        # What is left to the resizing is less than 2 in at least one direction.
        room = tf.reduce_min((last - first) / np.float32(size))
        pixels = tf.switch_case(
            tf.reduce_sum(tf.cast(room >= ratios[1:], tf.int32)),
            [lambda ratio=ratio: decode(ratio) for ratio in ratios],
        )
    # Bytes are mirrored faster than floats, and floats resized faster than bytes.
    pixels = augment.flip(pixels, draws) if flip else pixels
    return tf.image.resize(tf.cast(pixels, tf.float32), size)


def _pillow_crop(source, draws, min_area, flip, size) -> np.ndarray:
    image = images.open_image(source, size)
    sides = np.float32([image.height, image.width])
    (top, left), (bottom, right) = augment.crop_box(
        sides, size[1] / size[0], draws, min_area
    )
    pixels = images.resized(image, size, (left, top, right, bottom))
    if flip and draws[4] < 0.5:
        return np.ascontiguousarray(pixels[:, ::-1])
    return pixels


def _bytes(handle) -> bytes:
    # Called eagerly, TensorFlow passes strings in an array of objects.
    return handle if isinstance(handle, bytes) else handle.item()


def _in_python(function: Callable, arguments: list, size: tuple[int, int]) -> tf.Tensor:
    pixels = tf.numpy_function(function, arguments, tf.uint8)
    return tf.ensure_shape(pixels, (*size, 3))

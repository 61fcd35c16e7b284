"""Augmentation as pure functions of a seed: same seed, same pixels, on any machine."""

import os

import numpy as np
import tensorflow as tf

from keras_attention.data import images

SHIFT = 2
CROP_AREA = (0.35, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)


def shift(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Shift an image by up to `SHIFT` pixels of 32 in each direction, zeros moving in.

    Args:
        image: `uint8`, shape (height, width, channels), static.
        seed: `int64`, shape (2,).

    Returns:
        `uint8` of the same shape.
    """
    height, width, _ = image.shape
    reach = [max(1, round(side * SHIFT / 32)) for side in (height, width)]
    padded = tf.pad(image, [(reach[0],) * 2, (reach[1],) * 2, (0, 0)])
    return tf.image.stateless_random_crop(padded, image.shape, seed)


def crop_draws(seed: tf.Tensor) -> tf.Tensor:
    """Draw what `read_crop` needs: five uniform numbers in [0, 1), `float32` (5,)."""
    return tf.random.stateless_uniform((5,), seed)


def read_crop(
    path: str | os.PathLike, size: tuple[int, int], draws: np.ndarray
) -> np.ndarray:
    """Read a random region of a photo, by chance mirrored left to right.

    Args:
        path: The image file.
        size: (height, width) of the result.
        draws: Five numbers in [0, 1): area, aspect ratio, vertical and horizontal
            position, mirroring.

    Returns:
        `uint8`, shape (height, width, 3).

    Raises:
        UnreadableImageError: If the file can't be decoded.
    """
    image = images.open_image(path, size)
    box = crop_box(image.height, image.width, size[1] / size[0], draws)
    pixels = images.resized(image, size, box)
    return np.ascontiguousarray(pixels[:, ::-1]) if draws[4] < 0.5 else pixels


def crop_box(height: int, width: int, aspect: float, draws) -> tuple[float, ...]:
    """Region (left, top, right, bottom) for `draws`.

    Its area is uniform in `CROP_AREA` of the image's, its width over height is
    log-uniform in `CROP_ASPECT` times `aspect`; sides are cut to the image's.
    """
    area = height * width * (CROP_AREA[0] + draws[0] * (CROP_AREA[1] - CROP_AREA[0]))
    low, high = np.log(CROP_ASPECT)
    ratio = aspect * np.exp(low + draws[1] * (high - low))
    crop_width = min(width, np.sqrt(area * ratio))
    crop_height = min(height, np.sqrt(area / ratio))
    top = draws[2] * (height - crop_height)
    left = draws[3] * (width - crop_width)
    return left, top, left + crop_width, top + crop_height

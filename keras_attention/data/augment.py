"""Crops and flips as pure functions of a seed: same seed, same pixels, anywhere."""

import numpy as np
import tensorflow as tf

CROP_ASPECT = (3 / 4, 4 / 3)


def padded_crop(image: tf.Tensor, reach: tuple[int, int], seed: tf.Tensor) -> tf.Tensor:
    """Shift an image by up to `reach` pixels in each direction, zeros moving in.

    Args:
        image: `uint8`, shape (height, width, channels), static.
        reach: Pixels added above and below, left and right.
        seed: `int64`, shape (2,).

    Returns:
        `uint8` of the same shape.
    """
    padded = tf.pad(image, [(reach[0],) * 2, (reach[1],) * 2, (0, 0)])
    return tf.image.stateless_random_crop(padded, image.shape, seed)


def crop_draws(seed: tf.Tensor) -> tf.Tensor:
    """Draw what a crop and a flip need: five uniform numbers in [0, 1), `float32`.

    They decide area, aspect ratio, vertical and horizontal position, mirroring.
    """
    return tf.random.stateless_uniform((5,), seed)


def crop_box(height, width, aspect: float, draws, min_area: float, math=np) -> tuple:
    """Region (left, top, right, bottom) for `draws`.

    Its area is uniform from `min_area` to 1 of the image's, its width over height is
    log-uniform in `CROP_ASPECT` times `aspect`; sides are cut to the image's.

    Args:
        height: Of the image, a number or a `float32` tensor.
        width: Likewise.
        aspect: Width over height of what the region is resized to.
        draws: As `crop_draws` gives them.
        min_area: Smallest share of the area.
        math: numpy, or tensorflow for tensors.
    """
    area = height * width * (min_area + draws[0] * (1 - min_area))
    low, high = np.log(CROP_ASPECT)
    ratio = aspect * math.exp(low + draws[1] * (high - low))
    crop_width = math.minimum(width, math.sqrt(area * ratio))
    crop_height = math.minimum(height, math.sqrt(area / ratio))
    top = draws[2] * (height - crop_height)
    left = draws[3] * (width - crop_width)
    return left, top, left + crop_width, top + crop_height


def window(height, width, box: tuple, ratio: int = 1) -> tf.Tensor:
    """A region in whole pixels, of an image that was shrunk by `ratio`.

    Args:
        height: Of the image before shrinking, `float32`.
        width: Likewise.
        box: (left, top, right, bottom) in its pixels.
        ratio: 1, 2, 4 or 8.

    Returns:
        `int32` (top, left, height, width); at least one pixel, all of them inside.
    """
    low, high = [], []
    for first, last, side in ((box[1], box[3], height), (box[0], box[2], width)):
        # As libjpeg rounds.
        whole = tf.cast(tf.math.ceil(side / ratio), tf.int32)
        first, last = (tf.cast(tf.round(v / ratio), tf.int32) for v in (first, last))
        low.append(tf.minimum(first, whole - 1))
        high.append(tf.clip_by_value(last, low[-1] + 1, whole))
    return tf.stack([*low, high[0] - low[0], high[1] - low[1]])


def crop_pixels(
    image: tf.Tensor,
    draws: tf.Tensor,
    min_area: float,
    mirror: bool,
    size: tuple[int, int],
) -> tf.Tensor:
    """A random region of decoded pixels, resized bilinearly.

    Args:
        image: `uint8`, shape (height, width, 3), static.
        draws: As `crop_draws` gives them.
        min_area: Smallest share of the image's area.
        mirror: Whether half of the regions are mirrored.
        size: (height, width) of the result.

    Returns:
        `float32`, shape (*size, 3).
    """
    height, width = (float(side) for side in image.shape[:2])
    box = crop_box(height, width, size[1] / size[0], draws, min_area, tf)
    top, left, rows, columns = tf.unstack(window(height, width, box))
    region = image[top : top + rows, left : left + columns]
    return tf.image.resize(flip(region, draws) if mirror else region, size)


def flip(image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Mirror half of the images left to right."""
    return tf.cond(draws[4] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)

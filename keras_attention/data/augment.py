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


def crop_box(sides, aspect: float, draws, min_area: float, math=np) -> tuple:
    """Region for `draws`: its first corner (top, left) and its last (bottom, right).

    Its area is uniform from `min_area` to 1 of the image's, its width over height is
    log-uniform in `CROP_ASPECT` times `aspect`; sides are cut to the image's.

    Args:
        sides: Of the image, (height, width), `float32`.
        aspect: Width over height of what the region is resized to.
        draws: As `crop_draws` gives them.
        min_area: Smallest share of the area.
        math: numpy, or tensorflow for tensors.
    """
    area = sides[0] * sides[1] * (min_area + draws[0] * (1 - min_area))
    low, high = np.log(CROP_ASPECT) + np.log(aspect)
    # Half of the logarithm goes to either side. In vectors: dozens of scalar operations
    # are 3 % of the time that a photo takes.
    half = (low + draws[1] * (high - low)) / 2
    wanted = math.sqrt(area) * math.exp(half * np.float32([-1, 1]))
    region = math.minimum(sides, wanted)
    first = draws[2:4] * (sides - region)
    return first, first + region


def window(sides, box: tuple, ratio: int = 1) -> tf.Tensor:
    """A region in whole pixels, of an image that was shrunk by `ratio`.

    Args:
        sides: Of the image before shrinking, (height, width), `float32`.
        box: First and last corner in its pixels.
        ratio: 1, 2, 4 or 8.

    Returns:
        `int32` (top, left, height, width); at least one pixel, all of them inside.
    """
    first, last = box
    if ratio > 1:
        # The number of pixels is what libjpeg rounds to.
        sides, first, last = tf.math.ceil(sides / ratio), first / ratio, last / ratio
    first = tf.minimum(tf.round(first), sides - 1)
    last = tf.clip_by_value(tf.round(last), first + 1, sides)
    return tf.cast(tf.concat([first, last - first], 0), tf.int32)


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
    sides = np.float32(image.shape[:2])
    box = crop_box(sides, size[1] / size[0], draws, min_area, tf)
    top, left, rows, columns = tf.unstack(window(sides, box))
    region = image[top : top + rows, left : left + columns]
    return tf.image.resize(flip(region, draws) if mirror else region, size)


def flip(image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Mirror half of the images left to right."""
    return tf.cond(draws[4] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)

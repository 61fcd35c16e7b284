"""Mixup and cutmix: pairs of images become weighted sums, their labels likewise.

Images 0 and 1 of an epoch's order are a pair, 2 and 3, and so on; each is mixed with
the other. Partners, weights and boxes are therefore the same for any batch size and any
number of hosts. The arithmetic is that of `keras.layers.MixUp` and
`keras.layers.CutMix`; their own draws are not used, because those shuffle whatever
batch they see, and CutMix weighs labels by the box before it is rounded to pixels.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from keras_attention.data.augmentation import Augmentation
from keras_attention.data.photometric import UNSEEDED


def draw(
    augmentation: Augmentation,
    size: tuple[int, int],
    pair_seed: tf.Tensor,
    image_seed: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """How one image is mixed with its partner.

    Args:
        augmentation: Says with which alphas.
        size: (height, width) of the images.
        pair_seed: `int64` (2,), the same for both images of the pair.
        image_seed: `int64` (2,), for this image.

    Returns:
        "weight": mixup's weight of the image itself, a `float32` scalar; "box": the
        (top, left, bottom, right) that cutmix replaces, `int32`, perhaps empty.
    """
    use_cutmix = _chooses_cutmix(augmentation, pair_seed)
    draws = tf.random.stateless_uniform(
        (2,), tf.random.experimental.stateless_fold_in(image_seed, 1)
    )
    return {
        "weight": tf.where(use_cutmix, 1.0, _beta(augmentation.mixup, image_seed)),
        "box": tf.where(
            use_cutmix, _box(_beta(augmentation.cutmix, image_seed), size, draws), 0
        ),
    }


def mixer(augmentation: Augmentation) -> Callable:
    """The function that mixes a batch, to be called inside tf.data.

    Args:
        augmentation: Says what to mix with.

    Returns:
        A function (images, labels, drawn) -> (images, labels). Images: `float32`,
        (batch, height, width, channels), batch even, images 2 i and 2 i + 1 being
        partners; labels: `float32`, (batch, classes); drawn: what `draw` returned,
        batched.
    """
    mixup = keras.layers.MixUp(**UNSEEDED) if augmentation.mixup else None
    cutmix = keras.layers.CutMix(**UNSEEDED) if augmentation.cutmix else None

    def mix(images, labels, drawn):
        partners = tf.bitwise.bitwise_xor(tf.range(tf.shape(images)[0]), 1)

        def apply(layer, **how):
            layer.backend.set_backend("tensorflow")
            how["permutation_order"] = partners
            return (
                layer.transform_images(images, how, training=True),
                layer.transform_labels(labels, how, training=True),
            )

        # A pair has either a weight or boxes: behind the first layer its images still
        # are the ones that the second cuts its boxes from.
        if mixup:
            images, labels = apply(mixup, mix_weight=drawn["weight"])
        if cutmix:
            inside = _inside(drawn["box"], images.shape[1:3])
            kept = 1 - tf.reduce_mean(tf.cast(inside, tf.float32), (1, 2))
            images, labels = apply(
                cutmix, mix_weight=kept, batch_masks=inside[..., None]
            )
        return images, labels

    return mix


def _inside(boxes: tf.Tensor, size) -> tf.Tensor:
    """Which pixels lie in each image's box: `bool`, (batch, height, width)."""
    top, left, bottom, right = (boxes[:, side, None] for side in range(4))
    rows, columns = tf.range(size[0]), tf.range(size[1])
    return ((rows >= top) & (rows < bottom))[:, :, None] & (
        (columns >= left) & (columns < right)
    )[:, None, :]


def _chooses_cutmix(augmentation: Augmentation, seed: tf.Tensor) -> tf.Tensor:
    if augmentation.mixup and augmentation.cutmix:
        return tf.random.stateless_uniform((), seed) < 0.5
    return tf.constant(bool(augmentation.cutmix))


def _beta(alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """A draw from Beta(alpha, alpha), `float32`; 1 for alpha 0."""
    if not alpha:
        return tf.constant(1.0)
    gammas = tf.random.stateless_gamma((2,), seed, alpha, dtype=tf.float64)
    # Two underflows at once: the limit is 0 or 1.
    share = tf.math.divide_no_nan(gammas[0], tf.reduce_sum(gammas))
    return tf.cast(share, tf.float32)


def _box(weight: tf.Tensor, size: tuple[int, int], draws: tf.Tensor) -> tf.Tensor:
    """A box of about 1 - weight of the image's area, anywhere inside of it."""
    share = tf.sqrt(1 - weight)
    sides = tf.constant(size, tf.float32)
    extent = tf.round(share * sides)
    first = tf.floor(draws * (sides - extent + 1))
    return tf.cast(tf.concat([first, first + extent], 0), tf.int32)

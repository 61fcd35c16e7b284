"""Images that stay in memory once they were read."""

import dataclasses
import io
from collections.abc import Callable

import psutil
import tensorflow as tf

from keras_attention.data.source import Part, Source


def size(source: Source, crop: str) -> int:
    """Bytes that `cached` will keep.

    Args:
        source: The data set.
        crop: "resized", "padded" or "none".
    """
    return sum(
        part.encoded.total_bytes
        if part is source.train and crop == "resized"
        else len(part) * source.size[0] * source.size[1] * 3
        for part in (source.train, source.test)
        if part.encoded
    )


def cached(source: Source, crop: str) -> Source:
    """Keep in memory what is the same in every epoch, from its first use on.

    That is the pixels of the test part and, unless it is cropped from the full photos,
    of the training part; else the encoded photos. Nothing changes in what comes out.

    Args:
        source: The data set.
        crop: "resized", "padded" or "none".

    Returns:
        A data set that remembers.

    Raises:
        ValueError: If there is less memory available than it will take.
    """
    require_memory(size(source, crop), "the cache takes", "leave cache out")

    def pixels(part: Part) -> Part:
        if part.encoded is None:
            return part
        shape = (*source.size, 3)
        return dataclasses.replace(part, plain=_remembered(part.plain, tf.uint8, shape))

    def contents(part: Part) -> Part:
        if part.encoded is None:
            return part
        images = part.encoded
        kept = dataclasses.replace(
            images,
            handle=_remembered(
                lambda index: images.contents(images.handle(index)), tf.string, ()
            ),
            contents=tf.identity,
            opened=io.BytesIO,
        )
        return dataclasses.replace(part, crop=lambda *how: kept.crop(*how, source.size))

    return dataclasses.replace(
        source,
        train=(contents if crop == "resized" else pixels)(source.train),
        test=pixels(source.test),
    )


def require_memory(count: int, what: str, instead: str) -> None:
    """Check that `count` bytes are available.

    Raises:
        ValueError: If they are not.
    """
    available = psutil.virtual_memory().available
    if count > available:
        raise ValueError(
            f"{what} {count / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are "
            f"available: {instead}"
        )


def _remembered(function: Callable, dtype: tf.DType, shape: tuple) -> Callable:
    kept = {}

    def look_up(index):
        key = int(index)
        if key not in kept:
            kept[key] = function(tf.constant(index)).numpy()
        return kept[key]

    def remembering(index):
        return tf.ensure_shape(tf.numpy_function(look_up, [index], dtype), shape)

    return remembering

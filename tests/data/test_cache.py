"""The cache changes nothing but where images are read from."""

import numpy as np
import pytest
from support.datasets import collect
from support.photo_folders import fill

from keras_attention import data
from keras_attention.data import Augmentation, cache

COUNT, SIDE = 40, 8


@pytest.fixture
def photos(tmp_path):
    # PNG and JPEG: both ways to decode.
    fill(tmp_path, {"cat": 20}, ".png")
    return fill(tmp_path, {"dog": 20})


@pytest.mark.parametrize("crop", ["resized", "padded", "none"])
def test_images_come_from_memory_once_they_were_read(photos, crop):
    # With batches of one, every training image comes up in every epoch.
    arguments = {
        "image_size": SIDE,
        "batch_size": 1,
        "augment": Augmentation(crop=crop, flip=True),
    }
    plain = data.load(f"folder:{photos}", **arguments)
    images = data.load(f"folder:{photos}", cache=True, **arguments)
    steps = 2 * images.steps_per_epoch
    expected = collect(plain.epochs().take(steps)), collect(plain.test)
    first = collect(images.epochs().take(steps)), collect(images.test)
    found = data.scan_folder(photos)
    for sample in (*found.train, *found.test):
        sample.path.unlink()
    again = collect(images.epochs().take(steps)), collect(images.test)
    for (x, y), *others in zip(expected, first, again, strict=True):
        for other_x, other_y in others:
            np.testing.assert_array_equal(x, other_x)
            np.testing.assert_array_equal(y, other_y)


def test_size_is_known_before(photos):
    found = data.scan_folder(photos)
    encoded = sum(sample.path.stat().st_size for sample in found.train)
    pixels = SIDE * SIDE * 3

    def bytes_of(crop):
        asked = Augmentation(crop=crop)
        spec = f"folder:{photos}"
        return data.load(spec, image_size=SIDE, augment=asked).cache_bytes

    assert bytes_of("resized") == encoded + len(found.test) * pixels
    assert bytes_of("none") == bytes_of("padded") == COUNT * pixels
    # The digits are in memory in any case.
    assert data.load("digits", image_size=8).cache_bytes == 0


def test_too_little_memory_is_an_error(photos, monkeypatch):
    class Memory:
        available = 1000

    monkeypatch.setattr(cache.psutil, "virtual_memory", Memory)
    message = r"the cache takes 0\.0 GB of memory, 0\.0 GB are available: leave cache"
    with pytest.raises(ValueError, match=message):
        data.load(f"folder:{photos}", image_size=SIDE, cache=True)
    data.load(f"folder:{photos}", image_size=SIDE)

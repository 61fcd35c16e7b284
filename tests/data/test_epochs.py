"""Any position of the training stream is reached without what stands before it."""

import itertools

import numpy as np
import pytest
from support.photo_folders import fill

from keras_attention import data
from keras_attention.data import Augmentation

MIXED = Augmentation(crop="resized", flip=True, mixup=0.4, cutmix=1.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    return fill(root, {"cat": 14, "dog": 14})


def take(images, count, *position, **arguments):
    batches = images.epochs(*position, **arguments).take(count).as_numpy_iterator()
    return [(x.tobytes(), y.tobytes()) for x, y in batches]


@pytest.mark.parametrize("augment", [True, MIXED])
@pytest.mark.parametrize("spec", ["digits", "photos"])
def test_stream_from_any_position_is_the_uninterrupted_one(spec, augment, photos):
    spec, batch = ("digits", 400) if spec == "digits" else (f"folder:{photos}", 6)
    arguments = {"image_size": 8, "batch_size": batch, "seed": 4, "augment": augment}
    images = data.load(spec, **arguments)
    steps = images.steps_per_epoch
    assert steps == 3
    whole = take(images, 3 * steps)
    assert len(set(whole)) == len(whole)
    for epoch, step in ((0, 2), (1, 0), (1, 1), (1, steps)):
        begin = epoch * steps + step
        # Another object: nothing is remembered from before.
        again = data.load(spec, **arguments)
        assert take(again, 3 * steps - begin, epoch, step) == whole[begin:]
    epochs = [images.epoch(number).as_numpy_iterator() for number in range(3)]
    passes = [(x.tobytes(), y.tobytes()) for x, y in itertools.chain(*epochs)]
    assert passes == whole
    first = [(x.tobytes(), y.tobytes()) for x, y in images.train.as_numpy_iterator()]
    assert first == whole[:steps]


def test_shards_put_together_are_the_batch():
    arguments = {"image_size": 8, "batch_size": 48, "augment": MIXED}
    images = data.load("digits", **arguments)
    whole = list(images.epochs(1, 28).take(3).as_numpy_iterator())
    shards = [
        list(images.epochs(1, 28, shard=(3, index)).take(3).as_numpy_iterator())
        for index in range(3)
    ]
    for step, (pixels, labels) in enumerate(whole):
        parts = [shard[step] for shard in shards]
        assert all(len(x) == 16 for x, _ in parts)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in parts]), pixels)
        np.testing.assert_array_equal(np.concatenate([y for _, y in parts]), labels)


def test_skipped_images_are_never_read(tmp_path):
    root = fill(tmp_path, {"cat": 20, "dog": 20})
    arguments = {"image_size": 8, "batch_size": 4, "augment": MIXED}
    images = data.load(f"folder:{root}", **arguments)
    steps = images.steps_per_epoch
    expected = take(images, 2, 0, steps - 2)
    # Finding the files of the last two batches: the labels alone don't name them.
    train = data.scan_folder(root).train
    order = np.concatenate([y for _, y in plain_epoch(images, root)])
    assert len(order) == steps * 4
    kept = set(order[-8:])
    images = data.load(f"folder:{root}", **arguments)
    for number, sample in enumerate(train):
        if number not in kept:
            sample.path.unlink()
    assert take(images, 2, 0, steps - 2) == expected


def plain_epoch(images, root):
    """Epoch 0 with the number of each training image in place of its label."""
    plain = data.load(f"folder:{root}", image_size=8, batch_size=4, augment=False)
    unmixed = np.concatenate([x for x, _ in plain.calibration.as_numpy_iterator()])
    mixed = np.random.default_rng(0).permutation(plain.train_size)
    numbers = {
        pixels.tobytes(): number for pixels, number in zip(unmixed, mixed, strict=True)
    }
    assert len(numbers) == images.train_size
    for x, _ in plain.epoch(0).as_numpy_iterator():
        yield x, np.array([numbers[pixels.tobytes()] for pixels in x])


def test_order_does_not_depend_on_the_augmentation():
    loaded = [
        data.load("digits", image_size=8, augment=augment)
        for augment in (False, True, Augmentation(crop="resized", random_erasing=0.5))
    ]
    first, *others = (
        [y for _, y in images.epochs(2).take(3).as_numpy_iterator()]
        for images in loaded
    )
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (0, 45)])
def test_positions_must_exist(position):
    images = data.load("digits", image_size=8)
    with pytest.raises(ValueError, match=r"no step .* of epoch .* and have 44 steps"):
        images.epochs(*position)


@pytest.mark.parametrize("shard", [(2, 2), (2, -1), (3, 0)])
def test_shards_must_divide_the_batch(shard):
    images = data.load("digits", image_size=8)
    with pytest.raises(ValueError, match=r"size 32 a multiple of count; got \(\d, "):
        images.epochs(shard=shard)

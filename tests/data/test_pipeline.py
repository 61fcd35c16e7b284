"""tf.data: fixed splits, determinism under a seed, exact values."""

import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.datasets import collect

from keras_attention import data
from keras_attention.data import augment, digits


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of 20 and 16 photos, 40x30 pixels."""
    root = tmp_path_factory.mktemp("photos")
    for name, count in (("cat", 20), ("dog", 16)):
        (root / name).mkdir()
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3))
            image = Image.fromarray(pixels.astype("uint8"))
            image.save(root / name / f"{number}.png")
    return root


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_digits_split_is_fixed():
    loaded = data.load("digits", batch_size=100)
    assert loaded.labels == tuple("0123456789")
    assert loaded.image_shape == (32, 32, 3)
    assert (loaded.train_size, loaded.test_size) == (1437, 360)
    _, labels = digits.load_digits((8, 8))
    train, test = digits.split_digits(labels)
    assert sorted([*train, *test]) == list(range(1797))
    assert test[:10].tolist() == TEST_HEAD
    # Every class gives a fifth of its images, to within one.
    share = np.bincount(labels[test]) - np.bincount(labels) * 360 / 1797
    assert np.abs(share).max() < 1


# Written down once: the split must never move.
TEST_HEAD = [12, 14, 17, 20, 26, 28, 29, 33, 47, 55]


def test_digits_are_bytes_before_they_are_floats():
    values, labels = collect(data.load("digits").test)
    assert values.shape == (360, 32, 32, 3)
    assert values.dtype == np.float32
    assert labels.dtype == np.int32
    pixels = (values + 1) * 128
    np.testing.assert_array_equal(pixels, np.round(pixels))
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_digits_without_resizing_are_scikit_learns():
    from sklearn.datasets import load_digits

    pixels, labels = digits.load_digits((8, 8))
    np.testing.assert_array_equal(labels, load_digits().target)
    # 16 gray levels over 255: half a byte of rounding.
    difference = pixels[..., 0] - load_digits().images * 255 / 16
    assert np.abs(difference).max() <= 0.5


@pytest.mark.parametrize("spec", ["digits", "photos"])
def test_same_seed_and_epoch_same_pixels(spec, photos):
    spec = f"folder:{photos}" if spec == "photos" else spec
    arguments = {"image_size": 24, "batch_size": 16}
    first = data.load(spec, seed=3, **arguments)
    passes = [collect(first.train) for _ in range(2)]
    again = data.load(spec, seed=3, **arguments)
    assert same(passes[1], collect(again.epoch(1)))
    assert same(passes[0], collect(again.epoch(0)))
    assert same(passes[0], collect(again.train))
    assert not same(passes[0], passes[1])
    other = data.load(spec, seed=4, **arguments)
    assert not same(passes[0], collect(other.train))


def test_passes_do_not_depend_on_the_global_seed():
    tf.random.set_seed(1)
    first = collect(data.load("digits", image_size=8).train)
    tf.random.set_seed(2)
    assert same(first, collect(data.load("digits", image_size=8).train))


def test_train_covers_everything_but_an_incomplete_batch(photos):
    loaded = data.load("digits", image_size=8, batch_size=100, augment=False)
    values, _ = collect(loaded.train)
    assert loaded.steps_per_epoch == int(loaded.train.cardinality()) == 14
    assert len(values) == 1400
    everything, _ = collect(loaded.calibration)
    assert len(everything) == 1437
    stored = {image.tobytes() for image in everything}
    assert {image.tobytes() for image in values} <= stored
    small = data.load(f"folder:{photos}", image_size=8, batch_size=1000)
    assert small.batch_size == small.train_size
    assert small.steps_per_epoch == 1


def test_calibration_shows_all_classes_early_and_never_changes():
    loaded = data.load("digits", image_size=8, batch_size=64)
    (values, labels), *_ = loaded.calibration.as_numpy_iterator()
    assert set(labels.tolist()) == set(range(10))
    again = data.load("digits", image_size=8, batch_size=64)
    np.testing.assert_array_equal(
        values, next(again.calibration.as_numpy_iterator())[0]
    )


def test_photos_are_what_read_image_says(photos):
    loaded = data.load(f"folder:{photos}", image_size=(20, 24))
    found = data.scan_folder(photos)
    values, labels = collect(loaded.test)
    assert loaded.image_shape == (20, 24, 3)
    assert labels.tolist() == [sample.label for sample in found.test]
    for value, sample in zip(values, found.test, strict=True):
        pixels = data.read_image(sample.path, (20, 24))
        np.testing.assert_array_equal(value, pixels / 128 - 1)


def test_input_range_is_where_the_ends_of_a_byte_go():
    values, _ = collect(data.load("digits", input_range=(0.0, 255.0)).test)
    assert (values.min(), values.max()) == (0, 255)
    np.testing.assert_array_equal(values, np.round(values))


def test_shifts_reach_both_ends_and_move_whole_pixels():
    image = np.zeros((32, 32, 3), "uint8")
    image[10, 20] = 255
    seen = set()
    for key in range(200):
        seed = tf.constant([0, key], tf.int64)
        moved = augment.padded_crop(tf.constant(image), (2, 2), seed)
        ((y, x),) = np.argwhere(moved.numpy()[..., 0])
        seen.add((int(y) - 10, int(x) - 20))
    # 200 draws from 25 places: one is missed with a chance of 25 * 0.96 ** 200 < 1 %.
    assert seen == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}


def test_crops_stay_inside_and_keep_their_share_of_the_area():
    rng = np.random.default_rng(0)
    for _ in range(500):
        sides = rng.integers(20, 400, 2)
        first, last = augment.crop_box(sides, 1.5, rng.random(5), 0.35)
        assert (first >= 0).all() and (first < last).all()
        assert (last <= sides + 1e-9).all()
        assert np.prod(last - first) / np.prod(sides) <= 1 + 1e-9
    square = np.array([300, 300])
    boxes = [augment.crop_box(square, 1.0, rng.random(5), 0.35) for _ in range(300)]
    areas = [np.prod(last - first) / 300**2 for first, last in boxes]
    # Cutting to the image's sides takes up to a quarter off: 0.35 * 3 / 4.
    assert min(areas) > 0.26
    assert max(areas) > 0.9
    assert min(areas) < 0.45


UNKNOWN = r'must be "digits", "folder:PATH", "tfrecord:PATH" or "tfds:NAME", got'


@pytest.mark.parametrize(
    "spec", ["mnist", "folder", "folder:", "tfds:", "digits:8", "digits:", ""]
)
def test_unknown_data_lists_what_there_is(spec):
    with pytest.raises(ValueError, match=UNKNOWN):
        data.load(spec)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_batch_size_must_be_positive(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        data.load("digits", batch_size=batch_size)


def test_damaged_photos_are_reported(photos, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for file in sorted((photos / name).iterdir()):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n")
    loaded = data.load(f"folder:{tmp_path}", image_size=8)
    assert [skipped.path.name for skipped in loaded.skipped] == ["broken.png"]
    assert loaded.train_size + loaded.test_size == 36
    with pytest.raises(ValueError, match=r"broken\.png"):
        data.load(f"folder:{tmp_path}", image_size=8, strict=True)


def test_other_training_images_have_another_digest(photos, tmp_path):
    small = data.load("digits", image_size=8)
    assert re.fullmatch("[0-9a-f]{16}", small.digest)
    # The seed decides order and augmentation, not which images there are.
    assert data.load("digits", image_size=8, seed=1).digest == small.digest
    assert data.load("digits", image_size=16).digest != small.digest
    copy = shutil.copytree(photos, tmp_path / "copy")
    found = [data.load(f"folder:{root}").digest for root in (photos, copy)]
    assert found[0] == found[1]
    for path in copy.rglob("*.png"):
        with Image.open(path) as image:
            image.quantize(64).save(path)
    assert data.load(f"folder:{copy}").digest != found[0]

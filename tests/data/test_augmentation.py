"""What Augmentation allows, and what each change does to pixels and labels."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from support.datasets import collect

from keras_attention import data
from keras_attention.data import Augmentation, augment, mixing, photometric

GRAY = np.full((16, 16, 3), 128, "float32")
NONE = {"crop": "none", "flip": False}


def seeds(count):
    return [tf.constant([7, number], tf.int64) for number in range(count)]


def noise(height=16, width=16):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype("f4")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("crop", "random", "crop must be one of auto, resized, padded, none, got 'r"),
        ("min_area", 0, "min_area must be above 0 and at most 1, got 0"),
        ("min_area", "0.1", "min_area must be above 0 and at most 1, got '0.1'"),
        ("padding", 2.5, "padding must be a positive integer, got 2.5"),
        ("flip", "yes", "flip must be true, false or null, got 'yes'"),
        ("color_jitter", 1.5, "color_jitter must be a number from 0 to 1, got 1.5"),
        ("rand_augment", -0.1, "rand_augment must be a number from 0 to 1, got -0.1"),
        ("rand_augment_ops", 0, "rand_augment_ops must be a positive integer, got 0"),
        ("random_erasing", True, "random_erasing must be a number from 0 to 1, got T"),
        ("mixup", float("nan"), r"mixup must be 0 or a number from 0\.01 to 100, got"),
        ("cutmix", 1e-3, r"cutmix must be 0 or a number from 0\.01 to 100, got 0\.001"),
    ],
)
def test_every_value_is_checked(name, value, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**{name: value})


def test_recipes_need_no_tensorflow_to_name_augmentations():
    code = (
        "import sys; from keras_attention.data.augmentation import Augmentation\n"
        "assert Augmentation(mixup=0.2).mixes and not Augmentation().mixes\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(
    "asked",
    [
        {"crop": "resized", "min_area": 0.2, "flip": True},
        {"crop": "padded", "padding": 3, "color_jitter": 0.4},
        {"rand_augment": 0.5, "rand_augment_ops": 1, "random_erasing": 0.5},
        {"mixup": 0.4, "cutmix": 1.0, "flip": True},
    ],
)
def test_a_seed_an_epoch_and_an_index_decide_the_pixels(asked):
    arguments = {"image_size": 12, "augment": Augmentation(**asked)}

    def epoch(batch_size, number, seed=3):
        images = data.load("digits", batch_size=batch_size, seed=seed, **arguments)
        return collect(images.epochs(number).take(96 // batch_size))

    pixels, labels = epoch(48, 5)
    other = epoch(32, 5)
    np.testing.assert_array_equal(pixels, other[0])
    np.testing.assert_array_equal(labels, other[1])
    assert not np.array_equal(pixels, epoch(48, 6)[0])


def test_no_augmentation_leaves_the_images_as_they_are():
    plain = data.load("digits", image_size=8, augment=False)
    same = data.load("digits", image_size=8, augment=Augmentation(**NONE))
    (x, y), (other_x, other_y) = (
        next(images.epoch(2).as_numpy_iterator()) for images in (plain, same)
    )
    np.testing.assert_array_equal(x, other_x)
    np.testing.assert_array_equal(y, other_y)


def test_auto_is_the_data_sets_own():
    auto = data.load("digits", image_size=16).augmentation
    assert (auto.crop, auto.flip) == ("padded", False)
    own = Augmentation(crop="resized", flip=True)
    assert data.load("digits", image_size=16, augment=own).augmentation == own


def test_flips_mirror_half_of_the_images():
    image = tf.constant(noise().astype("uint8"))
    draws = [augment.crop_draws(seed) for seed in seeds(400)]
    results = [augment.flip(image, draw).numpy() for draw in draws]
    mirrored = [np.array_equal(result, image[:, ::-1]) for result in results]
    straight = [np.array_equal(result, image) for result in results]
    assert all(a != b for a, b in zip(mirrored, straight, strict=True))
    # 200 expected of 400; 5 standard deviations of 10.
    assert 150 < sum(mirrored) < 250


def test_crops_of_pixels_are_resized_windows():
    ramp = np.tile(np.arange(64, dtype="uint8")[:, None, None] * 4, (1, 64, 3))
    draws = tf.constant([0.0, 0.5, 0.5, 0.5, 0.0])
    crop = augment.crop_pixels(tf.constant(ramp), draws, 0.25, True, (16, 16)).numpy()
    # A quarter of the area at the centre: rows 16 to 47, two of them in one.
    expected = np.tile((16.5 + 2 * np.arange(16)[:, None, None]) * 4, (1, 16, 3))
    np.testing.assert_array_equal(crop, expected)


def test_windows_stay_inside_of_the_shrunk_image():
    rng = np.random.default_rng(0)
    for _ in range(100):
        height, width = rng.integers(3, 60, 2)
        ratio = int(rng.choice([1, 2, 4, 8]))
        sides = tf.constant([height, width], tf.float32)
        draws = tf.constant(rng.random(5), tf.float32)
        box = augment.crop_box(sides, 1.0, draws, 0.05, tf)
        top, left, rows, columns = augment.window(sides, box, ratio).numpy()
        assert top >= 0 <= left
        assert rows >= 1 <= columns
        assert top + rows <= -(-height // ratio)
        assert left + columns <= -(-width // ratio)


def test_a_region_has_the_area_and_the_aspect_that_are_drawn():
    sides = np.float32([300, 400])
    # Half of the area; two thirds of the way from 3/4 to 4/3, times 1.2; a quarter of
    # what is left above it, three quarters left of it.
    draws = np.float32([0.5 / 0.9 - 0.1 / 0.9, 2 / 3, 0.25, 0.75, 0])
    aspect = 1.2 * (3 / 4) ** (1 / 3) * (4 / 3) ** (2 / 3)
    area = 0.5 * 300 * 400
    region = np.array([np.sqrt(area / aspect), np.sqrt(area * aspect)])
    first = [0.25, 0.75] * (sides - region)
    for math, given in ((np, draws), (tf, tf.constant(draws))):
        box = augment.crop_box(sides, 1.2, given, 0.1, math)
        # float32.
        np.testing.assert_allclose(box, [first, first + region], 1e-5)


def apply(image, **asked):
    """What `photometric` makes of an image under 200 seeds."""
    (change,) = photometric.changes(Augmentation(**asked))
    source = tf.data.Dataset.from_tensor_slices(tf.stack(seeds(200)))
    changed = source.map(lambda seed: change(tf.constant(image), seed))
    return np.stack(list(changed.as_numpy_iterator()))


def test_erasing_happens_as_often_as_asked_and_fills_a_rectangle_with_noise():
    erased = apply(GRAY, random_erasing=0.3)
    touched = (erased != 128).any((1, 2, 3))
    # 60 expected of 200, 4 standard deviations of 6.5.
    assert 34 < touched.sum() < 86
    for mask in (erased != 128).any(-1)[touched]:
        rows, columns = mask.any(1), mask.any(0)
        # One rectangle: noise that hits 128 in all three channels has no probability.
        np.testing.assert_array_equal(mask, rows[:, None] & columns[None])
    share = (erased != 128).any(-1)[touched].mean()
    # Both sides' squares are uniform from 2 to 33 %: the area's mean is
    # ((2/3) (0.33^1.5 - 0.02^1.5) / 0.31)^2 = 16 %, and whole pixels add a little.
    assert 0.13 < share < 0.21
    assert erased.min() == 0
    assert erased.max() == 255
    assert (apply(GRAY, random_erasing=1.0) != 128).any((1, 2, 3)).all()


def test_colour_jitter_goes_both_ways_and_stays_in_range():
    image = np.stack([np.full((16, 16), v, "f4") for v in (96, 128, 160)], -1)
    image[::2] += 16
    changed = apply(image, color_jitter=0.4)
    assert changed.min() >= 0
    assert changed.max() <= 255
    shift = changed.mean((1, 2, 3)) - image.mean()
    # Brightness: up to 0.4 / 2 of 255 = 51; saturation moves the mean a little more.
    assert -51 - 16 < shift.min() < -35
    assert 35 < shift.max() < 51 + 16
    contrast = np.ptp(changed[..., 1], (1, 2)) / 16
    assert 0.5 < contrast.min() < 0.75
    assert 1.25 < contrast.max() < 1.5
    spread = np.ptp(changed, -1).mean((1, 2)) / 64
    # Saturation and contrast, 0.6 to 1.4 each.
    assert 0.35 < spread.min() < 0.65
    assert 1.3 < spread.max() < 2.0


def test_solarizing_inverts_the_brightest():
    operations = photometric._operations(0.5)
    ramp = np.tile(np.arange(256, dtype="f4")[:, None, None], (1, 4, 3))
    changed = operations[-1](tf.constant(ramp), tf.constant([0, 1], tf.int64)).numpy()
    kept = changed == ramp
    threshold = int(kept[:, 0, 0].sum())
    assert kept[:threshold].all()
    np.testing.assert_array_equal(changed[threshold:], 255 - ramp[threshold:])
    assert threshold >= 127


@pytest.mark.parametrize("magnitude", [0.1, 1.0])
def test_operations_of_rand_augment_grow_with_the_magnitude(magnitude):
    image = tf.constant(noise(24, 24))
    for number, operation in enumerate(photometric._operations(magnitude)):
        results = [operation(image, seed).numpy() for seed in seeds(4)]
        again = [operation(image, seed).numpy() for seed in seeds(4)]
        np.testing.assert_array_equal(results, again)
        assert np.min(results) >= 0, number
        assert np.max(results) <= 255, number
    rotate, posterize = (photometric._operations(magnitude)[i] for i in (4, 9))
    disc = np.zeros((33, 33, 3), "f4")
    disc[:16] = 255
    moved = [np.abs(rotate(tf.constant(disc), s) - disc).mean() for s in seeds(20)]
    # The edge of a half plane sweeps a share of at most tan(30 degrees) / 4 on each
    # side, and the corners that turn in from outside are black.
    assert 0 < np.max(moved) / 255 < 0.4 * magnitude
    levels = len(np.unique(posterize(image, seeds(1)[0])))
    assert levels == {0.1: len(np.unique(image)), 1.0: 16}[magnitude]


def test_rand_augment_applies_as_many_operations_as_asked():
    image = noise()
    one = apply(image, rand_augment=0.5, rand_augment_ops=1)
    two = apply(image, rand_augment=0.5, rand_augment_ops=2)
    # The first operation and its seed don't depend on how many follow. Where the second
    # does nothing, as AutoContrast to full-range noise, both are equal: one in 13.
    same = (one == two).all((1, 2, 3)).mean()
    assert 0.02 < same < 0.35
    again = apply(image, rand_augment=0.5, rand_augment_ops=2)
    np.testing.assert_array_equal(two, again)


def draws(asked, count, size=(16, 12)):
    """How images 0 ... count - 1 are mixed; partners share the first seed."""
    augmentation = Augmentation(**asked)
    source = tf.data.Dataset.range(count).map(
        lambda i: mixing.draw(
            augmentation, size, tf.stack([1, i // 2]), tf.stack([2, i])
        )
    )
    return next(iter(source.batch(count)))


@pytest.mark.parametrize(
    "asked", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 0.5}]
)
def test_labels_are_what_the_pixels_are_made_of(asked):
    count = 400
    drawn = draws(asked, count)
    # Image i is the constant i, its class is i: pixels tell their shares.
    images = np.arange(count, dtype="f4")[:, None, None, None] * np.ones((16, 12, 3))
    mix = mixing.mixer(Augmentation(**asked))
    source = tf.data.Dataset.from_tensors(
        (images.astype("f4"), np.eye(count, dtype="f4"), drawn)
    )
    pixels, labels = next(source.map(mix).as_numpy_iterator())
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    own = labels[np.arange(count), np.arange(count)]
    partner = labels[np.arange(count), np.arange(count) ^ 1]
    np.testing.assert_allclose(own + partner, 1, atol=1e-6)
    # Float32 of values up to 400: half a unit in the last place is 2e-5.
    expected = own * np.arange(count) + partner * (np.arange(count) ^ 1)
    np.testing.assert_allclose(pixels.mean((1, 2, 3)), expected, rtol=0, atol=2e-4)
    mixed = (own > 1e-3) & (own < 1 - 1e-3)
    boxed = np.ptp(pixels, (1, 2, 3)) == 1
    if "mixup" not in asked:
        assert boxed[mixed].all()
    elif "cutmix" not in asked:
        assert not boxed.any()
    else:
        pairs = boxed.reshape(-1, 2).any(1).mean()
        # Half of 200 pairs, 5 standard deviations of 3.5 %, less those with no box.
        assert 0.3 < pairs < 0.67


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_weights_are_drawn_from_a_beta_distribution(alpha):
    weights = draws({"mixup": alpha}, 2000)["weight"].numpy()
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)); 5 standard errors.
    variance = 1 / (4 * (2 * alpha + 1))
    assert weights.mean() == pytest.approx(0.5, abs=5 * np.sqrt(variance / 2000))
    assert weights.var() == pytest.approx(variance, rel=0.15)
    assert 0 <= weights.min() < weights.max() <= 1


def test_boxes_lie_inside_and_reach_every_pixel():
    boxes = draws({"cutmix": 1.0}, 1000)["box"].numpy()
    top, left, bottom, right = boxes.T
    assert (boxes >= 0).all()
    assert bottom.max() == 16
    assert right.max() == 12
    assert (top <= bottom).all()
    assert (left <= right).all()
    # 1 - Beta(1, 1) is uniform: half of the area on average, whole pixels aside.
    area = ((bottom - top) * (right - left)).mean() / (16 * 12)
    assert area == pytest.approx(0.5, abs=0.05)


def test_mixed_labels_are_shares_of_the_classes():
    images = data.load("digits", image_size=8, augment=Augmentation(mixup=0.4))
    x, y = next(images.train.as_numpy_iterator())
    assert (x.dtype, y.dtype, y.shape) == (np.float32, np.float32, (32, 10))
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
    assert ((y > 0.01) & (y < 0.99)).any()
    # What is evaluated, and calibrated with, is not mixed.
    for dataset in (images.test, images.calibration):
        assert dataset.element_spec[1].dtype == tf.int32


def test_mixing_takes_pairs():
    asked = Augmentation(mixup=0.4)
    with pytest.raises(ValueError, match="the 3 images of a batch of 3 on each of 1"):
        data.load("digits", image_size=8, batch_size=3, augment=asked)
    images = data.load("digits", image_size=8, batch_size=6, augment=asked)
    with pytest.raises(ValueError, match="the 3 images of a batch of 6 on each of 2"):
        images.epochs(shard=(2, 0))


PRINT_PIXELS = """
import sys, hashlib, random
import keras, numpy as np
keras.config.set_dtype_policy("mixed_bfloat16")
random.seed(5)
before = random.getstate()
from keras_attention import data
asked = data.Augmentation(color_jitter=0.4, random_erasing=0.5, rand_augment=0.5,
                          rand_augment_ops=1, mixup=0.4, cutmix=1.0, flip=True)
images = data.load("digits", image_size=8, batch_size=64, augment=asked)
x, y = next(images.epochs(3, 1).as_numpy_iterator())
assert random.getstate() == before, "the seeds of a model's layers would change"
np.savez(sys.argv[1], x=x, y=y)
"""


def test_pixels_are_the_same_for_a_model_on_jax(tmp_path):
    processes = []
    for backend in ("jax", "tensorflow"):
        environment = {**os.environ, "KERAS_BACKEND": backend}
        command = [sys.executable, "-W", "error", "-c", PRINT_PIXELS]
        out = tmp_path / f"{backend}.npz"
        processes.append(subprocess.Popen([*command, str(out)], env=environment))
    assert [process.wait(300) for process in processes] == [0, 0]
    jax, tensorflow = (np.load(tmp_path / f"{b}.npz") for b in ("jax", "tensorflow"))
    # Keras' Equalization takes another path on JAX, to the same table.
    np.testing.assert_allclose(jax["x"], tensorflow["x"], atol=2 / 128)
    assert (jax["x"] != tensorflow["x"]).mean() < 1e-3
    np.testing.assert_array_equal(jax["y"], tensorflow["y"])

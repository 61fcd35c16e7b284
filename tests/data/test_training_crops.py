"""Training crops of photos: whoever decodes them, it is the same region, upright."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.photo_folders import smooth

from keras_attention import data
from keras_attention.data import encoded, folder

SIZE = (16, 20)


def part(paths):
    shapes = [encoded.check(path) for path in paths]
    samples = [
        folder.Sample(path, 0, shape) for path, shape in zip(paths, shapes, strict=True)
    ]
    return folder._encode(samples)


def crop(images, index, draws, min_area=0.3, flip=False):
    draws = tf.constant(draws, tf.float32)
    return images.crop(tf.constant(index), draws, min_area, flip, SIZE).numpy()


@pytest.mark.parametrize(("height", "width"), [(60, 80), (31, 33), (200, 270)])
def test_tensorflow_and_pillow_crop_the_same_region(tmp_path, height, width):
    smooth(1, height, width).save(tmp_path / "a.jpg", quality=95)
    images = part([tmp_path / "a.jpg"])
    assert images.shapes.tolist() == [[height, width]]
    rng = np.random.default_rng(0)
    for _ in range(10):
        draws = rng.random(5)
        fast = crop(images, 0, draws)
        slow = encoded._pillow_crop(tmp_path / "a.jpg", draws, 0.3, False, SIZE)
        assert fast.dtype == np.float32
        # Edges rounded to pixels, antialiasing, two versions of libjpeg: a few levels
        # on a smooth picture that spans 255.
        assert np.abs(fast - slow).mean() < 6
        assert np.abs(fast - slow).max() < 40


def test_big_photos_are_decoded_small_but_alike(tmp_path, monkeypatch):
    smooth(2, 480, 640).save(tmp_path / "a.jpg", quality=95)
    images, draws = part([tmp_path / "a.jpg"]), [1.0, 0.5, 0.5, 0.5, 0.0]
    seen = []
    decode = tf.io.decode_and_crop_jpeg
    monkeypatch.setattr(
        tf.io,
        "decode_and_crop_jpeg",
        lambda *args, ratio, **kwargs: (
            seen.append(ratio) or decode(*args, ratio=ratio, **kwargs)
        ),
    )
    small = crop(images, 0, draws)
    assert seen == [8]
    monkeypatch.setattr(encoded, "_RATIOS", (1,))
    assert np.abs(small - crop(images, 0, draws)).max() < 6


def test_half_of_the_crops_are_mirrored(tmp_path):
    smooth(3).save(tmp_path / "a.jpg")
    smooth(3).save(tmp_path / "b.png")
    images = part([tmp_path / "a.jpg", tmp_path / "b.png"])
    for index in (0, 1):
        straight = crop(images, index, [1, 0.5, 0, 0, 0.5], flip=True)
        mirrored = crop(images, index, [1, 0.5, 0, 0, 0.4999], flip=True)
        np.testing.assert_allclose(straight, mirrored[:, ::-1], atol=1e-3)
        assert np.abs(straight - mirrored).max() > 10
        never = crop(images, index, [1, 0.5, 0, 0, 0.4999], flip=False)
        np.testing.assert_allclose(never, straight, atol=1e-3)


def save(path, picture, **options):
    picture.save(path, **options)
    return path


def test_only_ordinary_jpegs_are_tensorflows(tmp_path):
    picture = smooth(4)
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = Image.Exif()
    upright[0x0112] = 1
    cases = [
        (True, save(tmp_path / "a.jpg", picture)),
        (True, save(tmp_path / "progressive.jpg", picture, progressive=True)),
        (True, save(tmp_path / "gray.jpg", picture.convert("L"))),
        (True, save(tmp_path / "upright.jpg", picture, exif=upright)),
        (False, save(tmp_path / "turned.jpg", picture, exif=turned)),
        (False, save(tmp_path / "ink.jpg", picture.convert("CMYK"))),
        (False, save(tmp_path / "a.png", picture)),
        (False, save(tmp_path / "png_in_disguise.jpg", picture, format="PNG")),
    ]
    paths = [path for _, path in cases]
    images = part(paths)
    assert images.shapes.any(1).tolist() == [fast for fast, _ in cases]
    whole = [1.0, 0.5, 0.5, 0.5, 0.0]
    for index, path in enumerate(paths):
        expected = encoded._pillow_crop(path, whole, 0.3, False, SIZE)
        assert np.abs(crop(images, index, whole) - expected).mean() < 6, path


def test_damaged_images_are_told_from_missing_ones(tmp_path):
    buffer = io.BytesIO()
    smooth(5, 200, 200).save(buffer, "JPEG")
    torn = buffer.getvalue()[: buffer.tell() // 2]
    (tmp_path / "torn.jpg").write_bytes(torn)
    found = encoded.check_all(
        [tmp_path / "torn.jpg", torn, b"no image", tmp_path / "gone.jpg"]
    )
    assert [type(error) for error in found] == [
        *[data.UnreadableImageError] * 3,
        FileNotFoundError,
    ]
    assert "truncated" in str(found[0])
    assert "torn.jpg" in str(found[0])
    assert "cannot read the image: " in str(found[1])
    assert "no image that Pillow knows" in str(found[2])

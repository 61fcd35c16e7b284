"""Any image file becomes upright RGB bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_attention import data
from keras_attention.data import images

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants(size=64):
    """Red, green / blue, white: every rotation and flip of it is another picture."""
    pixels = np.zeros((size, size, 3), "uint8")
    half = size // 2
    pixels[:half, :half], pixels[:half, half:] = RED, GREEN
    pixels[half:, :half], pixels[half:, half:] = BLUE, WHITE
    return Image.fromarray(pixels)


def corners(pixels):
    """The four corner colours in reading order."""
    return [tuple(int(v) for v in pixels[y, x]) for y in (2, -3) for x in (2, -3)]


def assert_upright(pixels, tolerance=0):
    assert pixels.dtype == np.uint8
    assert pixels.shape == (32, 32, 3)
    difference = np.subtract(corners(pixels), [RED, GREEN, BLUE, WHITE])
    assert np.abs(difference).max() <= tolerance


# EXIF orientation -> the transposition that a camera held that way has applied.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_stands_upright(tmp_path, orientation):
    stored = quadrants()
    if STORED[orientation] is not None:
        stored = stored.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", quality=95, exif=exif)
    # JPEG at quality 95 is off by a few levels.
    assert_upright(data.read_image(tmp_path / "a.jpg", 32), tolerance=6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colour_modes_keep_their_colours(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    quadrants().convert(mode).save(path)
    # The default palette of 216 colours holds these four exactly.
    assert_upright(data.read_image(path, 32))


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    quadrants().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    # Ink by ink JPEG error adds up in the conversion.
    assert_upright(data.read_image(tmp_path / "a.jpg", 32), tolerance=12)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_gray_becomes_three_equal_channels(tmp_path, mode):
    gray = Image.fromarray(np.where(np.arange(64) < 32, 0, 255).astype("uint8")[None])
    gray.resize((64, 64)).convert(mode).save(tmp_path / "a.png")
    pixels = data.read_image(tmp_path / "a.png", 32)
    assert (pixels == pixels[..., :1]).all()
    assert corners(pixels) == [(0, 0, 0), WHITE] * 2


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).astype("uint16").reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = data.read_image(tmp_path / "a.png", 64)
    np.testing.assert_array_equal(pixels[..., 0], values >> 8)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    image = quadrants().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 32))
    if mode == "P":
        image = image.quantize(8)
    image.save(tmp_path / "a.png")
    pixels = data.read_image(tmp_path / "a.png", 32)
    assert corners(pixels) == [WHITE, GREEN, BLUE, WHITE]


def test_transparent_palette_index(tmp_path):
    quadrants().convert("P").save(
        tmp_path / "a.gif", transparency=quadrants().convert("P").getpixel((0, 0))
    )
    assert corners(data.read_image(tmp_path / "a.gif", 32))[0] == WHITE


def test_the_centre_is_cut_to_the_target_aspect(tmp_path):
    wide = Image.new("RGB", (96, 32), RED)
    wide.paste(BLUE, (32, 0, 64, 32))
    wide.save(tmp_path / "a.png")
    assert (data.read_image(tmp_path / "a.png", 32) == BLUE).all()
    # Half as high as wide: twice the middle's width, half of it red.
    pixels = data.read_image(tmp_path / "a.png", (16, 32))
    assert (pixels == BLUE).all(-1).mean() == pytest.approx(0.5, abs=2 / 32)


def test_resizing_is_antialiased(tmp_path):
    stripes = np.tile(np.array([0, 255], "uint8"), (128, 64))
    Image.fromarray(stripes).save(tmp_path / "a.png")
    # Without a filter it would be 0 or 255; the kernel is cut at the borders.
    assert np.abs(data.read_image(tmp_path / "a.png", 16).astype(int) - 127).max() <= 8


def test_big_jpegs_are_decoded_small_but_alike(tmp_path, monkeypatch):
    # A smooth random picture: it has no detail that only one of two filters would see.
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype("uint8")
    Image.fromarray(noise).resize((1600, 1200)).save(tmp_path / "a.jpg", quality=95)
    fast = data.read_image(tmp_path / "a.jpg", 64).astype(int)
    monkeypatch.setattr(images, "_REDUCTION_MARGIN", 10**6)
    full = data.read_image(tmp_path / "a.jpg", 64).astype(int)
    assert np.abs(fast - full).max() <= 2
    assert np.abs(fast - full).mean() <= 0.5


def test_damaged_files_are_named(tmp_path):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype("uint8")
    Image.fromarray(noise).save(buffer, "JPEG")
    (tmp_path / "half.jpg").write_bytes(buffer.getvalue()[: buffer.tell() // 2])
    (tmp_path / "text.png").write_text("no image")
    for name in ("half.jpg", "text.png"):
        with pytest.raises(data.UnreadableImageError, match=f"cannot read .*{name}: "):
            data.read_image(tmp_path / name, 32)
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        data.read_image(tmp_path / "missing.jpg", 32)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "non-finite pixels"),
        (np.inf, "non-finite pixels"),
        (2.0, r"span 0 to 2; only 0 to 1"),
    ],
)
def test_float_pixels_must_be_finite_and_unit(tmp_path, value, message):
    values = np.zeros((8, 8), "float32")
    values[3, 3] = value
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(data.UnreadableImageError, match=message):
        data.read_image(tmp_path / "a.tif", 8)


def test_unit_float_pixels_are_scaled(tmp_path):
    values = (np.arange(64, dtype="float32") / 63).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.tif")
    expected = np.round(values * 255)
    np.testing.assert_array_equal(
        data.read_image(tmp_path / "a.tif", 8)[..., 0], expected
    )


@pytest.mark.parametrize("size", [0, -3, 2.5, (8,), (8, 8, 3), (8, 0)])
def test_sizes_must_be_positive_integers(tmp_path, size):
    with pytest.raises(ValueError, match="image_size must be a positive integer"):
        data.read_image(tmp_path / "a.png", size)


def test_bytes_to_floats_is_exact():
    pixels = np.arange(256, dtype="uint8")
    values = data.to_float(pixels)
    assert values.dtype == np.float32
    # 128 is a power of two: nothing is rounded, the int8 input is byte - 128.
    np.testing.assert_array_equal(values, np.arange(256) / 128 - 1)
    np.testing.assert_array_equal(data.to_float(pixels, (0.0, 255.0)), np.arange(256))

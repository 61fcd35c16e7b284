"""Reading a photo: any file that Pillow opens becomes upright RGB bytes.

This is the one way from a file to the pixels that a model is judged on: evaluation,
calibration and the examples all use it, so these are the bytes that a phone would hand
it. Random crops for training may be decoded otherwise, see `encoded`.
"""

import os
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_attention.image_input import BYTE_RANGE

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)

# A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size while both sides stay at least
# this many times the target's: 12-megapixel photos are read several times faster.
_REDUCTION_MARGIN = 4


class UnreadableImageError(ValueError):
    """A file that is no image, a damaged one, or one whose pixels mean nothing."""


def read_image(
    path: str | os.PathLike | BinaryIO, image_size: int | tuple[int, int]
) -> np.ndarray:
    """Read an image file as upright RGB bytes of one size.

    The largest centred region with the target's aspect ratio is resized with
    antialiased bilinear interpolation (Pillow's `BILINEAR`). EXIF orientation is
    applied; grayscale, palette, CMYK and 16-bit files become 8-bit RGB (of 16 bits the
    upper 8); transparent pixels are laid over white; of an animation the first frame is
    taken; colour profiles are ignored.

    Args:
        path: The image file, or a binary file object.
        image_size: Side of the square, or (height, width), in pixels.

    Returns:
        `uint8` array of shape (height, width, 3).

    Raises:
        UnreadableImageError: If the file can't be decoded, or has non-finite pixels.
    """
    height, width = size_of(image_size)
    image = open_image(path, (height, width))
    box = centred_box(image.height, image.width, height / width)
    return resized(image, (height, width), box)


def to_float(pixels: np.ndarray, input_range: tuple[float, float] = BYTE_RANGE):
    """Map bytes to what a model is fed with: byte 0 is `lo`, byte 255 is `hi`.

    Args:
        pixels: `uint8` array (or tensor cast to float32) of any shape.
        input_range: The pair (lo, hi).

    Returns:
        `float32` of the same shape; with the default range exactly b / 128 - 1.
    """
    low, high = input_range
    if isinstance(pixels, np.ndarray):
        pixels = pixels.astype("float32")
    return pixels * np.float32((high - low) / 255.0) + np.float32(low)


def open_image(
    path: str | os.PathLike | BinaryIO, at_least: tuple[int, int]
) -> Image.Image:
    """Decode a file into an upright RGB image.

    Args:
        path: The image file, or a binary file object.
        at_least: (height, width) of what it will be resized to.

    Returns:
        A Pillow image of mode "RGB".

    Raises:
        UnreadableImageError: If the file can't be decoded, or has non-finite pixels.
    """
    try:
        with Image.open(path) as image:
            side = _REDUCTION_MARGIN * max(at_least)
            image.draft(None, (side, side))
            # Orientation first: converting may lose the EXIF block.
            return _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, struct.error, IndexError and
        # more for damaged files; all of them mean this one thing to the caller.
        if hasattr(path, "read"):  # its name would be an address in memory
            unknown = isinstance(error, UnidentifiedImageError)
            why = "it is no image that Pillow knows" if unknown else error
            raise UnreadableImageError(f"cannot read the image: {why}") from error
        raise UnreadableImageError(f"cannot read {path}: {error}") from error


def centred_box(height: int, width: int, aspect: float) -> tuple[float, ...]:
    """Largest centred region (left, top, right, bottom), height = aspect * width."""
    inner_height = min(height, width * aspect)
    inner_width = inner_height / aspect
    left, top = (width - inner_width) / 2, (height - inner_height) / 2
    return left, top, left + inner_width, top + inner_height


def resized(image: Image.Image, size: tuple[int, int], box) -> np.ndarray:
    """Region `box` of `image` as `uint8` pixels of `size` (height, width)."""
    # Rounding may put an edge a hair outside, which Pillow refuses.
    left, top, right, bottom = box
    box = (
        max(left, 0),
        max(top, 0),
        min(right, image.width),
        min(bottom, image.height),
    )
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box))


def size_of(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """`image_size` as (height, width).

    Raises:
        ValueError: If it is no positive integer and no pair of them.
    """
    size = (image_size,) * 2 if np.ndim(image_size) == 0 else tuple(image_size)
    if len(size) != 2 or any(int(side) != side or side < 1 for side in size):
        raise ValueError(
            "image_size must be a positive integer or a pair (height, width) of them, "
            f"got {image_size!r}"
        )
    return int(size[0]), int(size[1])


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        image = Image.fromarray(_from_unit_floats(np.asarray(image)))
    elif image.mode.startswith("I"):
        image = Image.fromarray(_upper_byte(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_unit_floats(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("it has non-finite pixels (NaN or infinity)")
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"its floating-point pixels span {values.min():g} to {values.max():g}; "
            "only 0 to 1 has an agreed meaning: save it with 8 or 16 bits"
        )
    return np.round(values * 255).astype("uint8")


def _upper_byte(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(
            f"its integer pixels span {values.min()} to {values.max()}; "
            "only 8 and 16 bits are understood"
        )
    return (values >> 8).astype("uint8")

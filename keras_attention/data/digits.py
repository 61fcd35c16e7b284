"""Scikit-learn's handwritten digits: real images that are there without a download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, 1998; scikit-learn ships 1,797 of them, 8x8 pixels.
"""

import numpy as np
from PIL import Image

from keras_attention.data import images
from keras_attention.data.source import Source, array_part

SIZE = 32
TEST_SIZE = 360

# In a picture of 32 pixels.
_SHIFT = 2


def open_digits(_: str, image_size, strict: bool) -> Source:
    """The digits with their fixed split; nothing in them is ever damaged.

    Args:
        image_size: Side or (height, width); 32 if None.
        strict: Has no effect.

    Returns:
        The data set.

    Raises:
        ValueError: If the size is none.
    """
    size = images.size_of(SIZE if image_size is None else image_size)
    pixels, labels = load_digits(size)
    train, test = (
        array_part(pixels[chosen], labels[chosen]) for chosen in split_digits(labels)
    )
    return Source(
        tuple(str(digit) for digit in range(10)),
        *(size, train, test),
        crop="padded",
        flip=False,
        reach=tuple(max(1, round(side * _SHIFT / 32)) for side in size),
    )


def load_digits(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits as RGB bytes, in scikit-learn's order.

    Gray levels 0 to 16 become bytes 0 to 255, then the image is resized bilinearly.

    Args:
        size: (height, width) in pixels.

    Returns:
        `uint8` images of shape (1797, height, width, 3), `int32` labels (1797,).
    """
    # Importing scikit-learn takes a second that photo pipelines need not wait for.
    from sklearn import datasets

    digits = datasets.load_digits()
    gray = np.round(digits.images * (255 / 16)).astype("uint8")
    pictures = np.stack(
        [
            np.asarray(
                Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
            )
            for image in gray
        ]
    )
    return np.repeat(pictures[..., None], 3, axis=-1), digits.target.astype("int32")


def split_digits(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The fixed split: 360 test images, the same share of every class.

    The images are put in order of their class (inside a class in scikit-learn's order)
    and 360 evenly spaced positions of that order are the test images.

    Args:
        labels: The labels of all digits, shape (1797,).

    Returns:
        The sorted indices of the training and of the test images.
    """
    by_class = np.argsort(labels, kind="stable")
    positions = (2 * np.arange(TEST_SIZE) + 1) * len(labels) // (2 * TEST_SIZE)
    test = np.zeros(len(labels), bool)
    test[by_class[positions]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)

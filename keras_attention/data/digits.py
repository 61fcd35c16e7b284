"""Scikit-learn's handwritten digits: real images that are there without a download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, 1998; scikit-learn ships 1,797 of them, 8x8 pixels.
"""

import numpy as np
from PIL import Image

TEST_SIZE = 360


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
    images = np.stack(
        [
            np.asarray(
                Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
            )
            for image in gray
        ]
    )
    return np.repeat(images[..., None], 3, axis=-1), digits.target.astype("int32")


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

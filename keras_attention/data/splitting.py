"""The fixed split where a data set has none: one image in five is for testing."""

import hashlib
from collections.abc import Hashable, Mapping

import numpy as np

TEST_SHARE = 0.2


def draw(key: bytes) -> float:
    """A number in [0, 1) that depends on `key` alone, on any machine."""
    digest = hashlib.sha256(key).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def test_samples(drawn: Mapping[Hashable, float]) -> set:
    """Which samples of one class are for testing.

    Those whose number lies in the lowest fifth: adding samples never moves others
    across. At least one is on each side, whatever the numbers say; a single one is for
    training.

    Args:
        drawn: `draw` for each sample of the class.

    Returns:
        The samples for testing.
    """
    if len(drawn) < 2:
        return set()
    ranked = sorted(drawn, key=drawn.get)
    chosen = {sample for sample in ranked[:-1] if drawn[sample] < TEST_SHARE}
    return chosen | {ranked[0]}


def split(labels: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split samples class by class.

    Args:
        labels: Class of each sample.
        drawn: `draw` for each sample.

    Returns:
        The sorted indices of the training and of the test samples.
    """
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label).tolist()
        test[list(test_samples(dict(zip(own, drawn[own], strict=True))))] = True
    return np.flatnonzero(~test), np.flatnonzero(test)

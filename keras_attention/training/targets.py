"""What a classifier's outputs are compared with."""

from typing import Any


def one_hot(dataset: Any, classes: int) -> Any:
    """Replaces class numbers by rows of zeros with a one.

    Args:
        dataset: A `tf.data.Dataset` of (x, class numbers (N,)), or of (x, shares of the
            classes (N, classes)), as mixup makes them: these stay.
        classes: Number of classes.

    Returns:
        A dataset of (x, `float32` (N, classes)).
    """
    import tensorflow as tf

    if dataset.element_spec[1].shape.rank > 1:
        return dataset
    return dataset.map(lambda x, y: (x, tf.one_hot(y, classes)))

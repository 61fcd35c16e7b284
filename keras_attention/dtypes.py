"""Keras' global dtype policy, for a while."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def policy(wanted: str | keras.DTypePolicy) -> Iterator[None]:
    """Layers that are made inside take this policy, whoever makes them.

    Args:
        wanted: A policy or its name, "mixed_bfloat16" for example.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(wanted)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

"""Labelled images as tf.data: digits, folders of photos, TFRecords, any TFDS name.

The names are imported on first use: `keras_attention.data.augmentation`, which recipes
are made of, needs no TensorFlow.
"""

import importlib

# Name -> the module that defines it.
_NAMES = {
    "Augmentation": "augmentation",
    "ClassFolder": "folder",
    "ImageData": "pipeline",
    "LABELS_FILE": "labels",
    "SkippedFile": "source",
    "UnreadableImageError": "images",
    "load": "pipeline",
    "read_image": "images",
    "read_labels": "labels",
    "scan_folder": "folder",
    "to_float": "images",
    "write_labels": "labels",
    "write_tfrecords": "tfrecord",
}

__all__ = sorted(_NAMES)


def __getattr__(name):
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_NAMES})

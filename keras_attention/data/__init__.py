"""Labelled images as tf.data: digits, folders of photos, TFRecords, any TFDS name.

The names are imported on first use: `keras_attention.data.augmentation`, which recipes
are made of, needs no TensorFlow.
"""

from keras_attention import lazy

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

__getattr__, __dir__, __all__ = lazy.names(__name__, _NAMES)

"""Labelled images as tf.data: the embedded digits, and folders of photos."""

from keras_attention.data.folder import ClassFolder, SkippedFile, scan_folder
from keras_attention.data.images import (
    UnreadableImageError,
    read_image,
    to_float,
)
from keras_attention.data.labels import LABELS_FILE, read_labels, write_labels
from keras_attention.data.pipeline import ImageData, load

__all__ = [
    "LABELS_FILE",
    "ClassFolder",
    "ImageData",
    "SkippedFile",
    "UnreadableImageError",
    "load",
    "read_image",
    "read_labels",
    "scan_folder",
    "to_float",
    "write_labels",
]

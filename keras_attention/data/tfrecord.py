"""Images in TFRecord files, named as those of TensorFlow's ImageNet scripts are."""

import glob
import os
import pathlib
import re

import numpy as np
import tensorflow as tf

from keras_attention import files
from keras_attention.data import folder, images, records, splitting
from keras_attention.data.labels import LABELS_FILE, read_labels, write_labels
from keras_attention.data.source import PHOTO_SIZE, Source, encoded_part

KEYS = records.Keys("image/encoded", "image/class/label", "image/class/text")

_NAMES = re.compile(r"\.tfrecords?\b|-\d{5}-of-\d{5}$")
_WORDS = re.compile("[a-z]+")


def open_tfrecords(path: str, image_size, strict: bool) -> Source:
    """The images of TFRecord files.

    The files are `path` itself, those that match it as a pattern, or those in the
    folder `path` at any depth whose name has ".tfrecord" in it or ends like
    "-00000-of-00128". Each record is a tf.train.Example with "image/encoded" (an image
    that Pillow opens), "image/class/label" and perhaps "image/class/text".

    Files with "train" and with "val", "validation", "valid" or "test" (the first of
    these that is there) as a word of their name, or of their folder's, are the split.
    Without such words, or with "train" alone, a record is for testing if the SHA-256 of
    its encoded image falls into the lowest fifth, at least one of every class.

    The class names are those of labels.txt beside the files; else those in
    "image/class/text"; else the labels. Labels may begin with 0 or, if 0 never comes
    and the highest is the number of names (any, without labels.txt), with 1.

    Args:
        path: A file, a folder or a pattern; `~` is the home folder.
        image_size: Side or (height, width); 224 if None.
        strict: Whether a damaged record is an error instead of being skipped.

    Returns:
        The data set.

    Raises:
        ValueError: If there is no file, no usable record or fewer than two classes, or
            files, labels or names don't fit together.
        OSError: If a file can't be read.
    """
    size = images.size_of(PHOTO_SIZE if image_size is None else image_size)
    root, found = _files(path)
    train_files, test_files = _split_files(root, found)
    parts = [
        records.index(names, KEYS, strict=strict)
        for names in (train_files, test_files)
        if names
    ]
    names, first = _class_names(root, parts)
    labels = [part.labels - first for part in parts]
    if test_files:
        chosen = [np.arange(len(part)) for part in parts]
    else:
        chosen = splitting.split(labels[0], parts[0].drawn)
        parts, labels = parts * 2, labels * 2
    train, test = (
        encoded_part(part.encoded(own, label[own]), size)
        for part, label, own in zip(parts, labels, chosen, strict=True)
    )
    skipped = tuple(entry for part in dict.fromkeys(parts) for entry in part.skipped)
    return Source(names, size, train, test, skipped=skipped)


def write_tfrecords(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    images_per_file: int = 1024,
    strict: bool = False,
) -> list[pathlib.Path]:
    """Write a class folder's images into TFRecord files that "tfrecord:OUT" reads.

    The files are named train-00000-of-00012 and validation-00000-of-00003, with
    labels.txt beside them; the split is that of `scan_folder`. The images are stored as
    they are, in one fixed mixed order; labels begin with 0.

    Args:
        source: A folder as `scan_folder` takes it.
        out: The folder to write to.
        images_per_file: Images per file, at most.
        strict: Whether a damaged image is an error instead of being skipped.

    Returns:
        The files with images.

    Raises:
        ValueError: As `scan_folder`, or if `images_per_file` is no positive integer.
        OSError: If something can't be read or written.
    """
    if int(images_per_file) != images_per_file or images_per_file < 1:
        raise ValueError(
            f"images_per_file must be a positive integer, got {images_per_file!r}"
        )
    found, out = folder.scan_folder(source, strict=strict), pathlib.Path(out)
    written = []
    for word, samples in (("train", found.train), ("validation", found.test)):
        order = np.random.default_rng(0).permutation(len(samples))
        groups = np.split(order, range(images_per_file, len(order), images_per_file))
        for number, group in enumerate(groups):
            path = out / f"{word}-{number:05}-of-{len(groups):05}"
            with files.replacing(path) as temporary:
                with tf.io.TFRecordWriter(os.fspath(temporary)) as writer:
                    for index in group:
                        writer.write(_example(samples[index], found.labels))
            written.append(path)
    write_labels(out / LABELS_FILE, found.labels)
    return written


def _example(sample: folder.Sample, labels) -> bytes:
    def text(value: bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    label = tf.train.Feature(int64_list=tf.train.Int64List(value=[sample.label]))
    features = {
        KEYS.image: text(sample.path.read_bytes()),
        KEYS.label: label,
        KEYS.text: text(labels[sample.label].encode()),
        "image/filename": text(os.fsencode(sample.path.name)),
    }
    return tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString()


def _files(path: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """The folder that labels.txt is looked for in, and the files."""
    given = pathlib.Path(path).expanduser()
    if given.is_file():
        return given.parent, [given]
    if given.is_dir():
        found = [entry for entry in given.rglob("*") if _NAMES.search(entry.name)]
        root = given
    else:
        found = [pathlib.Path(name) for name in glob.glob(str(given), recursive=True)]
        root = given.parent
    found = sorted(
        entry
        for entry in found
        if entry.is_file() and not entry.name.startswith(".")
        if entry.name != LABELS_FILE
    )
    if not found:
        raise ValueError(
            f"no TFRecord file at {given}: expected a file, a pattern or a folder "
            'with files named *.tfrecord* or like "train-00000-of-00128"'
        )
    return root, found


def _split_files(root: pathlib.Path, found: list[pathlib.Path]):
    """Training and test files; the latter are none if the records are to be split."""
    by_word: dict[str, list[pathlib.Path]] = {}
    for file in found:
        inside = file.relative_to(root) if file.is_relative_to(root) else file.name
        words = _WORDS.findall(str(inside).lower())
        word = next((name for name in folder.SPLIT_NAMES if name in words), "")
        by_word.setdefault(word, []).append(file)
    tests = [name for name in folder.TEST_NAMES if name in by_word]
    if set(by_word) in ({""}, {"train"}):
        return found, []
    if "train" in by_word and tests and "" not in by_word:
        return by_word["train"], by_word[tests[0]]
    raise ValueError(
        f"the TFRecord files at {root} must have train and one of "
        f"{', '.join(folder.TEST_NAMES)} as words of their names, or none of them any: "
        + ", ".join(f"{len(v)} with {k or 'none'}" for k, v in by_word.items())
    )


def _class_names(root: pathlib.Path, parts) -> tuple[tuple[str, ...], int]:
    """The class names, and the label of the first of them."""
    stored = np.concatenate([part.labels for part in parts])
    low, high = int(stored.min()), int(stored.max())
    if (root / LABELS_FILE).is_file():
        names = read_labels(root / LABELS_FILE)
        first = int(low >= 1 and high == len(names))
    else:
        first = int(low >= 1)
        texts = {label: name for part in parts for label, name in part.texts.items()}
        names = [texts.get(label, str(label)) for label in range(first, high + 1)]
    if low < 0 or high - first >= len(names) or len(names) < 2:
        raise ValueError(
            f"the labels in the records at {root} go from {low} to {high}, there are "
            f"{len(names)} class names: expected two classes or more, counted from 0 "
            "or from 1"
        )
    return tuple(names), first

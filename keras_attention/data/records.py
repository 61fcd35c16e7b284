"""Random access to the images in TFRecord files."""

import dataclasses
import io
import os
import pathlib
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_attention.data import encoded, splitting
from keras_attention.data.source import SkippedFile

# Length and its checksum stand before a record's bytes, their checksum behind them.
_HEADER = struct.Struct("<QI")
_FOOTER_SIZE = 4

# How many images are in memory while they are checked.
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class Keys:
    """Names of a tf.train.Example's features.

    Attributes:
        image: The encoded image.
        label: Its class, an integer.
        text: Its class's name, or None if there is no such feature.
    """

    image: str
    label: str
    text: str | None = None

    def parse(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The encoded image, the label and the text ("" without) of an Example."""
        features = {
            self.image: tf.io.FixedLenFeature((), tf.string),
            self.label: tf.io.FixedLenFeature((), tf.int64),
        }
        if self.text:
            features[self.text] = tf.io.FixedLenFeature((), tf.string, "")
        found = tf.io.parse_single_example(record, features)
        text = found[self.text] if self.text else tf.constant("")
        return found[self.image], found[self.label], text


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The usable records of some files; every array has one entry per record.

    Attributes:
        files: The files.
        keys: What the features are called.
        file: Index into `files`, `int32`.
        offset: Where in the file it begins, `int64`.
        labels: Labels as they are stored, `int64`.
        sizes: Bytes of the encoded image, `int64`.
        shapes: As `encoded.check` says, two columns.
        drawn: `splitting.draw` of the encoded image, `float64`: equal images are on
            the same side of a split.
        texts: Class names by label, as far as the records tell.
        skipped: Damaged records.
    """

    files: tuple[str, ...]
    keys: Keys
    file: np.ndarray
    offset: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    shapes: np.ndarray
    drawn: np.ndarray
    texts: dict[int, str]
    skipped: tuple[SkippedFile, ...]

    def __len__(self):
        return len(self.labels)

    def encoded(self, chosen: np.ndarray, labels: np.ndarray) -> encoded.Encoded:
        """The images at the indices `chosen`, with these labels."""
        files, offset = tf.constant(self.files), tf.constant(self.offset[chosen])
        file = tf.constant(self.file[chosen])

        def handle(index):
            record = read(files[file[index]], offset[index])
            return self.keys.parse(record)[0]

        return encoded.Encoded(
            labels=labels.astype("int32"),
            shapes=self.shapes[chosen].astype("int32"),
            handle=handle,
            contents=tf.identity,
            opened=io.BytesIO,
            total_bytes=int(self.sizes[chosen].sum()),
        )


def read(file: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """The record of a file that begins at `offset`, its checksum compared."""
    dataset = tf.data.experimental.from_variant(
        tf.raw_ops.TFRecordDatasetV2(
            filenames=file[None],
            compression_type="",
            buffer_size=0,
            byte_offsets=offset[None],
        ),
        tf.TensorSpec((), tf.string),
    )
    return dataset.take(1).get_single_element()


def index(files: Sequence[str | os.PathLike], keys: Keys, *, strict: bool) -> Records:
    """Find all records of some files, and check each once.

    Args:
        files: Uncompressed TFRecord files of tf.train.Example.
        keys: What the features are called.
        strict: Whether a damaged record is an error instead of being skipped.

    Returns:
        The usable records, in order.

    Raises:
        ValueError: If there is no usable record or, with `strict`, a damaged one.
        OSError: If a file can't be read.
    """
    names = tuple(os.fspath(name) for name in files)
    skipped: list[SkippedFile] = []
    places = [
        (number, offset)
        for number, name in enumerate(names)
        for offset in _offsets(name, skipped)
    ]
    file = np.array([number for number, _ in places], "int32")
    offset = np.array([begin for _, begin in places], "int64")
    rows, texts = [], {}
    for number, image, label, text, found in _checked(names, file, offset, keys):
        if isinstance(found, tuple):
            rows.append((number, label, len(image), found, splitting.draw(image)))
            if text:
                texts.setdefault(label, text.decode(errors="replace"))
        else:
            where = f"the record at byte {offset[number]} of {names[file[number]]}"
            path = pathlib.Path(names[file[number]])
            skipped.append(SkippedFile(path, f"{where}: {found}"))
    if strict and skipped:
        raise ValueError(
            f"{len(skipped)} of {len(rows) + len(skipped)} records can't be read, the "
            f"first: {skipped[0].reason}"
        )
    if not rows:
        why = f"; the first of {len(skipped)}: {skipped[0].reason}" if skipped else ""
        raise ValueError(f"{', '.join(names[:3])} hold no usable record{why}")
    chosen, labels, sizes, shapes, drawn = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return Records(
        *(names, keys, file[chosen], offset[chosen], labels, sizes, shapes, drawn),
        *(texts, tuple(skipped)),
    )


def _offsets(name: str, skipped: list[SkippedFile]) -> Iterator[int]:
    """Where the records begin, by their lengths alone."""
    with open(name, "rb") as file:
        size, offset = os.fstat(file.fileno()).st_size, 0
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER.size)
            length, checksum = (
                _HEADER.unpack(header) if len(header) == _HEADER.size else (size, 0)
            )
            following = offset + _HEADER.size + length + _FOOTER_SIZE
            if following > size or _checksum(header[:8]) != checksum:
                skipped.append(
                    SkippedFile(
                        pathlib.Path(name),
                        f"{name} is damaged, compressed or no TFRecord file from byte "
                        f"{offset} to its end at {size}",
                    )
                )
                return
            yield offset
            offset = following


def _checked(names, file, offset, keys: Keys):
    """Yield (number, encoded image, label, text, what `encoded.check` found)."""
    files = tf.constant(names)

    def load(number):
        return number, *keys.parse(read(files[file[number]], offset[number]))

    file, offset = tf.constant(file), tf.constant(offset)
    # Torn records and those without these features are missing from what comes out.
    chunks = (
        tf.data.Dataset.range(len(file))
        .map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors()
        .batch(_CHUNK)
        .prefetch(1)
    )
    following = 0
    for numbers, images, labels, texts in chunks.as_numpy_iterator():
        for number, image, label, text, found in zip(
            *(numbers, images, labels, texts, encoded.check_all(images)), strict=True
        ):
            yield from _missing(following, number, keys)
            following = number + 1
            yield number, image, int(label), text, found
    yield from _missing(following, len(file), keys)


def _missing(first: int, last: int, keys: Keys):
    reason = f"its checksum is wrong, or it has no {keys.image} and {keys.label}"
    for number in range(first, last):
        yield number, b"", -1, b"", ValueError(reason)


def _crc_table() -> list[int]:
    """CRC-32C of every byte (Castagnoli's polynomial, reflected)."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def _checksum(data: bytes) -> int:
    """The masked CRC-32C that TFRecord files hold."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

"""Any image classification data set that TensorFlow Datasets knows by name."""

import difflib
import io
import os
import pathlib
import threading
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import tensorflow as tf

from keras_attention.data import encoded, images, records, splitting
from keras_attention.data.cache import require_memory
from keras_attention.data.folder import TEST_NAMES
from keras_attention.data.source import (
    PHOTO_SIZE,
    SMALL,
    SkippedFile,
    Source,
    encoded_part,
)

# Seconds for one answer of a host that the data set is downloaded from. TFDS itself
# tries again for minutes.
_PATIENCE = 5


def open_tfds(name: str, image_size, strict: bool) -> Source:
    """An image classification data set of TensorFlow Datasets.

    The training images are the split "train"; the test images are "val", "validation",
    "valid" or "test", the first of these that is there. With "train" alone an image is
    for testing if the SHA-256 of its file falls into the lowest fifth, at least one of
    every class. Other splits are not read.

    Data is looked for, and prepared, in the folder that TFDS_DATA_DIR names, by default
    ~/tensorflow_datasets. Prepared TFRecord files are read in place, record by record;
    other formats are read into memory once, still encoded.

    Args:
        name: As `tfds.builder` takes it: NAME, NAME/CONFIG, NAME/CONFIG:VERSION.
        image_size: Side or (height, width); if None, that of the data set's images
            where all have one of at most 64 pixels, else 224.
        strict: Whether a damaged image is an error instead of being skipped.

    Returns:
        The data set.

    Raises:
        ValueError: If there is no such data set, it is none of labelled images, or the
            memory that it takes is not available.
        ConnectionError: If it is not prepared and its host does not answer in seconds.
        FileNotFoundError: If it is not prepared and has to be downloaded by hand.
    """
    builder = _builder(name)
    if not builder.is_prepared():
        _prepare(builder, name)
    image_key, label_key = _keys(builder, name)
    image, label = (builder.info.features[key] for key in (image_key, label_key))
    splits = builder.info.splits
    tests = [split for split in TEST_NAMES if split in splits]
    if "train" not in splits:
        raise ValueError(f"tfds:{name} has no split train, but {', '.join(splits)}")
    wanted = ("train", *tests[:1])

    skipped: list[SkippedFile] = []
    read = _from_files if _in_place(builder, wanted) else _into_memory
    found = [
        read(builder, split, records.Keys(image_key, label_key), strict, skipped)
        for split in wanted
    ]
    for split, (labels, _, _) in zip(wanted, found, strict=True):
        if labels.min() < 0 or labels.max() >= label.num_classes:
            raise ValueError(
                f"split {split} of tfds:{name} has labels from {labels.min()} to "
                f"{labels.max()}; expected 0 to {label.num_classes - 1}"
            )
    if tests:
        chosen = [np.arange(len(labels)) for labels, _, _ in found]
    else:
        chosen, found = splitting.split(found[0][0], found[0][1]), found * 2

    height, width, channels = image.shape
    small = height is not None and width is not None and max(height, width) <= SMALL
    if image_size is None:
        image_size = (height, width) if small else PHOTO_SIZE
    size = images.size_of(image_size)
    train, test = (
        encoded_part(select(own), size)
        for (_, _, select), own in zip(found, chosen, strict=True)
    )
    return Source(
        tuple(label.names),
        *(size, train, test),
        crop="padded" if small else "resized",
        flip=channels != 1,
        skipped=tuple(skipped),
    )


def _builder(name: str):
    # An import of a second that other data need not wait for.
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.split("/")[0], known, 3)
        nearest = f"; nearest names: {', '.join(near)}" if near else ""
        raise ValueError(
            f"TensorFlow Datasets knows no data set {name!r}{nearest}"
        ) from error


def _prepare(builder, name: str) -> None:
    """Download and prepare, unless it is clear that this can't succeed."""
    folder = pathlib.Path(builder.data_dir).expanduser()
    by_hand = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    manual = pathlib.Path(builder.data_dir_root, "downloads", "manual").expanduser()
    if by_hand and not (manual.is_dir() and any(manual.iterdir())):
        raise FileNotFoundError(
            f"tfds:{name} has to be downloaded by hand, into manual_dir {manual}: "
            + " ".join(by_hand.split())
        )
    urls = [] if by_hand else list(builder.url_infos or ())
    if urls and not _answers(urls[0]):
        raise ConnectionError(
            f"tfds:{name} is not prepared in {folder}, and "
            f"{urllib.parse.urlsplit(urls[0]).hostname} can't be reached to download "
            f"it: run `tfds build {name}` where there is a network and copy its folder "
            "there, or let TFDS_DATA_DIR name the folder that holds it"
        )
    builder.download_and_prepare()


def _answers(url: str) -> bool:
    """Whether the host of `url` says anything within `_PATIENCE` seconds."""
    answered = threading.Event()

    def ask():
        parts = urllib.parse.urlsplit(url)
        request = urllib.request.Request(
            f"{parts.scheme}://{parts.netloc}/", method="HEAD"
        )
        try:
            urllib.request.urlopen(request, timeout=_PATIENCE).close()
        except urllib.error.HTTPError:
            pass  # An answer, too.
        except OSError:
            return
        answered.set()

    # Looking up a name has no time limit of its own, hence the thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return answered.is_set()


def _keys(builder, name: str) -> tuple[str, str]:
    """Names of the features that are the image and its label."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    pair = builder.info.supervised_keys or ()
    if not (
        len(pair) == 2
        and all(isinstance(key, str) and key in features for key in pair)
        and isinstance(features[pair[0]], tfds.features.Image)
        and isinstance(features[pair[1]], tfds.features.ClassLabel)
    ):
        raise ValueError(
            f"tfds:{name} is no image classification data set: it must be supervised "
            f"by an Image and a ClassLabel, its features are {', '.join(features)}"
        )
    return pair


def _in_place(builder, splits) -> bool:
    import tensorflow_datasets as tfds

    return builder.info.file_format == tfds.core.FileFormat.TFRECORD and all(
        pathlib.Path(file).is_file()
        for split in splits
        for file in builder.info.splits[split].filepaths
    )


def _from_files(builder, split, keys, strict, skipped):
    """Labels, numbers for splitting, and indices -> `Encoded`, of prepared files."""
    files = [os.fspath(file) for file in builder.info.splits[split].filepaths]
    found = records.index(files, keys, strict=strict)
    skipped.extend(found.skipped)
    return (
        found.labels,
        found.drawn,
        lambda chosen: found.encoded(chosen, found.labels[chosen]),
    )


def _into_memory(builder, split, keys, strict, skipped):
    """Likewise, of any other format."""
    import tensorflow_datasets as tfds

    require_memory(
        builder.info.splits[split].num_bytes,
        f"split {split} of {builder.name} takes",
        "prepare it in the tfrecord format, which is read in place",
    )
    dataset = builder.as_dataset(
        split=split,
        decoders={keys.image: tfds.decode.SkipDecoding()},
        shuffle_files=False,
    ).map(lambda example: (example[keys.image], example[keys.label]))
    data, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    checked = encoded.check_all(data)
    bad = {
        number: found
        for number, found in enumerate(checked)
        if not isinstance(found, tuple)
    }
    if strict and bad:
        number, reason = next(iter(bad.items()))
        raise ValueError(
            f"{len(bad)} of {len(data)} images can't be read, the first: number "
            f"{number} of split {split}: {reason}"
        )
    skipped.extend(
        SkippedFile(
            pathlib.Path(builder.data_dir), f"number {number} of split {split}: {why}"
        )
        for number, why in bad.items()
    )
    good = np.array([n for n in range(len(data)) if n not in bad])
    labels = np.array(labels)[good]
    data = [data[number] for number in good]
    shapes = np.array([checked[number] for number in good], "int32")

    def select(chosen):
        own = [data[number] for number in chosen]
        stored = tf.constant(own)
        return encoded.Encoded(
            labels=labels[chosen].astype("int32"),
            shapes=shapes[chosen],
            handle=lambda index: stored[index],
            contents=tf.identity,
            opened=io.BytesIO,
            total_bytes=sum(map(len, own)),
        )

    return labels, np.array([splitting.draw(image) for image in data]), select

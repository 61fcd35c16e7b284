"""Finding the photos of a class folder: one sub-folder per class, named after it."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_attention.data import encoded, images, splitting
from keras_attention.data.source import PHOTO_SIZE, SkippedFile, Source, encoded_part

# The folder that holds the test images beside train/, the first that is there.
TEST_NAMES = ("val", "validation", "valid", "test")
SPLIT_NAMES = ("train", *TEST_NAMES)


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image file.

    Attributes:
        path: The file.
        label: The index of its class.
        shape: As `encoded.check` says who decodes it for training.
    """

    path: pathlib.Path
    label: int
    shape: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True)
class ClassFolder:
    """What `scan_folder` found.

    Attributes:
        labels: Class names, sorted; a sample's label is an index into them.
        train: Training samples, sorted by path inside each class.
        test: Test samples likewise.
        skipped: Damaged files that are in neither.
    """

    labels: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    skipped: tuple[SkippedFile, ...]


def scan_folder(path: str | os.PathLike, *, strict: bool = False) -> ClassFolder:
    """Find classes and images under a folder, decode each once, and split them.

    With `train/` and one of `val/`, `validation/`, `valid/`, `test/` under `path`, in
    upper or lower case, the first of these that is there and `train/` are the split.
    Otherwise `path` holds the class folders, and a file is a test image if the
    SHA-256 of its path relative to `path` falls into the lowest fifth: adding files
    never moves others across. A class that would have no image on one side gives the
    file with the lowest (highest) hash to it.

    Image files are those with one of the usual suffixes in upper or lower case, at any
    depth below the class folder. Names that begin with a dot are ignored.

    Args:
        path: The folder; `~` is the home folder.
        strict: If True a damaged file is an error instead of being skipped.

    Returns:
        The classes, both sample lists and the skipped files.

    Raises:
        ValueError: If there are fewer than two classes, a class without images, classes
            that differ between the two splits, a class name that is no UTF-8, one part
            of a split without the other or, with `strict`, a damaged file.
        OSError: If the folder does not exist or can't be listed.
    """
    root = pathlib.Path(path).expanduser()
    splits = _given_splits(root)
    skipped: list[SkippedFile] = []
    found = [_classes(folder, strict, skipped) for folder in splits or (root,)]
    labels = tuple(found[0])
    if len(labels) < 2:
        raise ValueError(
            f"{splits[0] if splits else root} must hold at least two class folders "
            f"with images in them, found {list(labels) or 'none'}"
        )
    if splits:
        _require_same_classes(splits, found)
        train, test = found
    else:
        train, test = _split(root, found[0])
    return ClassFolder(
        labels, _samples(train, labels), _samples(test, labels), tuple(skipped)
    )


def open_folder(path: str, image_size, strict: bool) -> Source:
    """The photos of a class folder.

    Args:
        path: As `scan_folder` takes it.
        image_size: Side or (height, width); 224 if None.
        strict: Whether a damaged file is an error instead of being skipped.

    Returns:
        The data set.

    Raises:
        ValueError: As `scan_folder`, or if the size is none.
        OSError: As `scan_folder`.
    """
    size = images.size_of(PHOTO_SIZE if image_size is None else image_size)
    found = scan_folder(path, strict=strict)
    train, test = (
        encoded_part(_encode(samples), size) for samples in (found.train, found.test)
    )
    return Source(found.labels, size, train, test, skipped=found.skipped)


def _given_splits(root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path] | None:
    folders = _folders(root)
    named: dict[str, pathlib.Path] = {}
    for folder in folders:
        name = folder.name.lower()
        if name in SPLIT_NAMES and named.setdefault(name, folder) is not folder:
            raise ValueError(
                f"{root} holds more than one folder named {name}: "
                f"{named[name].name}, {folder.name}"
            )
    tests = [named[name] for name in TEST_NAMES if name in named]
    if "train" in named and tests:
        return named["train"], tests[0]
    if folders and len(named) == len(folders):
        raise ValueError(
            f"{root} holds only {', '.join(folder.name for folder in folders)}, which "
            "names a part of the images and no class: put class folders into train/ "
            f"and one of {', '.join(f'{name}/' for name in TEST_NAMES)}, or give the "
            "folder that holds the class folders"
        )
    return None


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        entry
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _classes(
    folder: pathlib.Path, strict: bool, skipped: list[SkippedFile]
) -> dict[str, dict[pathlib.Path, tuple[int, int]]]:
    """Readable image files per class name, both sorted, and their `shape`."""
    names = [entry.name for entry in _folders(folder)]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the name of class folder {name!a} in {folder} is not valid UTF-8: "
                "rename it"
            ) from None
    classes = {name: sorted(_image_files(folder / name)) for name in names}
    files = [file for group in classes.values() for file in group]
    checked = dict(zip(files, encoded.check_all(files), strict=True))
    damaged = [
        SkippedFile(file, _reason(file, found))
        for file, found in checked.items()
        if not isinstance(found, tuple)
    ]
    if strict and damaged:
        raise ValueError(
            f"{len(damaged)} of {len(files)} image files can't be read, the first: "
            f"{damaged[0].reason}"
        )
    skipped.extend(damaged)
    for name, group in classes.items():
        classes[name] = {
            file: checked[file] for file in group if isinstance(checked[file], tuple)
        }
        if not classes[name]:
            unreadable = f" ({len(group)} can't be read)" if group else ""
            raise ValueError(
                f"class folder {folder / name} holds no image{unreadable}; expected "
                f"files that end in {', '.join(sorted(images.SUFFIXES))}"
            )
    return classes


def _image_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    def fail(error: OSError):
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            suffix = pathlib.PurePath(name).suffix.lower()
            if suffix in images.SUFFIXES and not name.startswith("."):
                yield pathlib.Path(parent, name)


def _reason(file: pathlib.Path, error: Exception) -> str:
    # A link may lead nowhere.
    if isinstance(error, FileNotFoundError):
        return f"cannot read {file}: no such file"
    return str(error)


def _require_same_classes(splits, found) -> None:
    names = [set(classes) for classes in found]
    if names[0] != names[1]:
        raise ValueError(
            f"{splits[0]} and {splits[1]} must hold the same classes; only in the "
            f"first: {sorted(names[0] - names[1])}, only in the second: "
            f"{sorted(names[1] - names[0])}"
        )


def _split(root: pathlib.Path, classes: dict[str, dict[pathlib.Path, tuple[int, int]]]):
    train, test = {}, {}
    for name, files in classes.items():
        if len(files) < 2:
            raise ValueError(
                f"class folder {root / name} holds one image; it takes two, one to "
                "train with and one to test with"
            )
        chosen = splitting.test_samples(
            {
                file: splitting.draw(os.fsencode(file.relative_to(root).as_posix()))
                for file in files
            }
        )
        test[name] = {file: files[file] for file in files if file in chosen}
        train[name] = {file: files[file] for file in files if file not in chosen}
    return train, test


def _samples(classes: dict[str, dict[pathlib.Path, tuple[int, int]]], labels):
    return tuple(
        Sample(file, labels.index(name), shape)
        for name, files in classes.items()
        for file, shape in files.items()
    )


def _encode(samples: Sequence[Sample]) -> encoded.Encoded:
    """The files of `samples`, to be read one by one."""
    paths = [os.fsencode(sample.path) for sample in samples]
    names = tf.constant(paths)
    return encoded.Encoded(
        labels=np.array([sample.label for sample in samples], "int32"),
        shapes=np.array([sample.shape for sample in samples], "int32"),
        handle=lambda index: names[index],
        contents=tf.io.read_file,
        opened=os.fsdecode,
        total_bytes=sum(os.path.getsize(path) for path in paths),
    )

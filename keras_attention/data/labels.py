"""The class names in the order of the model's outputs: labels.txt, one a line."""

import os
import pathlib
from collections.abc import Sequence

from keras_attention.files import replacing

LABELS_FILE = "labels.txt"


def write_labels(path: str | os.PathLike, labels: Sequence[str]) -> None:
    """Write class names, one a line, in UTF-8.

    Args:
        path: The file to write; it is replaced as a whole.
        labels: Class names in the order of the model's outputs.

    Raises:
        ValueError: If a name is empty, holds a line break or comes twice.
        OSError: If the file can't be written.
    """
    _require_names(labels, "labels")
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in labels), encoding="utf-8")


def read_labels(path: str | os.PathLike) -> list[str]:
    """Read class names, one a line.

    Args:
        path: A file as `write_labels` writes it.

    Returns:
        The names in the file's order.

    Raises:
        ValueError: If the file holds no name, an empty line or a name twice.
        OSError: If the file can't be read.
    """
    labels = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    _require_names(labels, str(path))
    return labels


def _require_names(labels: Sequence[str], where: str) -> None:
    if not labels:
        raise ValueError(f"{where} holds no class name")
    for index, name in enumerate(labels):
        if not name.strip() or name.splitlines() != [name]:
            raise ValueError(
                f"{where}: class name {index} must be one non-empty line, got {name!r}"
            )
    twice = sorted({name for name in labels if list(labels).count(name) > 1})
    if twice:
        raise ValueError(f"{where}: class names must differ, got twice: {twice}")

"""Checkpoint files: safetensors, written whole or not at all, with a checksum.

The format is safetensors (https://huggingface.co/docs/safetensors): eight bytes, the
length of a JSON header; the header; the tensors' bytes. It needs no pickle, knows
bfloat16, and any reader of the format opens the files. The last tensor, "sha256", is
the SHA-256 digest of every byte in front of it, so that a file that was cut off, or in
which a single bit has flipped, is found out.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

SUFFIX = ".safetensors"

_DIGEST = "sha256"
_DIGEST_BYTES = hashlib.sha256().digest_size
_NAMES = {
    np.dtype(numpy): name
    for numpy, name in {
        bool: "BOOL",
        np.uint8: "U8",
        np.int8: "I8",
        np.uint16: "U16",
        np.int16: "I16",
        np.uint32: "U32",
        np.int32: "I32",
        np.uint64: "U64",
        np.int64: "I64",
        np.float16: "F16",
        ml_dtypes.bfloat16: "BF16",
        np.float32: "F32",
        np.float64: "F64",
    }.items()
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class DamagedFileError(ValueError):
    """A checkpoint file is not what was written."""


def write(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write a file that is there as a whole, on the disk, or not at all.

    Args:
        path: The file; one of that name is replaced. Its folder must exist.
        tensors: Arrays of numbers or booleans by name, in the order to keep.
        metadata: What JSON can hold.

    Raises:
        OSError: If the disk is full or the file can't be written: names the folder and
            the bytes that are needed. What was at `path` is still there.
        ValueError: If an array's dtype has no place in the format.
    """
    header, needed = _header(tensors, metadata)
    temporary = temporary_path(path)
    try:
        with _explained(path.parent, needed):
            with open(temporary, "wb") as file:
                digest = hashlib.sha256()
                for chunk in (header, *map(_bytes, tensors.values())):
                    digest.update(chunk)
                    file.write(chunk)
                file.write(digest.digest())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file that `write` wrote, and check every byte.

    Args:
        path: The file.

    Returns:
        The arrays by name, in their order, and the metadata.

    Raises:
        DamagedFileError: If a byte is missing or another one than was written.
        OSError: If the file can't be read.
    """
    data = path.read_bytes()
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if len(data) <= _DIGEST_BYTES or hashlib.sha256(body).digest() != digest:
        raise DamagedFileError(f"{path} is damaged: its checksum is wrong")
    (length,) = struct.unpack_from("<Q", body)
    start = 8 + length
    entries = json.loads(body[8:start])
    metadata = json.loads(entries.pop("__metadata__")["json"])
    del entries[_DIGEST]
    arrays = {}
    for name, entry in entries.items():
        first, last = entry["data_offsets"]
        values = np.frombuffer(body[start + first : start + last], _dtype(entry))
        arrays[name] = values.reshape(entry["shape"])
    return arrays, metadata


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    """Where `path` is written before it gets its name: hidden, in the same folder."""
    return path.with_name(f".{path.name}.partial")


def remove_partial(folder: pathlib.Path) -> None:
    """Remove what processes that were killed while writing have left in a folder."""
    for partial in folder.glob(f".*{SUFFIX}.partial"):
        partial.unlink(missing_ok=True)


def _header(tensors, metadata) -> tuple[bytes, int]:
    entries: dict[str, Any] = {"__metadata__": {"json": json.dumps(metadata)}}
    offset = 0
    digest = np.empty(_DIGEST_BYTES, "uint8")  # stands for the digest to come
    for name, array in {**tensors, _DIGEST: digest}.items():
        if array.dtype not in _NAMES:
            raise ValueError(f"{name}: no checkpoint can hold dtype {array.dtype}")
        entries[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": array.shape,
            "data_offsets": (offset, offset + array.nbytes),
        }
        offset += array.nbytes
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + offset


def _dtype(entry) -> np.dtype:
    return _DTYPES[entry["dtype"]]


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _sync_folder(folder: pathlib.Path) -> None:
    # The rename is on the disk only when the folder is; Windows has no call for that.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(folder: pathlib.Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write a checkpoint of {needed:,} bytes into {folder}: "
            f"{error.strerror}. The checkpoints that are there are intact",
        ) from error

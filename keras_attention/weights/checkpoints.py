"""Reads checkpoint files of PyTorch without PyTorch, and safetensors files.

Source: PyTorch's `torch.serialization` (the zip format since version 1.6, and the one
before it: pickles followed by the raw storages), and the format description of
https://github.com/huggingface/safetensors.
"""

import contextlib
import errno
import io
import json
import math
import mmap
import os
import zipfile

import numpy as np

from keras_attention.weights import torch_pickle
from keras_attention.weights.torch_pickle import Storage, Tensor

# Where training scripts keep the state dict, the first one that fits wins.
_ENTRIES = (
    *("state_dict", "model", "model_state_dict", "net"),
    *("ema", "model_ema", "state_dict_ema", "ema_state_dict"),
)
# DataParallel and torch.compile put a module into another one.
_WRAPPERS = ("module.", "_orig_mod.")
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def read_state_dict(
    path: str | os.PathLike, *, entry: str | None = None
) -> dict[str, np.ndarray]:
    """Reads the parameters in a checkpoint; nothing in the file is executed.

    The file is a .pth, .pt or .pth.tar of `torch.save`, in the zip format since PyTorch
    1.6 or the one before it, or a .safetensors file; its content decides, not its name.
    It holds the state dict itself or, beside an epoch, an optimizer and the like, in an
    entry: the first that fits of "state_dict", "model", "model_state_dict", "net",
    "ema", "model_ema", "state_dict_ema" and "ema_state_dict", otherwise the only entry
    that fits. A state dict has texts as keys and tensors as values; numbers and texts
    among the values are left out.

    Args:
        path: the file.
        entry: name of the entry that holds the state dict.

    Returns:
        {name: array} in the file's order, without the prefixes of DataParallel
        ("module.") and torch.compile ("_orig_mod.") that all names share. Arrays have
        the tensors' types (float, integer or bool), bfloat16 becomes float32. Tensors
        that share a storage share memory here, too.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no checkpoint, or truncated, damaged, big-endian or
            compressed; its pickle asks for anything but tensors and plain data; it
            holds no state dict, or several and none under a name above.
    """
    path = os.fspath(path)
    try:
        with _opened(path) as (content, read):
            found = _state_dict(content, entry)
            return _arrays(found, read)
    except ValueError as error:
        raise ValueError(f"Cannot read the checkpoint '{path}': {error}.") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError) as error:
        # zipfile seeks where a damaged archive sends it, even before the file's start.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = str(error) or "it ends too early"
        raise ValueError(
            f"Cannot read the checkpoint '{path}': it is truncated or damaged: "
            f"{reason}."
        ) from error


@contextlib.contextmanager
def _opened(path):
    """Yields what a file holds, with `Tensor`s, and a function storage -> bytes."""
    with open(path, "rb") as file, contextlib.ExitStack() as stack:
        start = file.read(512)
        if start.startswith(b"PK\x03\x04"):
            archive = stack.enter_context(zipfile.ZipFile(file))
            yield _zip(archive, os.path.getsize(path))
        elif start[4:9] == b"\0\0\0\0{":
            yield _safetensors(stack.enter_context(_mapped(file)))
        elif start.startswith(b"\x80"):
            yield _legacy(stack.enter_context(_mapped(file)))
        elif start[257:262] == b"ustar":
            raise ValueError("it is a tar archive, as PyTorch 0.1 wrote them")
        else:
            raise ValueError(
                "it is no file of PyTorch or safetensors: it "
                + (f"starts with {start[:20]!r}" if start else "is empty")
            )


def _mapped(file):
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _zip(archive, file_size):
    """Reads the format of PyTorch 1.6 and later."""
    pickles = [
        name
        for name in archive.namelist()
        if name.endswith("/data.pkl") and name.count("/") == 1
    ]
    if len(pickles) != 1:
        raise ValueError(
            f"it is a zip archive with {len(pickles)} records '*/data.pkl', not with "
            "one as PyTorch's"
        )
    folder = pickles[0].removesuffix("data.pkl")

    def record(name):
        try:
            info = archive.getinfo(folder + name)
        except KeyError:
            raise ValueError(f"its record '{folder}{name}' is missing") from None
        encrypted = info.flag_bits & 1
        if encrypted or info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"its record '{info.filename}' is compressed or encrypted, which "
                "PyTorch's are not"
            )
        end = info.header_offset + info.file_size
        if info.file_size != info.compress_size or end > file_size:
            raise ValueError(f"its record '{info.filename}' does not fit into it")
        return info

    # Files from before PyTorch 2.1 say nothing.
    if folder + "byteorder" in archive.namelist():
        order = archive.read(record("byteorder"))
        if order != b"little":
            raise ValueError(f"its byte order is {order[:20]!r}, not little-endian")
    storages = {}
    content = torch_pickle.load(io.BytesIO(archive.read(record("data.pkl"))), storages)
    # Records may overlap: a small file could ask for much memory.
    needed = sum(storage.bytes for storage in storages.values())
    if needed > file_size:
        raise ValueError(f"its storages need {needed} bytes, it has {file_size}")
    for storage in storages.values():
        info = record(f"data/{storage.key}")
        if info.file_size != storage.bytes:
            raise ValueError(
                f"its record '{info.filename}' has {info.file_size} bytes, but its "
                f"storage is of {storage.size} {storage.dtype}: {storage.bytes} bytes"
            )
    return content, lambda storage: archive.read(record(f"data/{storage.key}"))


def _legacy(file):
    """Reads the format before PyTorch 1.6, still written on demand."""
    if torch_pickle.load(file) != _MAGIC:
        raise ValueError("it is a pickle, but not of PyTorch")
    protocol, system = torch_pickle.load(file), torch_pickle.load(file)
    if protocol != _PROTOCOL:
        raise ValueError("it is of an unknown version of PyTorch's format")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its byte order is not little-endian")
    storages = {}
    content, keys = torch_pickle.load(file, storages), torch_pickle.load(file)
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not texts or sorted(keys) != sorted(storages):
        raise ValueError("its list of storages does not fit its tensors")
    starts = {}
    for key in keys:
        storage = storages[key]
        size = int.from_bytes(file.read(8), "little", signed=True)
        starts[key] = file.tell()
        if starts[key] + storage.bytes > len(file):
            raise ValueError("it is truncated within its storages")
        if size != storage.size:
            raise ValueError(
                f"its storage '{key}' has {size} numbers, not {storage.size} as its "
                "tensors say"
            )
        file.seek(storage.bytes, os.SEEK_CUR)

    def read(storage):
        return file[starts[storage.key] : starts[storage.key] + storage.bytes]

    return content, read


def _safetensors(file):
    """Reads a safetensors file: a JSON header with the places of the raw tensors."""
    start = 8 + int.from_bytes(file.read(8), "little")
    if start > len(file):
        raise ValueError("it is truncated within its header")
    try:
        header = json.loads(file.read(start - 8), object_pairs_hook=_unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"its header is no JSON: {error}") from None
    header.pop("__metadata__", None)
    content, places = {}, {}
    for name, fields in header.items():
        content[name], places[name] = _described(name, fields)
    end = 0
    for name, (first, last) in sorted(places.items(), key=lambda item: item[1]):
        if first != end:
            raise ValueError(
                f"its tensor '{name}' starts at byte {first}, not at {end} where the "
                "one before it ends"
            )
        end = last
    if start + end != len(file):
        raise ValueError(
            f"it has {len(file) - start} bytes of tensors, its header describes {end}"
        )

    def read(storage):
        first, last = places[storage.key]
        return file[start + first : start + last]

    return content, read


def _described(name, fields):
    """Returns a tensor and its place from its entry in a safetensors header."""
    match fields:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [first, last]}:
            numbers = [*shape, first, last]
            if dtype not in _SAFETENSORS:
                raise ValueError(f"its tensor '{name}' has the unknown type {dtype}")
            if all(type(number) is int and number >= 0 for number in numbers):
                storage = Storage(name, _SAFETENSORS[dtype], math.prod(shape))
                strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
                if last - first != storage.bytes:
                    raise ValueError(
                        f"its tensor '{name}' has {last - first} bytes, {shape} of "
                        f"{dtype} are {storage.bytes}"
                    )
                return Tensor(storage, 0, tuple(shape), tuple(strides)), (first, last)
    raise ValueError(f"its header does not describe the tensor '{name}'")


def _unique(pairs):
    if len(dict(pairs)) != len(pairs):
        raise ValueError("its header has a name twice")
    return dict(pairs)


def _state_dict(content, entry):
    """Returns the state dict in a checkpoint, {name: Tensor}."""
    entries = content if isinstance(content, dict) else {}
    if entry is not None:
        if not _fits(entries.get(entry)):
            raise ValueError(f"'{entry}' is no state dict in it: {_listed(content)}")
        return _tensors(entries[entry])
    if _fits(content):
        return _tensors(content)
    found = [name for name, value in entries.items() if _fits(value)]
    usual = [name for name in _ENTRIES if name in found]
    chosen = usual[:1] or found
    if len(chosen) > 1:
        raise ValueError(
            f"it holds {len(found)} state dicts, {', '.join(map(repr, found))}; choose "
            "one: read_state_dict(path, entry=...)"
        )
    if not chosen:
        raise ValueError(f"it holds no state dict: {_listed(content)}")
    return _tensors(entries[chosen[0]])


def _fits(value):
    """Whether this maps names to tensors, possibly beside numbers and texts."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    plain = (Tensor, int, float, str, bytes, type(None))
    kinds = [type(item) for item in value.values()]
    return Tensor in kinds and all(issubclass(kind, plain) for kind in kinds)


def _tensors(mapping):
    """Returns the tensors without the prefixes that their names share."""
    found = {name: item for name, item in mapping.items() if isinstance(item, Tensor)}
    while shared := [
        prefix for prefix in _WRAPPERS if all(name.startswith(prefix) for name in found)
    ]:
        found = {name.removeprefix(shared[0]): item for name, item in found.items()}
    return found


def _listed(content):
    """Says what a checkpoint holds."""
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}"
    names = [f"{str(key)[:50]!r} ({type(v).__name__})" for key, v in content.items()]
    return f"its entries are {', '.join(names[:12]) or 'none'}"


def _arrays(tensors, read):
    """Returns {name: array} for {name: Tensor}."""
    values, arrays = {}, {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        steps = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
        empty = 0 in tensor.shape
        if not empty and last >= storage.size:
            raise ValueError(
                f"its tensor '{name}' of shape {tensor.shape} reaches number {last} of "
                f"a storage of {storage.size}"
            )
        if storage not in values:
            values[storage] = _decoded(read(storage), storage.dtype)
        numbers = values[storage]
        # Of axes of size 1 the stride is arbitrary, also beyond all memory.
        arrays[name] = np.ndarray(
            tensor.shape,
            numbers.dtype,
            buffer=numbers,
            offset=0 if empty else tensor.offset * numbers.itemsize,
            strides=None
            if empty
            else [
                stride * numbers.itemsize if size > 1 else 0
                for size, stride in zip(tensor.shape, tensor.strides, strict=True)
            ],
        )
    return arrays


def _decoded(data, dtype):
    """Returns little-endian bytes as a new array; bfloat16 as float32."""
    if dtype == "bfloat16":  # the upper half of a float32
        halves = np.frombuffer(data, "<u2").astype("uint32")
        return (halves << 16).view("float32")
    if dtype == "bool":
        return np.frombuffer(data, "uint8") != 0
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype)

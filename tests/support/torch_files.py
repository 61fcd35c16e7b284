"""Writes checkpoints as PyTorch and safetensors do, without either of them.

`torch.save` pickles a tensor as a call of `torch._utils._rebuild_tensor_v2` with a
reference to its storage, whose numbers follow outside of the pickle. Here stand-ins
with the same names are pickled, so the pickles are PyTorch's byte by byte.
"""

import collections
import dataclasses
import io
import json
import pickle
import sys
import types
import zipfile
from unittest import mock

import numpy as np

KINDS = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "uint8": "ByteStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}
# The first numbers of a file before PyTorch 1.6.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {
    "protocol_version": PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def _stand_in(name, make=type):
    module, _, attribute = name.rpartition(".")
    if make is type:
        return type(attribute, (), {"__module__": module})

    def function():
        raise AssertionError("stands for a name only")

    function.__module__, function.__qualname__ = module, attribute
    return function


STORAGES = {kind: _stand_in(f"torch.{kind}") for kind in KINDS.values()}
REBUILD = _stand_in("torch._utils._rebuild_tensor_v2", make=None)
PARAMETER = _stand_in("torch._utils._rebuild_parameter", make=None)
SIZE = _stand_in("torch.Size")


@dataclasses.dataclass
class Storage:
    """Numbers, 1-D; uint16 for bfloat16, whose `dtype` is then to be named."""

    numbers: np.ndarray
    dtype: str = ""
    size: int | None = None  # what the pickle says
    key: str | None = None

    def __post_init__(self):
        self.dtype = self.dtype or self.numbers.dtype.name
        self.size = self.numbers.size if self.size is None else self.size


@dataclasses.dataclass
class Tensor:
    """A view of a storage; offset and strides in numbers."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple
    metadata: dict | None = None

    def __reduce__(self):
        hooks = collections.OrderedDict()
        arguments = (self.storage, self.offset, self.shape, self.strides, False, hooks)
        return REBUILD, arguments + ((self.metadata,) if self.metadata else ())


@dataclasses.dataclass
class Parameter:
    """A trainable tensor, as in a dict of a module's parameters."""

    tensor: Tensor

    def __reduce__(self):
        return PARAMETER, (self.tensor, True, collections.OrderedDict())


@dataclasses.dataclass
class Size:
    """A torch.Size."""

    sizes: tuple

    def __reduce__(self):
        return SIZE, (self.sizes,)


def tensor(array):
    """Returns an array as a contiguous tensor with its own storage."""
    array = np.asarray(array)
    strides = np.empty(array.shape, "int8").strides
    return Tensor(Storage(array.ravel()), 0, array.shape, strides)


def tensors(arrays):
    """Returns a state dict."""
    return {name: tensor(array) for name, array in arrays.items()}


def pickled(content, legacy=False, protocol=2):
    """Returns a pickle and the storages it refers to, by their keys."""
    storages = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if not isinstance(item, Storage):
                return None
            if item.key is None:
                item.key = str(len(storages))
            storages[item.key] = item
            # The older format makes a new text each time: its memo tells.
            key = item.key.encode().decode() if legacy else item.key
            identity = ("storage", STORAGES[KINDS[item.dtype]], key, "cpu")
            return (*identity, item.size, *([None] if legacy else []))

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    vars(torch).update(STORAGES, _utils=utils, Size=SIZE)
    vars(utils).update(_rebuild_tensor_v2=REBUILD, _rebuild_parameter=PARAMETER)
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        file = io.BytesIO()
        Pickler(file, protocol).dump(content)
    return file.getvalue(), storages


def records(content, protocol=2):
    """Returns the records of PyTorch's zip archive, {name: bytes}."""
    data, storages = pickled(content, protocol=protocol)
    return {
        "data.pkl": data,
        ".format_version": b"1",
        ".storage_alignment": b"64",
        "byteorder": b"little",
        **{f"data/{key}": item.numbers.tobytes() for key, item in storages.items()},
        "version": b"3\n",
    }


def write_records(path, given, folder="archive", compression=zipfile.ZIP_STORED):
    """Writes a zip archive as `torch.save` does."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in given.items():
            archive.writestr(f"{folder}/{name}", data)


def write_zip(path, content, protocol=2):
    """Writes a checkpoint in the format since PyTorch 1.6."""
    write_records(path, records(content, protocol))


def legacy(content, system=SYSTEM, protocol=2):
    """Returns a checkpoint in the format before PyTorch 1.6."""
    data, storages = pickled(content, legacy=True, protocol=protocol)
    keys = sorted(storages)
    head = [pickle.dumps(item, protocol) for item in (MAGIC, PROTOCOL, system)]
    raw = [
        storages[key].numbers.size.to_bytes(8, "little")
        + storages[key].numbers.tobytes()
        for key in keys
    ]
    return b"".join([*head, data, pickle.dumps(keys, protocol), *raw])


def write_legacy(path, content, protocol=2):
    """Writes a checkpoint in the format before PyTorch 1.6."""
    path.write_bytes(legacy(content, protocol=protocol))


def safetensors(header, data):
    """Returns a safetensors file of a header and the raw tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def write_safetensors(path, arrays, codes=None):
    """Writes arrays; `codes` names the types of some, e.g. {"w": "BF16"}."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        kind = {"f": "F", "i": "I", "u": "U"}.get(array.dtype.kind)
        code = f"{kind}{array.itemsize * 8}" if kind else "BOOL"
        header[name] = {
            "dtype": (codes or {}).get(name, code),
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    path.write_bytes(safetensors(header, data))

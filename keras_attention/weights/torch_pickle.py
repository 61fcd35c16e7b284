"""Reads the pickles of PyTorch's checkpoints as data: nothing in them is executed.

`pickle.Unpickler` calls what a file names. Even behind a list of allowed names a file
can set attributes of the allowed objects. So this reader interprets the operations
itself: a name from the file is only looked up in the tables below, and what comes out
are dicts, lists, tuples, numbers, texts and descriptions of tensors.

Source: PyTorch's `torch.serialization` and `torch._utils`, Python's `pickletools`.
"""

import dataclasses
import pickletools
import re
from typing import Any

import numpy as np

_STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.BoolStorage": "bool",
}
# Settings beside the weights may name a type.
_DTYPES = {f"torch.{name}" for name in _STORAGES.values()}

_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BINSTRING", "SHORT_BINSTRING"),  # texts of Python 2
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclasses.dataclass(frozen=True)
class Storage:
    """Numbers in a file that tensors are views of.

    Attributes:
        key: name of the storage within the file.
        dtype: name of the numbers' type, e.g. "float32" or "bfloat16".
        size: how many numbers.
    """

    key: str
    dtype: str
    size: int

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        width = 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize
        return self.size * width


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Name:
    """A name of a function or type that a pickle asks for; never the object itself."""

    text: str


def load(file: Any, storages: dict[str, Storage] | None = None) -> Any:
    """Reads one pickle.

    Args:
        file: binary file, standing at the pickle's start; afterwards at its end. Its
            `read(n)` must not allocate more than the file holds: `io.BytesIO`, `mmap`.
        storages: receives the storages that the pickle refers to, by their keys.

    Returns:
        What was pickled, with `Tensor` for PyTorch's tensors, dict for OrderedDict,
        tuple for torch.Size, texts such as "torch.float32" for types, numbers for
        numpy's, and an empty dict for argparse.Namespace.

    Raises:
        ValueError: the pickle is truncated or damaged, or asks for anything else than
            tensors and plain data. Nothing is executed.
    """
    reader = _Reader({} if storages is None else storages)
    try:
        for opcode, argument, _ in _opcodes(file):
            if opcode.name == "STOP":
                return reader.stack.pop()
            reader.step(opcode.name, argument)
    except (IndexError, KeyError):
        # an empty stack, a value that was never stored
        raise ValueError("its pickle is damaged") from None


def _opcodes(file):
    try:
        yield from pickletools.genops(file)
    except ValueError as error:
        raise ValueError(f"its pickle is truncated or damaged: {error}") from None


class _Reader:
    """The stack machine that pickles are programs of."""

    def __init__(self, storages):
        self.storages = storages
        self.stack = []
        self.marks = []  # the stack's heights
        self.memo = {}

    def step(self, name, argument):
        """Does one operation."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in _LITERALS:
                stack.append(argument)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case _ if name in _CONTAINERS:
                stack.append(_CONTAINERS[name]())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self.popped()))
            case _ if name in _TUPLES:
                items = [stack.pop() for _ in range(_TUPLES[name])]
                stack.append(tuple(reversed(items)))
            case "APPEND":
                item = stack.pop()
                self.top(list).append(item)
            case "APPENDS":
                items = self.popped()
                self.top(list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(self.top(dict), [(key, value)])
            case "SETITEMS":
                items = self.popped()
                if len(items) % 2:
                    raise ValueError("its pickle is damaged")
                _set(self.top(dict), zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(attribute, str) or not isinstance(module, str):
                    raise ValueError("its pickle is damaged")
                stack.append(_named(f"{module}.{attribute}"))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_made(function, arguments))
            case "BUILD":
                # The versions of modules, an attribute of state dicts; what is in a
                # namespace; the byte order of a number type.
                stack.pop()
                self.top(dict | np.dtype)
            case "BINPERSID":
                storage = _storage(stack.pop())
                if self.storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"storage '{storage.key}' is described twice")
                stack.append(storage)
            case _:
                raise ValueError(
                    f"its pickle uses the operation {name}, which checkpoints do not "
                    "need; nothing was executed"
                )

    def popped(self):
        """Takes what is above the last mark off the stack."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def top(self, kind):
        """Returns the top of the stack, which must be a list or a dict."""
        if not isinstance(self.stack[-1], kind):
            raise ValueError("its pickle is damaged")
        return self.stack[-1]


def _set(mapping, items):
    for key, value in items:
        # Python would recurse without limit into the hash of a deeply nested tuple.
        if not isinstance(key, str | bytes | int | float | None):
            raise ValueError("its pickle has a key that is no text and no number")
        mapping[key] = value


def _named(text):
    if text in _DTYPES:
        return text
    if text not in _STORAGES and text not in _CALLS:
        raise ValueError(
            f"its pickle asks for '{text[:200]}', which is neither a tensor of a "
            "known type nor plain data; nothing was executed. With PyTorch, save the "
            "state dict alone: torch.save(model.state_dict(), path)"
        )
    return _Name(text)


def _made(function, arguments):
    """Returns what a known function makes of its arguments."""
    name = function.text if isinstance(function, _Name) else None
    if name not in _CALLS or not isinstance(arguments, tuple):
        raise ValueError("its pickle is damaged: a call without a function")
    result = _CALLS[name](*arguments[:7])
    if result is None:
        raise ValueError(f"its pickle is damaged: wrong arguments of '{name}'")
    return result


def _ordered(items=(), *_):
    if not isinstance(items, list | tuple):
        return None
    if not all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
        return None
    mapping = {}
    _set(mapping, items)
    return mapping


def _size(items=(), *_):
    return items if _are_sizes(items) else None


def _tensor(*arguments):
    match arguments:
        case (Storage() as storage, int(offset), shape, strides, *rest):
            if rest[2:] and rest[2]:
                raise ValueError("it holds a conjugate or negative view of a tensor")
            if not _are_sizes(shape) or not _are_sizes((offset,)):
                return None
            if _are_sizes(strides) and len(shape) == len(strides):
                return Tensor(storage, offset, shape, strides)
    return None


def _parameter(data=None, *_):
    return data if isinstance(data, Tensor) else None


def _namespace(*_):
    return {}  # settings of the training script


def _dtype(text=None, *_):
    plain = isinstance(text, str) and re.fullmatch(r"[<|=]?[biuf][1248]", text)
    return np.dtype(text) if plain else None


def _bytes(text=None, encoding=None, *_):
    # How protocols below 3 write them.
    latin = isinstance(text, str) and encoding == "latin1"
    return text.encode("latin1", "replace") if latin else None


def _number(dtype=None, data=None, *_):
    fits = isinstance(dtype, np.dtype) and isinstance(data, bytes)
    fits = fits and len(data) == dtype.itemsize
    return np.frombuffer(data, dtype)[0].item() if fits else None


def _are_sizes(items):
    return isinstance(items, tuple) and all(
        type(item) is int and item >= 0 for item in items
    )


_CALLS = {
    "collections.OrderedDict": _ordered,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,  # before PyTorch 0.4
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    # beside the weights: arguments of the script, the best accuracy so far
    "argparse.Namespace": _namespace,
    "_codecs.encode": _bytes,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
}


def _storage(identity):
    """Returns the storage that a persistent id describes."""
    match identity:
        case ("storage", _Name(kind), str(key), str(), int(size), *view) if (
            kind in _STORAGES and size >= 0 and view in ([], [None])
        ):
            return Storage(key, _STORAGES[kind], int(size))
    raise ValueError("its pickle refers to something else than a storage of numbers")

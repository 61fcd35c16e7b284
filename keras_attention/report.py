"""What longer steps give back: numbers to read and to store."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Report:
    """Base of the reports: `to_dict()` for files, `print()` for people.

    A field with `repr=False` (a long list) is left out of what is printed.
    """

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as dicts, lists and plain values that JSON can hold."""
        return _plain(self)

    def __str__(self) -> str:
        hidden = {field.name for field in dataclasses.fields(self) if not field.repr}
        shown = {k: v for k, v in self.to_dict().items() if k not in hidden}
        return "\n".join(_lines(shown))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # numpy's scalars and arrays
    return value.tolist() if hasattr(value, "tolist") else value


def _lines(report: dict[str, Any]) -> list[str]:
    width = max(len(name) for name in report)
    lines = []
    for name, value in report.items():
        # A list of dicts (tensors, outputs) takes one line per entry.
        many = isinstance(value, list) and value and isinstance(value[0], dict)
        for text in map(_text, value) if many else [_text(value)]:
            lines.append(f"{name.replace('_', ' '):{width}}  {text}")
            name = ""
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        items = {name: item for name, item in value.items() if item is not None}
        return ", ".join(f"{name} {_text(item)}" for name, item in items.items()) or "-"
    if isinstance(value, list):
        if value and all(isinstance(item, int) for item in value):
            return "x".join(map(str, value))
        return ", ".join(map(_text, value)) or "-"
    return str(value)

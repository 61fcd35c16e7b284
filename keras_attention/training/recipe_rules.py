"""What the fields of a dataclass may be, and a dataclass from plain nested values.

Errors name the field by its dotted key, what is allowed, what came and the nearest
allowed name.
"""

import dataclasses
import difflib
import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field may be.

    Attributes:
        allowed: That, in words.
        read: Returns a value in the form that is kept, or raises ValueError.
        choices: The names to choose from, or a function that returns them.
    """

    allowed: str
    read: Callable[[Any], Any]
    choices: Iterable[str] | Callable[[], Iterable[str]] = ()


def ruled(default: Any, rule: Rule) -> Any:
    """A dataclass field with a default, as `dataclasses.field`, under a rule."""
    return dataclasses.field(default=default, metadata={"rule": rule})


def number(allowed: str, ok: Callable[[float], bool]) -> Rule:
    """A finite number; integers become floats."""

    def read(value):
        _require(isinstance(value, numbers.Real) and not isinstance(value, bool))
        _require(math.isfinite(value) and ok(value))
        return float(value)

    return Rule(allowed, read)


def integer(allowed: str, ok: Callable[[int], bool]) -> Rule:
    """An integer; 3.0 is none."""

    def read(value):
        _require(isinstance(value, numbers.Integral) and not isinstance(value, bool))
        _require(ok(value))
        return int(value)

    return Rule(allowed, read)


POSITIVE = number("a number > 0", lambda value: value > 0)
NOT_NEGATIVE = number("a number >= 0", lambda value: value >= 0)
SHARE = number("a number in [0, 1)", lambda value: 0 <= value < 1)
COUNT = integer("an integer >= 1", lambda value: value >= 1)


def _flag(value):
    _require(isinstance(value, bool))
    return value


FLAG = Rule("true or false", _flag)


def choice(
    known: Iterable[str] | Callable[[], Iterable[str]], allowed: str = ""
) -> Rule:
    """One of some names.

    Args:
        known: The names, or a function that returns them when they are asked for.
        allowed: The names in words, where they are too many to be listed.
    """

    def read(value):
        _require(isinstance(value, str) and value in _listed(known))
        return value

    return Rule(allowed or f"one of {', '.join(_listed(known))}", read, known)


def optional(rule: Rule) -> Rule:
    """None, or what a rule allows."""

    def read(value):
        return None if value is None else rule.read(value)

    return dataclasses.replace(rule, allowed=f"{rule.allowed}, or null", read=read)


def nearest(wrong: Any, known: Iterable[str]) -> str:
    """Returns the known name that is most like a wrong one, whatever its case."""
    by_lower = {entry.lower(): entry for entry in known}
    found = difflib.get_close_matches(str(wrong).lower(), by_lower, n=1, cutoff=0.0)
    return by_lower[found[0]]


def refusal(key: str, allowed: str, value: Any, known: Iterable[str] = ()):
    """Returns the ValueError of a field whose value is not allowed."""
    known = _listed(known)
    hint = f": did you mean {nearest(value, known)!r}?" if known else ""
    return ValueError(f"{key} must be {allowed}; received {value!r}{hint}")


def unknown_key(key: str, prefix: str, known: Iterable[str]):
    """Returns the ValueError of a key that is not there.

    Args:
        key: The key, without those that lead to it.
        prefix: These, with a dot at their end.
        known: The keys that are there.
    """
    known = sorted(known)
    hint = f": did you mean {prefix}{nearest(key, known)}?" if known else ""
    return ValueError(
        f"{prefix}{key} is no key; allowed are {', '.join(known) or 'none'}{hint}"
    )


def check(section: Any, prefix: str = "") -> None:
    """Brings every field of a frozen dataclass into the form that its rule keeps.

    Args:
        section: The object; a field without a rule is a section of its own.
        prefix: Of its fields' dotted keys, with the dot.

    Raises:
        ValueError: If a field is not what its rule allows.
    """
    for field in dataclasses.fields(section):
        key, value = prefix + field.name, getattr(section, field.name)
        rule = field.metadata.get("rule")
        if rule is None:
            if not isinstance(value, field.type):
                raise refusal(key, f"of class {field.type.__name__}", value)
            continue
        try:
            value = rule.read(value)
        except ValueError as error:
            if str(error):
                raise
            raise refusal(key, rule.allowed, value, rule.choices) from None
        object.__setattr__(section, field.name, value)


def from_dict(cls: type, values: Any, prefix: str = "") -> Any:
    """Makes a dataclass, and the dataclasses inside it, of nested dictionaries.

    Args:
        cls: The dataclass.
        values: Values by field names; fields that are missing keep their defaults.
        prefix: Of the dotted keys, with the dot.

    Returns:
        An object of `cls`.

    Raises:
        ValueError: If a key is unknown, or a value not allowed; errors of a class that
            does not name its fields by dotted keys are given these.
    """
    if not isinstance(values, Mapping):
        keys = ", ".join(field.name for field in dataclasses.fields(cls))
        raise refusal(prefix[:-1] or "a recipe", f"a mapping with keys {keys}", values)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown_key(key, prefix, fields)
        kind = fields[key].type
        if dataclasses.is_dataclass(kind):
            value = from_dict(kind, value, f"{prefix}{key}.")
        arguments[key] = value
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        text = str(error)
        if prefix and (field := re.match(rf"({'|'.join(fields)})\b(?!\.)", text)):
            names = re.search(r"\bone of (\w+(?:, \w+)*)", text)
            hint = names and nearest(arguments.get(field[0]), names[1].split(", "))
            text = prefix + text + (f": did you mean {hint!r}?" if hint else "")
        raise ValueError(text) from error


def plain(value: Any) -> Any:
    """Returns a copy of what YAML and JSON know, with lists for tuples.

    Raises:
        ValueError: If something in it is not null, a boolean, a finite number, a
            string, a list, or a mapping with strings for keys.
    """
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    _require(value is None or type(value) in (bool, int, float, str))
    _require(not isinstance(value, float) or math.isfinite(value))
    return value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values by dotted keys; an empty mapping is a value, too."""
    found = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _require(ok):
    if not ok:
        raise ValueError


def _listed(names):
    return tuple(names() if callable(names) else names)

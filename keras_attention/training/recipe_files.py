"""Recipes as YAML, the shipped ones, and values of nested dictionaries by dotted keys.

Numbers are read as people write them: PyYAML's YAML 1.1 takes 1e-3 for a string.
"""

import copy
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import yaml

from keras_attention import files
from keras_attention.training.recipe_rules import flat, nearest

SUFFIXES = ".yaml", ".yml"

# Naming another network: what belongs to the network before it goes.
_REPLACED = {
    "model.preset": ("backbone", "attention", "arguments"),
    "model.backbone": ("preset",),
}


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, and refuses a key that is given twice."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value} is given twice",
                    problem_mark=key.start_mark,
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads as the same value, nothing by reference."""

    def ignore_aliases(self, data):
        return True


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z"),
        list("-+.0123456789"),
    )


def parse(text: str) -> Any:
    """Returns what a YAML text says.

    Raises:
        ValueError: If it is no YAML, or gives a key twice.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError("no valid YAML: " + " ".join(str(error).split())) from None


def dump(values: Mapping[str, Any]) -> str:
    """Returns a YAML text that `parse` reads as the same values."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)


def write(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
    """Writes a YAML file, whole or not at all.

    Raises:
        OSError: If it can't be written.
    """
    with files.replacing(path) as temporary:
        temporary.write_text(dump(values), encoding="utf-8")


def names() -> list[str]:
    """Returns the names of the shipped recipes, sorted."""
    shipped = (pathlib.PurePath(entry.name) for entry in _folder().iterdir())
    return sorted(path.stem for path in shipped if path.suffix == ".yaml")


def text_of(name_or_path: str | os.PathLike) -> str:
    """Returns the text of a recipe, with its comments.

    Args:
        name_or_path: One of `names()`, or the path of a .yaml file.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is neither.
    """
    if str(name_or_path) in names():
        return _folder().joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = pathlib.Path(name_or_path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            "a recipe is the path of a .yaml file or one of "
            f"{', '.join(names())}; received {str(name_or_path)!r}: did you mean "
            f"{nearest(name_or_path, names())!r}?"
        )
    return path.read_text(encoding="utf-8")


def summary(name: str) -> str:
    """Returns the first sentence of a shipped recipe's header."""
    lines = itertools.takewhile(
        lambda line: line.strip("# "), text_of(name).splitlines()
    )
    return " ".join(line.strip("# ") for line in lines).partition(". ")[0].rstrip(".")


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Returns nested values with some of them replaced.

    Args:
        values: The values; they stay as they are.
        overrides: Such as "optimizer.lr=1e-3": a dotted key, and a value in YAML. Where
            "model.preset" is given, what else describes the network goes
            (`model.backbone`, `model.attention`, `model.arguments`) unless it is given,
            too; with "model.backbone" the preset goes.

    Raises:
        ValueError: If one is not of that form, or its key leads into a value that has
            no keys.
    """
    values = copy.deepcopy(dict(values))
    given = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ValueError(
                f"an override must be KEY=VALUE, such as optimizer.lr=0.1; received "
                f"{text!r}"
            )
        try:
            given[key.strip()] = parse(value)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    for key, parts in _REPLACED.items():
        if given.get(key) is not None:
            for part in parts:
                values["model"].pop(part, None)
    for key, value in given.items():
        _put(values, key, value)
    return values


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Returns what differs between nested values, a line for each dotted key."""
    # No key is in an empty mapping: there is nothing to compare.
    ours, theirs = (
        {key: value for key, value in flat(values).items() if value != {}}
        for values in (ours, theirs)
    )
    return [
        f"{key} is {_shown(ours, key)}, was {_shown(theirs, key)}"
        for key in dict.fromkeys([*ours, *theirs])
        if _shown(ours, key) != _shown(theirs, key)
    ]


def _folder():
    return resources.files("keras_attention").joinpath("recipes")


def _put(values, key, value):
    *path, last = key.split(".")
    for depth, part in enumerate(path, 1):
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            lead = ".".join(path[:depth])
            raise ValueError(
                f"{key} can't be set: {lead} is {inner!r}, which has no keys; set "
                f"{lead} itself"
            )
        values = inner
    values[last] = value


def _shown(values, key):
    if key not in values:
        return "not set"
    return (
        yaml.dump(values[key], Dumper=_Dumper, default_flow_style=True, width=10**6)
        .removesuffix("\n...\n")
        .strip()
    )

"""The section `model` of a recipe: which network."""

import dataclasses
import functools
import inspect
import os
from collections.abc import Mapping
from typing import Any

import keras

from keras_attention import models, registry
from keras_attention.training import recipe_rules
from keras_attention.training.recipe_rules import (
    SHARE,
    Rule,
    choice,
    optional,
    plain,
    refusal,
    ruled,
    unknown_key,
)

NO_ATTENTION = "none"

# Arguments of builders that are keys of `model`, or that training decides.
_OWN_KEYS = "attention", "dropout", "drop_path", "weights"
_DECIDED = "input_shape", "classes", "include_top", "classifier_activation"


@functools.cache
def builders() -> dict[str, Any]:
    """Returns the builders of networks for images, by name."""
    public = {entry: getattr(models, entry) for entry in models.__all__}
    return {
        entry: build
        for entry, build in public.items()
        if inspect.isfunction(build)
        and entry[0].isupper()
        and len(inspect.signature(build).parameters["input_shape"].default) == 3
    }


@functools.cache
def _presets() -> dict[str, Any]:
    """Returns the papers' networks for images, by name."""
    every = models.presets().items()
    return {entry: preset for entry, preset in every if preset.builder in builders()}


def _arguments(value):
    if not isinstance(value, Mapping):
        raise ValueError
    return plain(value)


def _attention(value, key="model.attention"):
    """Returns a block's description, or a list of them, with its names checked."""
    if isinstance(value, list | tuple) and value:
        return [_attention(entry, f"{key}.{i}") for i, entry in enumerate(value)]
    block, value = value, plain(value)
    if isinstance(value, Mapping):
        block = value.get("name")
    if block == value == NO_ATTENTION and key == "model.attention":
        return value
    if not isinstance(block, str):
        raise ValueError
    if block not in registry.names():
        known = registry.names()
        where = f"{key}.name" if isinstance(value, Mapping) else key
        raise refusal(where, f"one of {', '.join(known)}", block, known)
    if isinstance(value, Mapping):
        taken = inspect.signature(registry.class_of(block)).parameters.values()
        known = {"name", *(p.name for p in taken if p.kind is not p.VAR_KEYWORD)}
        for argument in value.keys() - known:
            raise unknown_key(argument, f"{key}.", known)
    return value


def _file(value):
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError
    return os.fspath(value)


@dataclasses.dataclass(frozen=True)
class ModelSection:
    """Which network.

    Attributes:
        preset: A name of `models.presets()`; or None, and `backbone` says.
        backbone: A builder of `keras_attention.models`.
        attention: Registry name, dict with "name", or list of these, as builders take;
            None is the preset's or the builder's own, "none" is without any.
        arguments: More arguments of the builder (width, stem, stem_stride, ...).
        dropout: In front of the classifier; None is the builder's.
        drop_path: Stochastic depth's rate in the last unit.
        weights: "imagenet" or a file, as builders and `load_torch` take them.
    """

    preset: str | None = ruled(
        None, optional(choice(_presets, "a network of images of models.presets()"))
    )
    backbone: str | None = ruled(None, optional(choice(builders)))
    attention: Any = ruled(
        None,
        optional(
            Rule("a block's name, a mapping with a name, a list of these", _attention)
        ),
    )
    arguments: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"rule": Rule("a mapping of plain values", _arguments)},
    )
    dropout: float | None = ruled(None, optional(SHARE))
    drop_path: float = ruled(0.0, SHARE)
    weights: str | None = ruled(None, optional(Rule('"imagenet" or a path', _file)))

    def __post_init__(self):
        recipe_rules.check(self, "model.")
        if (self.preset is None) == (self.backbone is None):
            given = f"preset {self.preset!r} and backbone {self.backbone!r}"
            raise ValueError(
                "model.preset or model.backbone must be given, one of the two and not "
                f"both; received {given}: set one of them to null, the other to a name"
            )
        taken = inspect.signature(self._builder).parameters
        allowed = set(taken) - {*_OWN_KEYS, *_DECIDED}
        for argument in self.arguments:
            if argument in _OWN_KEYS:
                raise ValueError(
                    f"model.arguments.{argument} is no key: set model.{argument}"
                )
            if argument not in allowed:
                raise unknown_key(argument, "model.arguments.", allowed)

    @property
    def _builder(self):
        preset = _presets().get(self.preset)
        return getattr(models, preset.builder if preset else self.backbone)

    def build(self, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
        """Makes the network, in Keras' dtype policy of the moment.

        Args:
            input_shape: (H, W, C) of the images.
            classes: Number of classes.

        Returns:
            A functional model, (N, H, W, C) -> logits (N, classes).

        Raises:
            OSError: The weights can't be read or downloaded.
            ValueError: The builder refuses an argument, or the weights are another
                network's.
        """
        arguments = dict(_presets()[self.preset].arguments) if self.preset else {}
        if self.attention is not None:
            # Another block has another place.
            arguments.pop("attention_position", None)
            none = self.attention == NO_ATTENTION
            arguments["attention"] = None if none else self.attention
        arguments |= self.arguments | {"drop_path": self.drop_path}
        if self.dropout is not None:
            arguments["dropout"] = self.dropout
        torch = self.weights not in (None, "imagenet")
        torch = torch and not self.weights.endswith((".keras", ".weights.h5"))
        if not torch:
            arguments["weights"] = self.weights
        model = self._builder(tuple(input_shape), classes, **arguments)
        if torch:
            from keras_attention.weights import load_torch

            load_torch(model, self.weights)
        return model

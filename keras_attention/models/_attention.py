"""Resolves the builders' arguments `attention` and `attention_position`."""

import dataclasses
from collections.abc import Callable

import keras

from keras_attention import registry
from keras_attention.models import placement


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in a backbone where a block is put.

    Attributes:
        name: Name for the layer, e.g. "block_3_attention".
        backbone: Key of the backbone in the placement table.
        position: E.g. "after_depthwise".
        unit: Number of the unit, counted from 1 as in the layers' names.
        shape: Shape of the tensor there, (N, H, W, C).
    """

    name: str
    backbone: str
    position: str
    unit: int
    shape: tuple

    @property
    def channels(self):
        """Number of channels of the tensor."""
        return self.shape[-1]


@dataclasses.dataclass(frozen=True)
class _Block:
    make: Callable[[Site], keras.layers.Layer]
    position: str
    suffix: str


class Attention:
    """The blocks that a builder puts into its units.

    Args:
        attention: None, a registry name, {"name": ..., **arguments}, a Layer subclass,
            a callable Site -> Layer, or a list of these.
        position: One of `positions` for all blocks, or None for the placement table.
        backbone: Key of the backbone in the placement table.
        positions: The positions that the backbone's units have.

    Raises:
        ValueError: A name, a position or a value is not one of these.
    """

    def __init__(self, attention, position, *, backbone, positions):
        if position is not None and position not in positions:
            raise ValueError(
                f"attention_position must be None or one of {tuple(positions)}; "
                f"received {position!r}"
            )
        if attention is None:
            attention = []
        elif not isinstance(attention, (list, tuple)):
            attention = [attention]
        self._backbone = backbone
        self._blocks = []
        for number, entry in enumerate(attention, 1):
            make, name = _resolve(entry)
            where = position or placement.position_of(backbone, name)
            suffix = "attention" if len(attention) == 1 else f"attention_{number}"
            self._blocks.append(_Block(make, where, suffix))

    def __call__(self, x, position, *, unit, prefix):
        """Returns `x` behind the blocks that belong at `position` of a unit."""
        for block in self._blocks:
            if block.position != position:
                continue
            site = Site(
                f"{prefix}_{block.suffix}", self._backbone, position, unit, x.shape
            )
            layer = block.make(site)
            if not isinstance(layer, keras.layers.Layer):
                raise ValueError(
                    "a callable given as attention must return a keras.layers.Layer; "
                    f"received {layer!r} for {site}"
                )
            x = layer(x)
        return x


def _resolve(entry):
    """Returns (site -> layer, registry name or None) for one value of `attention`."""
    if isinstance(entry, str):
        entry = {"name": entry}
    if isinstance(entry, dict):
        arguments = dict(entry)
        name = arguments.pop("name", None)
        if name not in registry.names():
            registry.get(name)  # raises, with the names that there are
        return lambda site: registry.get(name, **arguments | {"name": site.name}), name
    if isinstance(entry, type) and issubclass(entry, keras.layers.Layer):
        return lambda site: entry(name=site.name), registry.name_of(entry)
    if callable(entry) and not isinstance(entry, keras.layers.Layer):
        return entry, None
    raise ValueError(
        "attention must be None, a registry name, {'name': ..., **arguments}, a Layer "
        "subclass, a callable Site -> Layer, or a list of these; "
        f"received {entry!r}"
    )

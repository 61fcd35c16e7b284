"""Resolves the builders' arguments `attention` and `attention_position`."""

import dataclasses
from collections.abc import Callable

import keras

from keras_attention import registry
from keras_attention.models import placement

REPLACE = "replace_spatial"


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in a backbone where a block is put.

    Attributes:
        name: Name for the layer, e.g. "block_3_attention".
        backbone: Key of the backbone in the placement table; None in another network.
        position: E.g. "after_depthwise"; "after_layer" in another network.
        unit: Number of the unit, counted from 1 as in the layers' names; at
            "after_stage" that of the stage's last unit. None in another network.
        shape: Shape of the tensor there, (N, H, W, C) or, of video, (N, T, H, W, C);
            before the convolution at "replace_spatial".
        conv: At "replace_spatial", the arguments of the `Conv2D`, or of video the
            `Conv3D`, whose place the block takes: filters, kernel_size, strides,
            padding, groups, use_bias. Else None.
        stage: Number of the stage, counted from 1, where units are counted by stages;
            else None.
        units: Number of units in the stage; None without stages.
        inputs: Number of channels of the unit's input, where a block follows it; else
            None.
    """

    name: str
    backbone: str | None
    position: str
    unit: int | None
    shape: tuple
    conv: dict | None = None
    stage: int | None = None
    units: int | None = None
    inputs: int | None = None

    @property
    def channels(self):
        """Number of channels of the tensor."""
        return self.shape[-1]


@dataclasses.dataclass(frozen=True)
class _Block:
    make: Callable[[Site], keras.layers.Layer]
    name: str | None
    position: str
    everywhere: bool
    suffix: str


class Attention:
    """The blocks that a builder puts into its units.

    Args:
        attention: None, a registry name, {"name": ..., **arguments}, a Layer subclass,
            a callable Site -> Layer, or a list of these.
        position: One of `positions` for all blocks, in every unit or stage; None is
            where the placement table says, and in the units that it says.
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
            make, name = resolve(entry)
            where = position or placement.position_of(backbone, name)
            _check_position(name, where)
            suffix = "attention" if len(attention) == 1 else f"attention_{number}"
            everywhere = position is not None
            self._blocks.append(_Block(make, name, where, everywhere, suffix))
        replacing = [b for b in self._blocks if b.position == REPLACE]
        if len(replacing) > 1:
            raise ValueError(
                f"only one block can take the place of a convolution; received "
                f"{len(replacing)} at {REPLACE!r}"
            )
        self._replacing = replacing[0] if replacing else None

    def __call__(self, x, position, *, prefix, **where):
        """Returns `x` behind the blocks that belong at a position of a unit or stage.

        Args:
            x: The map there.
            position: One of the backbone's positions.
            prefix: Of the unit's or stage's names.
            **where: `unit`, `stage` and `units` of the `Site`.
        """
        for block in self._blocks:
            if block.position == position:
                y = self._apply(block, x, prefix, where)
                x = x if y is None else y
        return x

    def replace(self, x, padded, conv, *, prefix, **where):
        """Returns the block's output in place of a unit's k x k convolution.

        Args:
            x: The unit's map.
            padded: The convolution's input: the same, or padded.
            conv: The convolution's arguments, see `Site`.
            prefix: Of the unit's names.
            **where: `unit`, `stage` and `units` of the `Site`.

        Returns:
            A tensor, or None if no block takes that place.
        """
        if self._replacing is None:
            return None
        pads = self._replacing.name in placement.PADDING
        x = x if pads else padded
        return self._apply(self._replacing, x, prefix, {"conv": conv, **where})

    def _apply(self, block, x, prefix, where):
        """Returns the block's output, or None if it does not belong into this unit."""
        name = f"{prefix}_{block.suffix}"
        site = Site(name, self._backbone, block.position, shape=x.shape, **where)
        if not block.everywhere and not placement.is_place(block.name, site):
            return None
        return make_layer(block.make, site)(x)


def make_layer(make, site):
    """Returns make(site).

    Raises:
        ValueError: That is no layer.
    """
    layer = make(site)
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(
            "a callable given as attention must return a keras.layers.Layer; "
            f"received {layer!r} for {site}"
        )
    return layer


def _check_position(name, position):
    """Raises ValueError if a registered block can't stand there."""
    if name is not None and (position == REPLACE) != (name in placement.REPLACING):
        only = "only" if name in placement.REPLACING else "not"
        raise ValueError(
            f"attention {name!r} can {only} take the place of a convolution "
            f"({REPLACE!r}); received position {position!r}"
        )


def resolve(entry):
    """Returns (site -> layer, registry name or None) for one value of `attention`.

    Raises:
        ValueError: It is none of the values that stand for one block.
    """
    if isinstance(entry, str):
        entry = {"name": entry}
    if isinstance(entry, dict):
        arguments = dict(entry)
        name = arguments.pop("name", None)
        cls = registry.class_of(name)
    elif isinstance(entry, type) and issubclass(entry, keras.layers.Layer):
        cls, arguments, name = entry, {}, registry.name_of(entry)
    elif callable(entry) and not isinstance(entry, keras.layers.Layer):
        return entry, None
    else:
        raise ValueError(
            "attention must be None, a registry name, {'name': ..., **arguments}, a "
            "Layer subclass, a callable Site -> Layer, or a list of these; "
            f"received {entry!r}"
        )

    def make(site):
        return cls(**placement.fitted(name, site) | arguments, name=site.name)

    return make, name

"""What a training run is: a recipe, a dataclass of sections of plain values.

Every section checks itself. An error names the dotted key, what is allowed, what came
and, for a name, the nearest one.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from keras_attention.data.augmentation import Augmentation
from keras_attention.mobile.schemes import SCHEMES
from keras_attention.training import recipe_files, recipe_rules
from keras_attention.training.recipe_model import ModelSection as ModelSection
from keras_attention.training.recipe_rules import (
    COUNT,
    FLAG,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Rule,
    choice,
    integer,
    number,
    optional,
    plain,
    ruled,
)

DATA = "digits", "folder:PATH", "tfrecord:PATH", "tfds:NAME"
POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


def _milestones(value):
    if not isinstance(value, list | tuple):
        raise ValueError
    found = tuple(COUNT.read(entry) for entry in value)
    if any(late <= early for early, late in zip(found, found[1:], strict=False)):
        raise ValueError
    return found


def _size(value):
    if isinstance(value, list | tuple) and len(value) == 2:
        return tuple(COUNT.read(side) for side in value)
    return COUNT.read(value)


def _data(value):
    if not isinstance(value, str):
        raise ValueError
    kind, colon, rest = value.partition(":")
    kinds = [form.partition(":")[0] for form in DATA if ":" in form]
    if value != "digits" and not (kind in kinds and colon and rest):
        raise ValueError
    return value


@dataclasses.dataclass(frozen=True)
class OptimizerSection:
    """Which optimizer; weight decay leaves out biases and normalizations.

    Attributes:
        name: "sgd", "adamw" or "rmsprop".
        lr: Highest learning rate, for the recipe's global batch.
        momentum: Of SGD and RMSprop.
        nesterov: Of SGD.
        weight_decay: SGD and RMSprop: coefficient of the squared norm's gradient, as in
            PyTorch (coupled); AdamW: decoupled, relative to the learning rate.
        clip_norm: Largest norm of all gradients together; None: no clipping.
        accumulate: Batches per update.
    """

    name: str = ruled("sgd", choice(("sgd", "adamw", "rmsprop")))
    lr: float = ruled(0.1, POSITIVE)
    momentum: float = ruled(0.9, SHARE)
    nesterov: bool = ruled(False, FLAG)
    weight_decay: float = ruled(0.0, NOT_NEGATIVE)
    clip_norm: float | None = ruled(None, optional(POSITIVE))
    accumulate: int = ruled(1, COUNT)

    def __post_init__(self):
        recipe_rules.check(self, "optimizer.")
        if self.nesterov and self.name != "sgd":
            raise ValueError(
                "optimizer.nesterov must be false unless optimizer.name is sgd; "
                f"received true with {self.name}"
            )
        if self.nesterov and not self.momentum:
            raise ValueError(
                "optimizer.nesterov must be false without momentum; received true with "
                "optimizer.momentum 0"
            )


@dataclasses.dataclass(frozen=True)
class ScheduleSection:
    """How the learning rate changes.

    Attributes:
        name: "cosine", "step" or "constant".
        warmup_epochs: Linear rise from zero.
        milestones: Epochs after which the rate is multiplied by `factor` ("step").
        factor: See milestones.
        final: The rate at the end, as a share of the highest one ("cosine").
    """

    name: str = ruled("cosine", choice(("cosine", "step", "constant")))
    warmup_epochs: float = ruled(0.0, NOT_NEGATIVE)
    milestones: tuple[int, ...] = ruled(
        (), Rule("a list of rising integers >= 1", _milestones)
    )
    factor: float = ruled(
        0.1, number("a number in (0, 1)", lambda value: 0 < value < 1)
    )
    final: float = ruled(
        0.0, number("a number in [0, 1]", lambda value: 0 <= value <= 1)
    )

    def __post_init__(self):
        recipe_rules.check(self, "schedule.")
        if (self.name == "step") != bool(self.milestones):
            raise ValueError(
                "schedule.milestones must be a list of epochs for the schedule step, "
                f"and empty for others; received {list(self.milestones)} with "
                f"schedule.name {self.name}"
            )
        if self.final and self.name != "cosine":
            raise ValueError(
                "schedule.final must be 0 unless schedule.name is cosine; received "
                f"{self.final:g} with {self.name}"
            )
        if self.milestones and self.milestones[0] < self.warmup_epochs:
            raise ValueError(
                "schedule.warmup_epochs must be at most the first of "
                f"schedule.milestones, {self.milestones[0]}; received "
                f"{self.warmup_epochs:g}"
            )


@dataclasses.dataclass(frozen=True)
class QuantizeSection:
    """Quantization-aware training behind the float training.

    Attributes:
        epochs: 0: none.
        lr: At its start; falls to zero along a cosine.
        scheme: Of `mobile.quantize`.
    """

    epochs: int = ruled(0, integer("an integer >= 0", lambda value: value >= 0))
    lr: float = ruled(5e-5, POSITIVE)
    scheme: str = ruled("int8", choice(SCHEMES))

    def __post_init__(self):
        recipe_rules.check(self, "quantize.")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A whole training run.

    Attributes:
        data: "digits", "folder:PATH", "tfrecord:PATH" or "tfds:NAME".
        epochs: Passes over the training part.
        batch_size: Global: all replicas together.
        image_size: Side, or (height, width); None is the data set's own.
        label_smoothing: Share of the target that is spread over all classes.
        weight_ema: Momentum of the weights' moving average, per update; 0: none.
        precision: "float32", "bfloat16" or "float16".
        cache: Whether decoded images are kept in memory.
        seed: Decides weights, order, augmentation, dropout.

    Raises:
        ValueError: A field is not allowed, or does not go with another.
    """

    data: str = ruled("digits", Rule(f"one of {', '.join(DATA)}", _data, DATA))
    model: ModelSection = ModelSection(backbone="MobileNetV2", attention="coord")
    epochs: int = ruled(30, COUNT)
    batch_size: int = ruled(32, COUNT)
    image_size: int | tuple[int, int] | None = ruled(
        None, optional(Rule("an integer >= 1 or [height, width]", _size))
    )
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    augment: Augmentation = Augmentation()
    label_smoothing: float = ruled(0.0, SHARE)
    weight_ema: float = ruled(0.0, SHARE)
    precision: str = ruled("float32", choice(POLICIES))
    quantize: QuantizeSection = QuantizeSection()
    cache: bool = ruled(False, FLAG)
    # What numpy's generator takes, which Keras seeds, too.
    seed: int = ruled(
        0, integer("an integer in [0, 2**32)", lambda value: 0 <= value < 2**32)
    )

    def __post_init__(self):
        recipe_rules.check(self)
        schedule = self.schedule
        if schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                "schedule.warmup_epochs must be less than epochs, "
                f"{self.epochs}; received {schedule.warmup_epochs:g}"
            )
        if schedule.milestones and schedule.milestones[-1] >= self.epochs:
            raise ValueError(
                f"schedule.milestones must be less than epochs, {self.epochs}; "
                f"received {list(schedule.milestones)}"
            )

    @staticmethod
    def names() -> list[str]:
        """Returns the names of the shipped recipes, sorted."""
        return recipe_files.names()

    @classmethod
    def load(cls, name_or_path: str | os.PathLike) -> "Recipe":
        """Reads a recipe.

        Args:
            name_or_path: One of `names()`, or the path of a .yaml file.

        Returns:
            The recipe; keys that the file does not have are at their defaults.

        Raises:
            OSError: If the file can't be read.
            ValueError: If it is no recipe; the message begins with its name.
        """
        text = recipe_files.text_of(name_or_path)
        try:
            return cls.from_dict(recipe_files.parse(text))
        except ValueError as error:
            raise ValueError(f"{name_or_path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Makes a recipe of nested dictionaries, as `to_dict` returns them.

        Raises:
            ValueError: If a key is unknown or a value not allowed.
        """
        return recipe_rules.from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Returns every key as nested dictionaries of what YAML and JSON know."""
        return plain(dataclasses.asdict(self))

    def save(self, path: str | os.PathLike) -> None:
        """Writes every key to a .yaml file, which `load` reads as an equal recipe.

        Raises:
            OSError: If it can't be written.
            ValueError: If the path does not end in .yaml or .yml.
        """
        if pathlib.Path(path).suffix.lower() not in recipe_files.SUFFIXES:
            raise ValueError(f"a recipe is written to a .yaml file; received {path}")
        recipe_files.write(path, self.to_dict())

    def replace(self, overrides: Iterable[str]) -> "Recipe":
        """Returns the recipe with other values.

        Args:
            overrides: Such as "optimizer.lr=0.1", "model.arguments.width=0.5" or
                "model.attention={name: coord, reduction: 16}"; values in YAML. Another
                `model.preset` takes the place of backbone, attention and arguments,
                another `model.backbone` that of the preset.

        Raises:
            ValueError: If a key is unknown or a value not allowed.
        """
        return self.from_dict(recipe_files.override(self.to_dict(), overrides))

    def difference(self, other: "Recipe") -> list[str]:
        """Returns what differs, as "optimizer.lr is 0.1, was 0.05" with the other's."""
        return recipe_files.differences(self.to_dict(), other.to_dict())

    def policy(self) -> str:
        """Returns the name of the dtype policy that the model is built in."""
        return POLICIES[self.precision]

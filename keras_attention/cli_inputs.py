"""What the commands read: models, data and labels, and whether they fit together."""

import inspect
import pathlib
import sys

import keras
from rich.console import Console

from keras_attention import data, image_input, models
from keras_attention.data import LABELS_FILE, ImageData, read_labels
from keras_attention.mobile.convert import is_quantized

PRESET_COLUMNS = "name", "parameters", "multiply-adds", "published top-1"


def backbones() -> dict:
    """The builders of backbones by name."""
    public = {name: getattr(models, name) for name in sorted(models.__all__)}
    return {
        name: entry
        for name, entry in public.items()
        if name[0].isupper() and inspect.isfunction(entry)
    }


def builder(name: str):
    """The builder of that name, in upper or lower case.

    Raises:
        ValueError: If there is none.
    """
    known = {backbone.lower(): build for backbone, build in backbones().items()}
    if name.lower() not in known:
        raise ValueError(
            f"unknown model {name!r}; known models: {', '.join(backbones())}"
        )
    return known[name.lower()]


def taken(build, **options) -> dict:
    """The options that a builder takes; those of others must be left at their defaults.

    Args:
        build: The builder.
        **options: (value, default) by the names of its arguments.

    Raises:
        ValueError: If an option was given that it does not take.
    """
    parameters = inspect.signature(build).parameters
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    found = {}
    for name, (value, default) in options.items():
        if any_name or name in parameters:
            found[name] = value
        elif value != default:
            raise ValueError(f"{build.__name__} has no {name}; received {value}")
    return found


def summary(entry) -> str:
    """First line of what the module of a block or a backbone says about itself."""
    return sys.modules[entry.__module__].__doc__.strip().splitlines()[0]


def preset_rows() -> list[tuple[str, ...]]:
    """What `list` shows of the papers' networks, by `PRESET_COLUMNS`."""
    rows = []
    for name, preset in models.presets().items():
        published, accuracy = preset.published, "-"
        if published is not None:
            accuracy = (
                f"{published.dataset} {published.top1:.2f} % ({published.certainty})"
            )
        parameters = f"{preset.parameters:10,}"
        adds = f"{preset.multiply_adds / 1e6:10,.1f} M"
        rows.append((name, parameters, adds, accuracy))
    return rows


def load_model(path: pathlib.Path) -> keras.Model:
    """Load a .keras file.

    Raises:
        ValueError: If it can't be loaded.
    """
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:
        # Zip, JSON and HDF5 readers, and the constructors of all layers, raise what
        # they like; for the user all of it means that this file is unusable.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"cannot load {path} as a Keras model: {reason[0]}") from error
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{path} holds a {type(model).__name__}, which is no functional or built "
            "Sequential model: its layers can't be seen from outside. Save "
            "keras.Model(inputs, model(inputs)) with inputs = keras.Input(shape)"
        )
    return model


def load_data(console: Console, spec: str, **arguments) -> ImageData:
    """`data.load`, with the damaged files that were skipped shown."""
    images = data.load(spec, **arguments)
    show_skipped(console, images)
    return images


def show_skipped(console: Console, images: ImageData) -> None:
    """Name the damaged files that were left out, if there are."""
    if images.skipped:
        console.print(f"[yellow]Skipped {len(images.skipped)} damaged image files:[/]")
        for skipped in images.skipped[:10]:
            console.print(f"  {skipped.reason}", markup=False, soft_wrap=True)
        if len(images.skipped) > 10:
            console.print("  ...")


def data_for(
    model: keras.Model,
    console: Console,
    spec: str,
    input_range: tuple[float, float] | None,
    *,
    labels_beside: pathlib.Path,
    **arguments,
) -> ImageData:
    """Load data in the size and the range that a model takes.

    Args:
        model: The model.
        console: Where skipped files are shown.
        spec: As of `data.load`.
        input_range: What byte 0 and byte 255 become, or None for the stored range.
        labels_beside: A file; if labels.txt stands beside it, the classes must agree.
        **arguments: For `data.load`.

    Returns:
        The data.

    Raises:
        ValueError: If the range or the size is unknown, or the classes differ.
    """
    stored = image_input.input_range_of(model)
    if input_range is None and stored is None:
        raise ValueError(
            f"{model.name} does not store its input range: pass --input-range LO HI, "
            "the values that byte 0 and byte 255 became in training"
        )
    shape = model.inputs[0].shape
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            f"{model.name} must take images of one size, (height, width, 3); it takes "
            f"{tuple(shape[1:])}"
        )
    images = load_data(
        console,
        spec,
        image_size=tuple(shape[1:3]),
        input_range=input_range or stored,
        **arguments,
    )
    labels = find_labels(labels_beside)
    if labels is not None and read_labels(labels) != list(images.labels):
        raise ValueError(
            f"the classes of the data are {', '.join(images.labels)}; those in "
            f"{labels} are {', '.join(read_labels(labels))}"
        )
    return images


def require_calibration(
    model: keras.Model, precision: str | None, spec: str | None
) -> None:
    """Check that `convert` has a use for data and an input range.

    Args:
        model: The model to convert.
        precision: one of `mobile.convert`, or None.
        spec: What --data says.

    Raises:
        ValueError: If they would be ignored, or the data is missing.
    """
    options = "--data, --input-range and --strict are for calibrating a float model"
    if is_quantized(model):
        raise ValueError(
            f"{options}; {model.name} is quantized already: leave them out"
        )
    if precision not in ("int8", "int16x8"):
        raise ValueError(
            f"{options}: add --precision int8 or int16x8, or leave them out"
        )
    if spec is None:
        raise ValueError(f"calibrating a float model for {precision} takes --data, too")


def find_labels(model_path: pathlib.Path) -> pathlib.Path | None:
    """The labels.txt beside a model file, if there is one."""
    labels = model_path.with_name(LABELS_FILE)
    return labels if labels.is_file() else None

"""The commands about training: train and evaluate."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_attention.cli_files import Data, InputRange, Json, Strict

# Classes that are shown; with more the table would push the figures off the screen.
_SHOWN = 30


def train(
    out: Annotated[pathlib.Path, typer.Option(help="Folder of the run.")],
    recipe: Annotated[
        str, typer.Option(help="A recipe's name, see 'list', or its .yaml file.")
    ] = "digits",
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Another value in the recipe, such as optimizer.lr=0.1; repeatable.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, folder:PATH, tfrecord:PATH or tfds:NAME."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Backbone or a paper's network, see 'list'.")
    ] = None,
    width: Annotated[
        float | None, typer.Option(help="Factor for the channels.")
    ] = None,
    attention: Annotated[
        str | None, typer.Option(help="Attention block, see 'list'; or 'none'.")
    ] = None,
    stem_stride: Annotated[
        int | None,
        typer.Option(
            min=1, max=2, help="Stride of the first convolution; 1 for small images."
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side in pixels.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes over the training images; warm-up and milestones scale along.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per batch, all devices together.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides weights, order and augmentation.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="none, mirrored, multi_worker or data_parallel; by default what the "
            "devices allow.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--restart",
            help="Go on from OUT/checkpoints, or remove them, OUT's logs and models.",
        ),
    ] = True,
    checkpoint_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Checkpoints after so many steps, too, besides every epoch.",
            show_default=False,
        ),
    ] = None,
    strict: Strict = False,
) -> None:
    """Train a recipe; a killed run goes on. OUT/model.keras is written at the end.

    What the recipe does not say the options do; they are short for --set.
    """
    from keras_attention import cli_inputs
    from keras_attention.console import EpochProgress
    from keras_attention.data import LABELS_FILE
    from keras_attention.training import trainer

    chosen = trainer.Recipe.load(recipe)
    short = {
        "data": data,
        "model.arguments.width": width,
        "model.attention": attention,
        "model.arguments.stem_stride": stem_stride,
        "image_size": image_size,
        "batch_size": batch_size,
        "optimizer.lr": learning_rate,
        "seed": seed,
        **_network(model),
        **_length(chosen, epochs),
    }
    given = [f"{k}={json.dumps(v)}" for k, v in short.items() if v is not None]
    chosen = chosen.replace([*given, *(changes or ())])
    console = Console(highlight=False)

    def show(images):
        cli_inputs.show_skipped(console, images)
        if chosen.cache:
            size = images.cache_bytes / 1e6
            console.print(f"The images take {size:,.0f} MB of memory")

    with EpochProgress(console) as bar:
        report = trainer.train(
            chosen,
            out,
            strategy=strategy,
            resume=resume,
            strict=strict,
            every_steps=checkpoint_steps,
            callbacks=[bar],
            on_data=show,
        )
    lines = [
        f"Accuracy of {name} on {found.count} test images: [bold]{found.top1:.2%}[/]"
        for name, found in (
            (trainer.MODEL, report.evaluation),
            (trainer.QUANTIZED, report.quantized),
        )
        if found is not None
    ]
    if report.wrote:
        lines.append(f"Wrote {out / trainer.MODEL} and {out / LABELS_FILE}")
    else:
        lines.append(f"The first host writes {out / trainer.MODEL}")
    console.print("\n".join(lines), soft_wrap=True)


def _network(name: str | None) -> dict[str, str]:
    from keras_attention import cli_inputs, models

    if name is None:
        return {}
    if name in models.presets():
        return {"model.preset": name}
    return {"model.backbone": cli_inputs.builder(name).__name__}


def _length(recipe, epochs: int | None) -> dict[str, Any]:
    """A recipe's schedule, stretched or shortened as a whole."""
    if epochs is None:
        return {}
    schedule, factor = recipe.schedule, epochs / recipe.epochs
    return {
        "epochs": epochs,
        "schedule.warmup_epochs": schedule.warmup_epochs * factor,
        "schedule.milestones": [max(1, round(e * factor)) for e in schedule.milestones],
    }


def evaluate(
    model: Annotated[
        pathlib.Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            metavar="MODEL",
            help="A .keras file, quantized or not, or a .tflite file.",
            show_default=False,
        ),
    ],
    data: Data,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Folder for evaluation.json, evaluation.html and the pictures.",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side in pixels, for a model of no fixed size.",
            show_default=False,
        ),
    ] = None,
    input_range: InputRange = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 32,
    bins: Annotated[
        int, typer.Option(min=1, help="Bins of the calibration error.")
    ] = 15,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Measure a model on the test images: accuracies, classes, calibration."""
    from keras_attention import cli_inputs, files
    from keras_attention.console import working
    from keras_attention.training import evaluation, run_report

    console = Console(highlight=False, stderr=as_json)
    if out is not None:
        files.require_writable(out / "evaluation.json")
    network, like, labels = _opened(model, image_size)
    images = cli_inputs.data_for(
        like,
        console,
        data,
        input_range,
        labels_beside=model,
        batch_size=batch_size,
        strict=strict,
    )
    if labels is not None and labels != list(images.labels):
        raise ValueError(
            f"the classes of the data are {', '.join(images.labels)}; those of {model} "
            f"are {', '.join(labels)}"
        )
    with working(console, f"Running {escape(str(model))} on {images.test_size} images"):
        report = evaluation.evaluate(network, images, bins=bins)
    report = dataclasses.replace(report, model=str(model))
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        _show(console, report)
    if out is not None:
        run_report.write_evaluation(out, report)
        console.print(
            f"Wrote evaluation.json, evaluation.html, confusion_matrix.png and "
            f"reliability.png to [bold]{escape(str(out))}[/]",
            soft_wrap=True,
        )


def _opened(path: pathlib.Path, image_size: int | None):
    """What to evaluate, what stands for it in `data_for`, and its class names.

    Raises:
        ValueError: If it is no model, or takes images of another size.
    """
    import keras

    from keras_attention import cli_inputs, image_input
    from keras_attention.mobile import litert

    labels = None
    if path.suffix == ".keras":
        network = cli_inputs.load_model(path)
        shape = network.inputs[0].shape[1:]
        input_range = image_input.input_range_of(network)
    elif path.suffix == ".tflite":
        network = path
        shape = litert.File(path).inputs[0].shape[1:]
        shape = tuple(None if side < 0 else side for side in shape)
        described = _sidecar(path)
        byte = described["inputs"][0]["byte"] if described else None
        input_range = (byte["low"], byte["high"]) if byte else None
        labels = described["labels"] if described else None
    else:
        raise ValueError(f"MODEL must end in .keras or .tflite, got {path}")
    if image_size is not None:
        fixed = [side for side in shape[:2] if side not in (None, image_size)]
        if fixed:
            raise ValueError(
                f"{path} takes images of {' x '.join(map(str, shape[:2]))} pixels: "
                "leave --image-size out"
            )
        shape = (image_size, image_size, *shape[2:])
    # A model without layers, which takes what the file takes.
    if input_range is None:
        x = keras.Input(shape)
    else:
        x = image_input.make_input(shape, input_range)
    return network, keras.Model(x, x, name=path.name), labels


def _sidecar(path: pathlib.Path) -> dict[str, Any] | None:
    """What `convert` wrote about this very .tflite file, if it did."""
    from keras_attention.mobile import sidecar

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # A twin's stands beside the file whose twin it is.
    for name in (path.name, path.name.replace("_uint8.tflite", ".tflite")):
        content = sidecar.read(sidecar.path_of(path.with_name(name)))
        if content and digest in {file["sha256"] for file in content["files"]}:
            return content
    return None


def _show(console: Console, report) -> None:
    from keras_attention.training import run_report

    fifth = "" if report.top5 is None else f", top-5 [bold]{report.top5:.2%}[/]"
    console.print(
        f"\nTop-1 [bold]{report.top1:.2%}[/]{fifth} of {report.count:,} test images\n"
        f"Negative log-likelihood {report.loss:.4f}, expected calibration error "
        f"{report.calibration_error:.4f} ({report.outputs}, {len(report.bins)} bins)\n",
        soft_wrap=True,
    )
    title, rows = run_report.class_rows(report, _SHOWN)
    console.print(_table(title, run_report.CLASS_COLUMNS, rows))
    if report.confused:
        rows = run_report.mistake_rows(report)
        table = _table("Most frequent mistakes", run_report.MISTAKE_COLUMNS, rows)
        console.print("", table)


def _table(title, heads, rows) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for head in heads:
        names = head in ("class", "taken for")
        table.add_column(head, justify="left" if names else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table

"""The command line: keras-attention demo, train, ..., benchmark, list.

Every command is a few calls of the library. What the library or the system refuses is
shown as one line (--traceback shows all of it); exit status 1, or 2 if the
command line itself is wrong. Imports that take long stand inside the commands.
"""

import pathlib
import re
from typing import Annotated

import typer
import typer.core
from rich.console import Console
from rich.markup import escape

from keras_attention import cli_files, cli_training
from keras_attention.cli_files import Data, InputRange, Strict

Keras = Annotated[
    pathlib.Path,
    typer.Argument(
        exists=True, dir_okay=False, metavar="MODEL.keras", show_default=False
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch.")]
Rate = Annotated[float, typer.Option(help="Highest learning rate.")]
Seed = Annotated[int, typer.Option(help="Decides initial weights and augmentation.")]


class _Commands(typer.core.TyperGroup):
    """Shows errors that a user can act on as one line."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            # A wrong command line can format its own message.
            if ctx.params.get("traceback") or hasattr(error, "format_message"):
                raise
            text = _one_line(error)
            Console(stderr=True, soft_wrap=True, highlight=False).print(
                f"[bold red]Error:[/] {escape(text)}"
            )
            raise typer.Exit(1) from None


def _one_line(error: Exception) -> str:
    """What went wrong; also whose error it is where that is not this package's way."""
    text = str(error)
    if isinstance(error, OSError | RuntimeError | ValueError):
        return " ".join(text.split()) or type(error).__name__
    # TensorFlow wraps what Python raised for it into pages about operations.
    inner = re.search(
        r"^\s*(?:\{\{.*\}\} )?(\w+(?:Error|Exception): .*)", text, re.MULTILINE
    )
    found = inner[1] if inner else f"{type(error).__name__}: {text.strip()}"
    return f"{found.splitlines()[0]} (--traceback before the command shows more)"


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console(highlight=False)


@app.callback()
def _options(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from.")
    ] = False,
) -> None:
    """Attention blocks for CNNs in Keras 3, up to a verified full-int8 .tflite file."""


@app.command()
def demo(
    out: Annotated[pathlib.Path, typer.Option(help="Folder for the results.")] = (
        pathlib.Path("demo_out")
    ),
    epochs: Annotated[int, typer.Option(min=1, hidden=True)] = 30,
    finetune_epochs: Annotated[int, typer.Option(min=1, hidden=True)] = 3,
    seed: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Train, quantize, convert and verify a network on handwritten digits.

    MobileNetV2 with CoordAttention, from nothing to a full-int8 .tflite file that is
    checked against Keras on 360 test images. OUT/report.html shows what came out.
    """
    from keras_attention import demo as demonstration

    demonstration.run(
        out,
        console,
        epochs=epochs,
        finetune_epochs=finetune_epochs,
        seed=seed,
    )


app.command()(cli_training.train)


@app.command()
def quantize(
    model: Keras,
    data: Data,
    out: Annotated[pathlib.Path, typer.Option(help="The quantized .keras file.")],
    scheme: Annotated[
        str, typer.Option(help="int8, int16x8, or weights (activations in float).")
    ] = "int8",
    input_range: InputRange = None,
    epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of fine-tuning after the calibration.")
    ] = 0,
    batch_size: BatchSize = 32,
    learning_rate: Rate = 5e-5,
    seed: Seed = 0,
    strict: Strict = False,
) -> None:
    """Calibrate and, with --epochs, fine-tune a model under quantization."""
    from keras_attention import cli_inputs, files, mobile, training
    from keras_attention.console import EpochProgress, working
    from keras_attention.data import LABELS_FILE, write_labels

    target = files.require_writable(_with_suffix(out, ".keras"))
    network = cli_inputs.load_model(model)
    images = cli_inputs.data_for(
        network,
        console,
        data,
        input_range,
        labels_beside=model,
        batch_size=batch_size,
        seed=seed,
        strict=strict,
    )
    training.require_match(network, images)
    # The ranges settle in the first half, the weights adapt to them in the second.
    half = epochs * images.steps_per_epoch // 2
    with working(console, "Calibrating"):
        quantized = mobile.quantize(
            network,
            images.calibration,
            scheme=scheme,
            input_range=input_range,
            **({"freeze_after": max(1, half)} if epochs else {}),
        )
    if epochs:
        with EpochProgress(console, "Fine-tuning as quantized") as bar:
            training.finetune_quantized(
                quantized,
                network,
                images,
                epochs=epochs,
                learning_rate=learning_rate,
                callbacks=[bar],
            )
    with working(console, f"Evaluating on {images.test_size} test images"):
        before = training.accuracy(network, images.test)
        after = training.accuracy(quantized, images.test)
    with files.replacing(target) as temporary:
        quantized.save(temporary)
    write_labels(target.with_name(LABELS_FILE), images.labels)
    console.print(
        f"Accuracy: float {before:.2%}, quantized [bold]{after:.2%}[/]\nWrote {target}"
    )


@app.command()
def convert(
    model: Keras,
    out: Annotated[pathlib.Path, typer.Option(help="The .tflite file.")],
    precision: Annotated[
        str | None,
        typer.Option(
            help="int8, int16x8, dynamic, float16 or float32; by default what the "
            "model was made for."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="To calibrate a float model for int8.")
    ] = None,
    input_range: InputRange = None,
    labels: Annotated[
        pathlib.Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Class names, one a line; by default labels.txt beside the model.",
        ),
    ] = None,
    softmax: Annotated[
        bool, typer.Option("--softmax", help="Append a softmax to the first output.")
    ] = False,
    attention_outputs: Annotated[
        bool, typer.Option("--attention-outputs", help="Append the attention gates.")
    ] = False,
    strict: Strict = False,
) -> None:
    """Write a model as a .tflite file of batch 1, checked for phones."""
    from keras_attention import cli_inputs, files, mobile
    from keras_attention.console import working

    files.require_writable(_with_suffix(out, ".tflite"))
    network = cli_inputs.load_model(model)
    if data is not None or input_range is not None or strict:
        cli_inputs.require_calibration(network, precision, data)
        images = cli_inputs.data_for(
            network, console, data, input_range, labels_beside=model, strict=strict
        )
        with working(console, "Calibrating"):
            network = mobile.quantize(
                network, images.calibration, scheme=precision, input_range=input_range
            )
    with working(console, "Converting"):
        report = mobile.convert(
            network,
            out,
            precision=precision,
            labels=labels or cli_inputs.find_labels(model),
            softmax=softmax,
            attention_outputs=attention_outputs,
        )
    console.print(str(report), markup=False, soft_wrap=True)


app.command()(cli_training.evaluate)
app.command()(cli_files.verify)
app.command()(cli_files.inspect)
app.command()(cli_files.benchmark)


@app.command(name="list")
def list_() -> None:
    """Show the attention blocks, the backbones, the papers' networks, the recipes."""
    from rich.table import Table

    import keras_attention
    from keras_attention import cli_inputs, registry
    from keras_attention.training import recipe_files

    blocks = {name: registry.class_of(name) for name in keras_attention.names()}
    for title, entries in (
        ("Attention blocks", blocks),
        ("Backbones", cli_inputs.backbones()),
    ):
        table = Table("name", "what it is", title=title, title_justify="left", box=None)
        for name, entry in entries.items():
            table.add_row(name, escape(cli_inputs.summary(entry)))
        console.print(table, "")
    title = "Networks of the papers (models.preset)"
    table = Table(
        *cli_inputs.PRESET_COLUMNS, title=title, title_justify="left", box=None
    )
    for row in cli_inputs.preset_rows():
        table.add_row(*map(escape, row))
    console.print(table, "")
    title = "Recipes (train --recipe)"
    table = Table("name", "what it is", title=title, title_justify="left", box=None)
    for name in recipe_files.names():
        table.add_row(name, escape(recipe_files.summary(name)))
    console.print(table)


def _with_suffix(path: pathlib.Path, suffix: str) -> pathlib.Path:
    if path.suffix != suffix:
        raise ValueError(f"--out must end in {suffix}, got {path}")
    return path


def main() -> None:
    """Run the command line; the entry point of the `keras-attention` script."""
    app(prog_name="keras-attention")


if __name__ == "__main__":
    main()

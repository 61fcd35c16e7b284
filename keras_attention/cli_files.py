"""The commands that look at .tflite files: verify, inspect and benchmark."""

import json
import pathlib
from typing import Annotated

import typer
from rich.console import Console

File = Annotated[
    pathlib.Path,
    typer.Argument(
        exists=True, dir_okay=False, metavar="MODEL.tflite", show_default=False
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="digits, folder:PATH (one sub-folder per class), tfrecord:PATH or "
        "tfds:NAME."
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Fail on a damaged image instead of skipping it."),
]
InputRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="LO HI",
        help="What byte 0 and byte 255 become; by default what the model stores.",
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print all figures as JSON and nothing else.")
]


def verify(
    file: File,
    against: Annotated[
        pathlib.Path,
        typer.Option(exists=True, dir_okay=False, help="The .keras it was made from."),
    ],
    data: Data,
    input_range: InputRange = None,
    reference_samples: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Images that run on LiteRT's reference kernels, too; by default 100 "
            "for an integer file.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        int,
        typer.Option(min=0, help="Layers to name, those that differ most from Keras."),
    ] = 5,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Run a .tflite file on the test images and compare it with its Keras model."""
    from keras_attention import cli_inputs, mobile
    from keras_attention.console import working

    console = Console(highlight=False, stderr=as_json)
    network = cli_inputs.load_model(against)
    images = cli_inputs.data_for(
        network, console, data, input_range, labels_beside=file, strict=strict
    )
    with working(console, f"Running {file} on {images.test_size} test images"):
        report = mobile.verify(
            file,
            against=network,
            data=images.test,
            reference_samples=reference_samples,
            worst_layers=layers,
        )
    _show(report, as_json)


def inspect(
    file: File,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List the scale of every tensor, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what a .tflite file holds, what it costs and what XNNPACK does not take."""
    from keras_attention import mobile

    report = mobile.inspect(file)
    _show(report, as_json)
    if tensors and not as_json:
        _line("", "dtype  zero point  scale(s)                 shape           name")
        for tensor in report.tensors:
            _line(_row(tensor))


def benchmark(
    file: File,
    baseline: Annotated[
        pathlib.Path | None,
        typer.Option(exists=True, dir_okay=False, help="A file to compare it with."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs of each file.")] = 100,
    warmup: Annotated[int, typer.Option(min=0, help="Uncounted runs before.")] = 10,
    as_json: Json = False,
) -> None:
    """Measure the latency of a .tflite file on this computer, also against another."""
    from keras_attention import mobile

    report = mobile.benchmark(
        file, baseline=baseline, num_threads=threads, runs=runs, warmup=warmup
    )
    _show(report, as_json)


def _show(report, as_json):
    _line(json.dumps(report.to_dict(), indent=1) if as_json else str(report))


def _line(*lines):
    # Not by rich: nothing is wrapped or coloured, so that it can be searched and read
    # by other programs.
    for line in lines:
        typer.echo(line)


def _row(tensor):
    zero_point = "differ" if tensor.zero_point is None else tensor.zero_point
    scale = f"{tensor.smallest_scale:.4g}"
    if tensor.scales > 1:
        scale += f" to {tensor.largest_scale:.4g}"
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{tensor.dtype:5} {zero_point:>11}  {scale:23}  {shape:14}  {tensor.name}"

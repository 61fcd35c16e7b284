"""The commands that look at .tflite files of any origin: inspect and benchmark."""

import json
import pathlib
from typing import Annotated

import typer

File = Annotated[
    pathlib.Path,
    typer.Argument(
        exists=True, dir_okay=False, metavar="MODEL.tflite", show_default=False
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print all figures as JSON and nothing else.")
]


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

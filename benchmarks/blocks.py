"""What the attention blocks cost: parameters, multiply-adds, training, .tflite files.

    python benchmarks/blocks.py [--write docs/blocks.md] [--only se eca] [--skip ...]

Every time is a ratio to a 3x3 convolution C -> C on a map of the same shape, or to
another form of the same block, measured in turns in the same run: processor time of
the fastest runs (see `_timing`). A port is the block as its paper publishes it
(`ports`), on the same random, live weights; both give the same outputs.
"""

import argparse
import inspect
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _counting
import _page
import _timing
import _weights
import keras
import numpy as np
import ports
import tensorflow as tf
from _machine import processor
from formulas import FORMULAS

import keras_attention
from keras_attention import mobile
from keras_attention.weights.torch_state import torch_parameters

PORTS = {
    "coord": ports.coord_attention,
    "ema": ports.efficient_multiscale_attention,
    "a2": ports.double_attention,
    "aw": ports.aw_conv2d,
}
MAPS = ((56, 56, 96), (14, 14, 384))
BATCH = 8

# int8 latency: block, arguments, map, what it is compared with, the most it may take.
LIMITS = (
    ("ema", {}, (56, 56, 96), "int8 convolution", 0.90),
    ("ema", {}, (28, 28, 192), "int8 convolution", 0.50),
    ("ema", {}, (14, 14, 384), "int8 convolution", 0.30),
    (
        "a2",
        {"value_channels": 128, "attention_channels": 128},
        (28, 28, 512),
        "float32 port",
        0.50,
    ),
    ("aw", {}, (14, 14, 256), "int8 convolution", 1.85),
    ("aw", {}, (14, 14, 256), "float32", 1.0),
)


# Why a block's int8 file may take longer than its float32 file.
_PRODUCT = (
    "nearly all of it is the product with the full map, which alone takes over twice "
    "as long in int8 (below): each result is scaled, rounded and packed"
)
SLOWER = dict.fromkeys(("coord", "se", "eca", "cbam", "ge"), _PRODUCT) | {
    "ema": "three products and a sum of the full map, and an exponential and a softmax "
    "that XNNPACK does not take, beside a dense convolution of few channels",
    "simam": "four products of the full map and a depthwise 1x1 convolution of it",
    "nam": "a depthwise 1x1 convolution of the full map and a product with it are all",
}


def make(name, channels, **arguments):
    """Returns a block for so many channels, AWConv2D as a 3x3 convolution C -> C."""
    return keras_attention.get(name, **FORMULAS[name].arguments(channels) | arguments)


def live(layer, shape, seed=0):
    """Builds a block and gives it random weights."""
    layer.build((None, *shape))
    parameters = torch_parameters(layer).values()
    _weights.randomize([parameter.variable for parameter in parameters], seed)
    return layer


def convolution(channels):
    return keras.layers.Conv2D(channels, 3, padding="same", use_bias=False)


class Lines(list):
    """The lines of the page, printed as they come."""

    def append(self, line):
        """Appends a line."""
        print(line, flush=True)
        super().append(line)

    def part(self, title, *head):
        """Begins a part with the head of a table."""
        for line in ("", f"### {title}", "", *head):
            self.append(line)


def require(condition, message):
    if not condition:
        raise SystemExit(f"blocks.py: {message}")


def counts(names, lines):
    """Appends the table of parameters and multiply-adds."""
    lines.part(
        "Parameters and multiply-adds",
        "| block | map | parameters | multiply-adds (M), as published "
        "| training form | mobile form | 3x3 convolution |",
        "|---|---|---|---|---|---|---|",
    )
    for name in names:
        formula = FORMULAS[name]
        for shape in MAPS:
            layer = live(make(name, shape[-1]), shape)
            counted = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
            parameters, adds = formula.parameters(*shape), formula.adds(*shape)
            require(counted == parameters, f"{name}: {counted}, not {parameters}")
            x = keras.Input(shape)
            deployed = mobile.deploy(keras.Model(x, layer(x)))
            forms = [layer, deployed, live_convolution(shape)]
            found = [_counting.multiply_adds(form, (1, *shape)) for form in forms]
            published = found[0]
            if name in PORTS:
                # called as in training, but with what is static at a batch of 1
                def port(y, layer=layer, name=name):
                    return PORTS[name](layer, y)

                published = _counting.multiply_adds(port, (1, *shape))
            if name in PORTS or not formula.differs:
                close = abs(published - adds) <= 0.001 * adds
                require(close, f"{name} takes {published} multiply-adds, not {adds}")
            shown = " | ".join(f"{n / 1e6:.3f}" for n in (adds, *found))
            lines.append(f"| {name} | {size_of(shape)} | {parameters} | {shown} |")


def size_of(shape):
    return "x".join(map(str, shape))


def live_convolution(shape):
    conv = convolution(shape[-1])
    conv.build((None, *shape))
    return conv


def training(names, lines, turns):
    """Appends the table of forward and forward+backward times on TensorFlow."""
    lines.part(
        "Training on TensorFlow (to port: up to 1.05 is the noise of a run)",
        f"| block | map, batch {BATCH} | forward, to 3x3 convolution | to port "
        "| forward+backward, to 3x3 convolution | to port |",
        "|---|---|---|---|---|---|",
    )
    slower = []
    for shape in MAPS:
        x = tf.random.normal((BATCH, *shape), seed=1)
        conv = _steps(live_convolution(shape), x)
        for name in names:
            layer = live(make(name, shape[-1]), shape)
            functions = {"conv": conv, name: _steps(layer, x)}
            if name in PORTS:
                functions["port"] = _steps(layer, x, PORTS[name])
                _require_equal(name, layer, x)
            times = _interleaved(functions, turns)
            row = [name, size_of(shape)]
            for step in (0, 1):
                mine, port = times[name][step], times.get("port", [None] * 2)[step]
                row += [f"{mine / times['conv'][step]:.2f}"]
                row += [f"{mine / port:.2f}" if port else "-"]
                if port and mine / port > 1.05:  # the noise of a run
                    slower.append(f"{name} at {row[1]}: {row[-1]} of the port")
            lines.append("| " + " | ".join(row) + " |")
    return slower


def _require_equal(name, layer, x):
    expected, actual = PORTS[name](layer, x, training=True), _train(layer, x)
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    require(error <= 1e-5, f"{name} differs from its port by {error:.1e}")


def _train(layer, x):
    takes = "training" in inspect.signature(layer.call).parameters
    return layer(x, training=True) if takes else layer(x)


def _steps(layer, x, port=None):
    """Returns compiled functions: forward, and forward with all gradients."""
    values = [variable.value for variable in layer.trainable_variables]

    def apply():
        return port(layer, x, training=True) if port else _train(layer, x)

    @tf.function
    def forward():
        return tf.reduce_sum(apply())

    @tf.function
    def both():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(apply()))
        return tape.gradient(loss, [x, values])

    return forward, both


def _interleaved(functions, rounds):
    """Returns {name: [processor seconds of the fastest forward, and of both]}."""
    times = {name: [np.inf, np.inf] for name in functions}
    for turn in range(rounds + 1):
        for name, pair in functions.items():
            for step, function in enumerate(pair):
                function()  # brings its data back into the caches
                begin = time.process_time()
                tf.nest.map_structure(lambda t: t.numpy(), function())
                if turn:  # the first run traces
                    spent = time.process_time() - begin
                    times[name][step] = min(times[name][step], spent)
    return times


def files(names, lines, processes, rounds):
    """Appends the latencies of all blocks; returns which are slow for no reason."""
    lines.part(
        "Files, one thread, batch 1",
        "| block | map | int8, to int8 3x3 convolution | float32, to float32 one "
        "| int8, to own float32 [95 %] | partitions | outside of XNNPACK |",
        "|---|---|---|---|---|---|---|",
    )
    slow, missed = [], []
    for name in names:
        for shape in MAPS:
            with tempfile.TemporaryDirectory() as folder:
                paths = write(live(make(name, shape[-1]), shape), shape, folder)
                times = _timing.interleaved(paths, processes, rounds, 4)
                partitions, outside = _timing.delegation(_timing.load(paths["int8"]))
            ratio = _timing.estimate(times["int8"] / times["float32"])
            row = [name, size_of(shape)]
            for kind in ("int8", "float32"):
                to_conv = _timing.estimate(times[kind] / times[f"{kind} convolution"])
                row.append(f"{to_conv.value:.3f}")
            shown = ", ".join(f"{n} {kind}" for kind, n in sorted(outside.items()))
            row += [str(ratio), str(partitions), shown or "-"]
            lines.append("| " + " | ".join(row) + " |")
            if ratio.value > 1:
                why = SLOWER.get(name)
                slow.append(f"- `{name}` at {row[1]}, {ratio.value:.2f}: {why}")
                if why is None:
                    missed.append(f"{name} at {row[1]}: int8 {ratio} of float32")
    lines.part("Slower in int8 than in float32, and why")
    for line in slow or ["None."]:
        lines.append(line)
    for shape in MAPS:
        with tempfile.TemporaryDirectory() as folder:
            times = _timing.interleaved(
                write_product(shape, folder), processes, rounds, 8
            )
        ratio = _timing.estimate(times["int8"] / times["float32"])
        lines.append(
            f"- a product with a value per channel alone, {size_of(shape)}: {ratio}"
        )
    return missed


def limits(lines, processes, rounds):
    """Appends the table of latencies that have limits; returns what is missed."""
    lines.part(
        "Limits that these blocks keep",
        "| block | map | int8, to | ratio [95 %] | at most |",
        "|---|---|---|---|---|",
    )
    missed = []
    for name, arguments, shape, rival, most in LIMITS:
        layer = live(make(name, shape[-1], **arguments), shape)
        with tempfile.TemporaryDirectory() as folder:
            port = PORTS[name] if rival == "float32 port" else None
            paths = write(layer, shape, folder, port)
            paths = {kind: paths[kind] for kind in ("int8", rival)}
            times = _timing.interleaved(paths, processes, rounds, 8)
        ratio = _timing.estimate(times["int8"] / times[rival])
        verdict = f"{most:.2f}" + ("" if ratio.value <= most else ", NOT met")
        if ratio.value > most:
            missed.append(f"{name} at {size_of(shape)} to {rival}: {ratio}, not {most}")
        lines.append(f"| {name} | {size_of(shape)} | {rival} | {ratio} | {verdict} |")
    return missed


def write_product(shape, folder):
    """Writes files of the product of a map and a value per channel, as `write`."""
    shapes = (shape, (1, 1, shape[-1]))
    x, gate = map(keras.Input, shapes)
    model = keras.Model([x, gate], x * gate)
    rng = np.random.default_rng(1)
    data = [rng.normal(0, 1, (4, *size)).astype("float32") for size in shapes]
    paths = {
        kind: str(pathlib.Path(folder, f"{kind}.tflite"))
        for kind in ("int8", "float32")
    }
    mobile.convert(mobile.quantize(model, data), paths["int8"])
    mobile.convert(model, paths["float32"])
    return paths


def write(layer, shape, folder, port=None):
    """Writes the files of a block and of a 3x3 convolution, int8 and float32.

    Returns:
        {what it is: path}.
    """
    data = np.random.default_rng(1).normal(0, 1, (4, *shape)).astype("float32")
    data = np.clip(data, 0, 6)
    functions = {"": layer, " convolution": live_convolution(shape)}
    if port:
        functions[" port"] = ports.Port(port, layer)
    paths = {}
    for what, function in functions.items():
        x = keras.Input(shape)
        model = keras.Model(x, function(x))
        for kind in ("int8", "float32"):
            if (kind, what) == ("int8", " port"):
                continue
            path = paths[kind + what] = str(
                pathlib.Path(folder, f"{kind}{what}.tflite")
            )
            quantized = mobile.quantize(model, data) if kind == "int8" else model
            mobile.convert(quantized, path)
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", help="the page to put the tables into")
    parser.add_argument("--only", nargs="+", choices=FORMULAS, default=list(FORMULAS))
    tables = ("counts", "training", "files", "limits")
    parser.add_argument("--skip", nargs="+", choices=tables, default=[])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turns", type=int, default=25)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    names, files_of = arguments.only, (arguments.processes, arguments.rounds)
    lines, missed = Lines(), []
    lines.append(f"Measured on {processor()}.")
    if "counts" not in arguments.skip:
        counts(names, lines)
    if "training" not in arguments.skip:
        missed += training(names, lines, arguments.turns)
    if "files" not in arguments.skip:
        missed += files(names, lines, *files_of)
    if "limits" not in arguments.skip:
        missed += limits(lines, *files_of)
    print("\nNot met:", "; ".join(missed) or "nothing")
    if arguments.write:
        _page.put(arguments.write, "tables", lines)
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()

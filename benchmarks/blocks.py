"""What the attention blocks cost: parameters, multiply-adds, training, .tflite files.

    python benchmarks/blocks.py [--write docs/blocks.md] [--skip-training]

Every time is a ratio to a 3x3 convolution C -> C on a map of the same shape, or to
another form of the same block, measured in turns in the same run: processor time of
the fastest runs (see `_timing`). A port is the block as its paper publishes it
(`ports`), on the same random, live weights; both give the same outputs.
"""

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _counting
import _timing
import keras
import numpy as np
import ports
import tensorflow as tf
from coord_attention_overhead import processor

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

# Trainable parameters and multiply-adds (height, width, channels) -> number, as in the
# layers' docstrings, with the arguments of `make`.
FORMULAS = {
    "coord": (
        lambda c: 3 * c * _m(c) + 3 * _m(c) + 2 * c,
        lambda h, w, c: 2 * (h + w) * c * _m(c),
    ),
    "ema": (
        lambda c: 10 * (c // 32) ** 2 + 4 * (c // 32),
        lambda h, w, c: h * w * (9 * c * (c // 32) + 2 * c) + (h + w) * c * (c // 32),
    ),
    "a2": (
        lambda c: 2 * c * c + 5 * c // 2,
        lambda h, w, c: 2 * h * w * c * c + h * w * c * c // 2,
    ),
    "aw": (
        lambda c: 9 * c * c + 2 * c * (c // 16) + 2 * (c // 16) + 2 * c,
        lambda h, w, c: 9 * h * w * c * c + 18 * c * (c // 16),
    ),
}

# int8 latency: block, arguments, map, what it is compared with, the most it may take.
FILES = (
    ("ema", {}, (56, 56, 96), "conv", 0.90),
    ("ema", {}, (28, 28, 192), "conv", 0.50),
    ("ema", {}, (14, 14, 384), "conv", 0.30),
    (
        "a2",
        {"value_channels": 128, "attention_channels": 128},
        (28, 28, 512),
        "port float32",
        0.50,
    ),
    ("aw", {}, (14, 14, 256), "conv", 1.85),
    ("aw", {}, (14, 14, 256), "float32", 1.0),
)


def _m(channels):
    return max(8, channels // 32)


def make(name, channels, **arguments):
    """Returns a block for so many channels, AWConv2D as a 3x3 convolution C -> C."""
    if name == "aw":
        arguments |= {"filters": channels, "kernel_size": 3, "padding": "same"}
        arguments |= {"use_bias": False}
    return keras_attention.get(name, **arguments)


def live(layer, shape, seed=0):
    """Builds a block and gives it random weights: initial ones gate nothing."""
    layer.build((None, *shape))
    rng = np.random.default_rng(seed)
    for parameter in torch_parameters(layer).values():
        variable = parameter.variable
        size = tuple(variable.shape)
        if len(size) > 1:
            value = rng.normal(0, 1.5 / np.sqrt(np.prod(size[:-1])), size)
        elif variable.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, size)
        else:
            value = rng.normal(0, 0.3, size)
        variable.assign(value)
    return layer


def convolution(channels):
    return keras.layers.Conv2D(channels, 3, padding="same", use_bias=False)


def require(condition, message):
    if not condition:
        raise SystemExit(f"blocks.py: {message}")


def counts(lines):
    """Appends the table of parameters and multiply-adds."""
    lines += [
        "| block | map | parameters: formula | counted | multiply-adds (M), as "
        "published: formula | port, counted | training form, counted "
        "| mobile form, counted | 3x3 convolution |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (parameters, adds) in FORMULAS.items():
        for shape in MAPS:
            layer = live(make(name, shape[-1]), shape)
            counted = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
            x = keras.Input(shape)
            deployed = mobile.deploy(keras.Model(x, layer(x)))
            forms = [
                # called as in training, but with what is static at a batch of 1
                lambda y, layer=layer, name=name: PORTS[name](layer, y),
                layer,
                deployed,
                live_convolution(shape),
            ]
            found = [_counting.multiply_adds(form, (1, *shape)) for form in forms]
            require(counted == parameters(shape[-1]), f"{name} has {counted} weights")
            formula = adds(*shape)
            require(
                abs(found[0] - formula) <= 0.001 * formula,
                f"{name} takes {found[0]}, not {formula}",
            )
            shown = " | ".join(f"{n / 1e6:.2f}" for n in (formula, *found))
            size = "x".join(map(str, shape))
            lines.append(
                f"| {name} | {size} | {parameters(shape[-1])} | {counted} | {shown} |"
            )


def live_convolution(shape):
    conv = convolution(shape[-1])
    conv.build((None, *shape))
    return conv


def training(lines, rounds):
    """Appends the table of forward and forward+backward times on TensorFlow."""
    lines += [
        f"| block | map, batch {BATCH} | forward, to 3x3 convolution | to port "
        "| forward+backward, to 3x3 convolution | to port |",
        "|---|---|---|---|---|---|",
    ]
    slower = []
    for shape in MAPS:
        x = tf.random.normal((BATCH, *shape), seed=1)
        conv = live_convolution(shape)
        functions = {"conv": _steps(lambda y, conv=conv: conv(y), x, conv)}
        for name, port in PORTS.items():
            layer = live(make(name, shape[-1]), shape)

            def ported(y, layer=layer, port=port):
                return port(layer, y, training=True)

            def own(y, layer=layer, name=name):
                return layer(y, training=True) if name != "ema" else layer(y)

            expected, actual = ported(x), own(x)
            error = np.abs(actual - expected).max() / np.abs(expected).max()
            require(error <= 1e-5, f"{name} differs from its port by {error:.1e}")
            functions[name] = _steps(own, x, layer)
            functions[f"{name} port"] = _steps(ported, x, layer)
        times = _interleaved(functions, rounds)
        size = "x".join(map(str, shape))
        for name in PORTS:
            row = [name, size]
            for step in (0, 1):
                mine = times[name][step]
                to_port = mine / times[f"{name} port"][step]
                row += [f"{mine / times['conv'][step]:.2f}", f"{to_port:.2f}"]
                if to_port > 1.05:  # the noise of a run
                    slower.append(f"{name} at {size}: {to_port:.2f} of the port")
            lines.append("| " + " | ".join(row) + " |")
    return slower


def _steps(function, x, layer):
    """Returns compiled functions: forward, and forward with all gradients."""
    values = [variable.value for variable in layer.trainable_variables]

    @tf.function
    def forward():
        return tf.reduce_sum(function(x))

    @tf.function
    def both():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(function(x)))
        return tape.gradient(loss, [x, values])

    return forward, both


def _interleaved(functions, rounds):
    """Returns {name: [processor seconds of the fastest forward, and of both]}."""
    times = {name: [np.inf, np.inf] for name in functions}
    for turn in range(rounds + 1):
        for name, pair in functions.items():
            for step, function in enumerate(pair):
                begin = time.process_time()
                tf.nest.map_structure(lambda t: t.numpy(), function())
                if turn:  # the first run traces
                    spent = time.process_time() - begin
                    times[name][step] = min(times[name][step], spent)
    return times


def files(lines, processes, rounds):
    """Appends the table of latencies of .tflite files; returns what is missed."""
    lines += [
        "| block | map | int8, to | ratio [95 %] | at most | partitions "
        "| outside of XNNPACK |",
        "|---|---|---|---|---|---|---|",
    ]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments, shape, rival, most in FILES:
            folder_ = pathlib.Path(folder, f"{name}_{shape[0]}_{rival.split()[0]}")
            folder_.mkdir()
            paths = _write(name, arguments, shape, rival, folder_)
            times = _timing.interleaved(paths, processes, rounds, 8)
            ratio = _timing.estimate(times["int8"] / times["rival"])
            partitions, outside = _timing.delegation(_timing.load(paths["int8"]))
            shown = ", ".join(f"{n} {kind}" for kind, n in sorted(outside.items()))
            size = "x".join(map(str, shape))
            verdict = f"{most:.2f}" + ("" if ratio.value <= most else ", NOT met")
            if ratio.value > most:
                missed.append(f"{name} at {size} to {rival}: {ratio}, not {most}")
            against = {"conv": "int8 3x3 convolution", "float32": "its own float32"}
            lines.append(
                f"| {name} | {size} | {against.get(rival, 'plain form, float32')} "
                f"| {ratio} | {verdict} | {partitions} | {shown or '-'} |"
            )
    return missed


def _write(name, arguments, shape, rival, folder):
    """Writes the int8 file of a block, and that of its rival."""
    layer = live(make(name, shape[-1], **arguments), shape)
    data = np.random.default_rng(1).normal(0, 1, (4, *shape)).astype("float32")
    data = np.clip(data, 0, 6)

    def model(function):
        x = keras.Input(shape)
        return keras.Model(x, function(x))

    paths = {kind: str(folder / f"{kind}.tflite") for kind in ("int8", "rival")}
    own = model(layer)
    mobile.convert(mobile.quantize(own, data), paths["int8"])
    if rival == "conv":
        mobile.convert(
            mobile.quantize(model(live_convolution(shape)), data), paths["rival"]
        )
    else:
        if rival != "float32":
            own = model(ports.Port(PORTS[name], layer))
        mobile.convert(own, paths["rival"])
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", help="the page to put the tables into")
    parser.add_argument("--skip-training", action="store_true")
    parser.add_argument("--processes", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    lines, missed = [f"Measured on {processor()}.", ""], []
    counts(lines)
    if not arguments.skip_training:
        lines.append("")
        missed += training(lines, arguments.rounds)
    lines.append("")
    missed += files(lines, arguments.processes, arguments.rounds)
    print("\n".join(lines))
    print("\nNot met:", "; ".join(missed) or "nothing")
    if arguments.write:
        page = pathlib.Path(arguments.write)
        text = page.read_text()
        begin, end = "<!-- tables -->\n", "<!-- end of tables -->\n"
        head, tail = text.split(begin)[0], text.split(end)[1]
        page.write_text(head + begin + "\n" + "\n".join(lines) + "\n\n" + end + tail)
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()

"""What CoordAttention costs in MobileNetV2 on the CPU, as a .tflite file.

    python benchmarks/coord_attention_overhead.py [--variants]

Measures, in turns (see `_timing`), LiteRT with XNNPACK on one thread, batch 1:

- none: the network without attention;
- coord: with CoordAttention as `deploy` writes it: reduce first;
- port: with the same block written down as in the paper: two means, a concatenation, a
  1x1 convolution, HARD_SWISH, a split, two gates;
- products: with the two products alone, gated by one mean over both axes;
- means_products: with two means and two products, nothing else.

`--variants` adds other ways to write the block. All networks have the same weights,
random and live. An overhead is the time above the network without attention, as a ratio
to the port's in the same process; it depends on the processor.
"""

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _timing
import keras
import numpy as np
from _machine import processor
from keras import ops

from keras_attention import CoordAttention, mobile, models, stock
from keras_attention.mobile import rules
from keras_attention.mobile.convert import with_gates

LIMIT = 0.80  # of the port's overhead
SIZE, CLASSES = 224, 1000
HEADER = (
    "| form | ms, median (quartiles) | to none | overhead to port's [95 %] "
    "| MB | partitions | outside of XNNPACK |\n|---|---|---|---|---|---|---|"
)

# The package has no use for these two: HARD_SWISH leaves XNNPACK, and its blocks split
# nothing. Quantized as TFLite demands it.
rules.RULES["HardSilu"] = rules.Rule()
rules.RULES["Split"] = rules.Rule("same")


class Form(CoordAttention):
    """CoordAttention deployed in another form: same weights, same function."""

    write = None  # The form: a method (x, reduce, gate_h, gate_w) -> output.
    divisor = 6  # What its swish is too large by.

    def deploy(self):
        """Makes the three 1x1 convolutions; `write` says how they are applied."""
        kernel, bias = stock.fold(self.reduce, self.norm)
        pieces = [stock.pointwise(kernel, bias, name=f"{self.name}_reduce")]
        for axis, conv in (("h", self.expand_h), ("w", self.expand_w)):
            kernel, bias = stock.kernel_and_bias(conv)
            name = f"{self.name}_expand_{axis}"
            expand = stock.pointwise(kernel / self.divisor, bias, name=name)
            gate = stock.activation("sigmoid", name=f"{self.name}_gate_{axis}")
            pieces.append(lambda x, expand=expand, gate=gate: gate(expand(x)))
        return lambda x: self.write(x, *pieces)


def form(write, divisor=6):
    """Returns a layer class for one of the functions below."""
    return type(write.__name__, (Form,), {"write": write, "divisor": divisor})


def port(_, x, reduce, gate_h, gate_w):
    """As in the paper; XNNPACK takes neither HARD_SWISH nor SPLIT_V."""
    z_h, z_w = means(x)
    z = ops.concatenate([z_h, ops.transpose(z_w, (0, 2, 1, 3))], axis=1)
    f_h, f_w = ops.split(ops.hard_silu(reduce(z)), [x.shape[1]], axis=1)
    return x * gate_w(ops.transpose(f_w, (0, 2, 1, 3))) * gate_h(f_h)


def strips_apart(_, x, reduce, gate_h, gate_w):
    """Means first, but no concatenation, and the swish as a lookup."""
    z_h, z_w = means(x)
    return x * (gate_h(swish6(reduce(z_h))) * gate_w(swish6(reduce(z_w))))


def gate_after_gate(_, x, reduce, gate_h, gate_w):
    """Reduce first; one product with the map after the other."""
    f_h, f_w = means(reduce(x))
    return (x * gate_w(swish6(f_w))) * gate_h(swish6(f_h))


def large_maps_means_first(_, x, reduce, gate_h, gate_w):
    """Means first where there are few of them for the size of the map."""
    f_h, f_w = map(reduce, means(x)) if x.shape[1] >= 56 else means(reduce(x))
    return x * (gate_h(swish6(f_h)) * gate_w(swish6(f_w)))


def convolution_means(_, x, reduce, gate_h, gate_w):
    """Reduce first; means of up to 25 taps as depthwise convolutions."""
    y = reduce(x)

    def mean(axis):
        taps, channels = y.shape[axis], y.shape[3]
        if taps > 25:
            return ops.mean(y, axis=axis, keepdims=True)
        size = (taps, 1) if axis == 1 else (1, taps)
        conv = keras.layers.DepthwiseConv2D(size, use_bias=False, trainable=False)
        return stock.filled(conv, y.shape, [np.full((*size, channels, 1), 1 / taps)])(y)

    return x * (gate_h(swish6(mean(2))) * gate_w(swish6(mean(1))))


class Products(keras.layers.Layer):
    """The two products that no form does without, gated by one mean over both axes."""

    def call(self, x):
        """Returns x times a gate, times a gate."""
        gate = ops.mean(x, axis=(1, 2), keepdims=True)
        return (x * gate) * gate


class MeansProducts(keras.layers.Layer):
    """The products with the means of rows and columns, and nothing between them."""

    def call(self, x):
        """Returns x times its means."""
        g_h, g_w = means(x)
        return x * (g_h * g_w)


def means(x):
    """Returns the means of each row, (N, H, 1, C), and column, (N, 1, W, C)."""
    return ops.mean(x, axis=2, keepdims=True), ops.mean(x, axis=1, keepdims=True)


def swish6(x):
    """Returns 6 * hard_swish(x), which XNNPACK looks up in a table."""
    return x * ops.relu6(x + 3.0)


FORMS = {
    "none": None,
    "coord": CoordAttention,
    "port": form(port, divisor=1),
    "products": Products,
    "means_products": MeansProducts,
}
VARIANTS = {
    write.__name__: form(write)
    for write in (
        strips_apart,
        gate_after_gate,
        large_maps_means_first,
        convolution_means,
    )
}


def network(attention):
    return models.MobileNetV2((SIZE, SIZE, 3), CLASSES, attention=attention)


def images(count, seed=0):
    """Returns noise of several scales, so that the means of rows differ."""
    rng = np.random.default_rng(seed)
    total = 0.0
    for cells in (4, 14, 56, 224):
        noise = rng.normal(0, 32, (count, cells, cells, 3))
        total += noise.repeat(SIZE // cells, 1).repeat(SIZE // cells, 2)
    return (np.clip(np.round(total + 128), 0, 255) / 128 - 1).astype("float32")


def enliven(model, x, seed=0):
    """Gives a network random weights and the moving statistics that these have on x.

    The shifts are mostly positive: a random network in which half of all activations
    are cut off is chaotic, and rounding errors of float32 grow to 1e-3 in its outputs.
    """
    rng = np.random.default_rng(seed)
    norms = []
    for layer in model.layers:
        if isinstance(layer, CoordAttention):
            norms.append(layer.norm)
            for conv in (layer.expand_h, layer.expand_w):
                spread = 2 / np.sqrt(conv.kernel.shape[2])
                conv.kernel.assign(rng.normal(0, spread, conv.kernel.shape))
                conv.bias.assign(rng.normal(0, 0.5, conv.bias.shape))
        elif isinstance(layer, keras.layers.BatchNormalization):
            norms.append(layer)
    momentum = norms[0].momentum
    for norm in norms:
        norm.gamma.assign(rng.uniform(0.5, 1.5, norm.gamma.shape))
        norm.beta.assign(rng.normal(1.0, 0.5, norm.beta.shape))
        norm.momentum = 0.0  # One step takes over the batch's statistics.
    model(x, training=True)
    for norm in norms:
        norm.momentum = momentum


def take_weights(model, source):
    """Copies the weights of layers of the same names."""
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(source.get_layer(layer.name).get_weights())


def require(ok, message):
    if not ok:
        raise SystemExit(f"not a fair comparison: {message}")


def infer(model, x):
    return keras.tree.map_structure(ops.convert_to_numpy, model(x, training=False))


def prepare(forms, folder, x):
    """Writes the files of all forms; returns reports {form: (int8, float32)}."""
    source = network(CoordAttention)
    enliven(source, x)
    expected = infer(source, x)
    reports, outputs = {}, {}
    for name, attention in forms.items():
        model = source if attention is CoordAttention else network(attention)
        if model is not source:
            take_weights(model, source)
        deployed = mobile.deploy(model)
        outputs[name] = infer(deployed, x)
        if attention is CoordAttention or issubclass(attention or object, Form):
            error = np.abs(outputs[name] - expected).max() / np.abs(expected).max()
            require(error <= 1e-5, f"{name} differs from the layer by {error:.1e}")
            print(f"  {name}: max |difference| to the layer in float {error:.1e}")
        if name == "coord":
            spread = min(g.std() / g.mean() for g in infer(with_gates(deployed), x)[1:])
            require(spread >= 0.05, f"a gate's deviation is {spread:.1%} of its mean")
            print(f"  gates: standard deviation at least {spread:.0%} of the mean")
        quantized = mobile.quantize(model, x)
        reports[name] = (
            mobile.convert(quantized, folder / f"{name}_int8.tflite"),
            mobile.convert(deployed, folder / f"{name}_float32.tflite"),
        )
        kinds = set(reports[name][0].dtypes)
        require(kinds <= {"int8", "int32"}, f"{name} holds {kinds}")
    change = np.linalg.norm(outputs["none"] - expected) / np.linalg.norm(expected)
    require(change >= 0.05, f"attention changes the output by {change:.1%} only")
    print(f"  without attention the outputs change by {change:.0%}")
    return reports


def measure(reports, processes, rounds, runs):
    """Measures the files of one precision and prints the table.

    Args:
        reports: {form: ConvertReport}.
        processes: fresh processes, see `_timing`.
        rounds: rounds per process.
        runs: runs per round and file.

    Returns:
        The overhead of "coord" as a ratio to that of "port".
    """
    paths = {name: report.path for name, report in reports.items()}
    times = _timing.interleaved(paths, processes, rounds, runs)
    print(HEADER)
    none, own = times["none"], times["port"] - times["none"]
    for name, report in reports.items():
        low, median, high = np.quantile(times[name], [0.25, 0.5, 0.75])
        overhead = _timing.estimate((times[name] - none) / own)
        if name == "coord":
            result = overhead
        shown = "" if name in ("none", "port") else overhead
        partitions, outside = _timing.delegation(_timing.load(report.path))
        print(
            f"| {name} | {median:.3f} ({low:.3f}-{high:.3f}) "
            f"| {_timing.estimate(times[name] / none).value:.3f} | {shown} "
            f"| {report.bytes / 1e6:.2f} | {partitions} | {counts(outside) or '-'} |"
        )
    return result


def counts(operators):
    return ", ".join(f"{n} {kind}" for kind, n in sorted(operators.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", action="store_true", help="more forms")
    parser.add_argument("--processes", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5, help="per process")
    parser.add_argument("--runs", type=int, default=8, help="per round and file")
    arguments = parser.parse_args()
    processes, rounds = arguments.processes, arguments.rounds
    started = time.perf_counter()
    keras.utils.set_random_seed(0)
    forms = FORMS | (VARIANTS if arguments.variants else {})
    print(f"MobileNetV2, {SIZE}x{SIZE}, {CLASSES} classes, on {processor()}")
    with tempfile.TemporaryDirectory() as folder:
        reports = prepare(forms, pathlib.Path(folder), images(8))
        print("\nOperators of the int8 files:")
        for name, (report, _) in reports.items():
            print(f"  {name}: {counts(report.operators)}")
        for index, precision in enumerate(("int8", "float32")):
            print(f"\n{precision}, {processes} processes of {rounds} rounds:")
            files = {name: pair[index] for name, pair in reports.items()}
            ratio = measure(files, processes, rounds, arguments.runs)
            if precision == "int8":
                verdict = "met" if ratio.value <= LIMIT else "NOT met"
                print(f"coord at most {LIMIT:.2f}: {verdict}, {ratio}")
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

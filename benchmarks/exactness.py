"""How near every block's int8 file is to quantized Keras and to float.

    python benchmarks/exactness.py [--write docs/int8.md] [--only se eca] [--seeds 3]

Each block stands behind a convolution and a ReLU6, with random weights that keep its
gates alive. It is calibrated on 16 images and converted, and the file is run on these
and on 8 others: normal features, such behind a ReLU with a dead channel, and these with
channel scales from 0.05 to 1. The table has the worst of the three kinds and of all
seeds, which draw weights and images; distances from quantized Keras are those on the
other images. Three seeds of all blocks take 11 minutes on one core.
"""

import argparse
import dataclasses
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _page
import blocks
import keras
import numpy as np

import keras_attention
from keras_attention import mobile
from keras_attention.mobile import litert
from keras_attention.weights.torch_state import torch_parameters

MARK = "exactness"
KINDS = ("normal", "dead", "weak")
HEAD = (
    *("block", "arguments", "map", "above one step", "steps"),
    *("error, other images", "calibration images", "note"),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A block in the table.

    Attributes:
        block: its name.
        arguments: its arguments.
        channels: of its input.
        size: height and width of its input.
        gain: of its kernels' random numbers; above 1 gates are far from constant.
        scattered: whether weak channels lie between strong ones, not side by side.
        draws: times as many seeds as others, where large errors are rare.
        note: what else sets it apart.
    """

    block: str
    arguments: dict = dataclasses.field(default_factory=dict)
    channels: int = 32
    size: tuple[int, int] = (14, 14)
    gain: float = 1.5
    scattered: bool = False
    draws: int = 1
    note: str = ""


PEAKED = "scores of ±16 and more"
TWO = "two channels inside; 8 times the seeds"

AW = {"reduction": 4, "use_bias": True}
GE = {"reduction": 4}
SK = {"groups": 8, "min_channels": 8}

CASES = (
    Case("a2"),
    Case("a2", {"zero_init_norm": True}),
    Case("a2", {"value_channels": 8, "attention_channels": 12}),
    Case("a2", {"residual": False}),
    Case("aw", AW),
    Case("aw", AW | {"groups": 4}, scattered=True, note="scattered weak channels"),
    Case("aw", AW | {"groups": 4}, note="whole groups weak"),
    Case("aw", AW | {"groups": 32, "use_bias": False}),
    Case("aw", AW | {"input_sharing": 1, "use_bias": False}),
    Case("bam", {"reduction": 4}),
    Case("bam", {"reduction": 4, "combine": "product"}),
    Case("cbam", {"reduction": 4}),
    Case("cbam", {"reduction": 4}, size=(10, 40)),
    Case("coord"),
    # of means around 0, whose gates else are near 0.5
    Case("eca", gain=4),
    Case("eca", {"kernel_size": 7}, gain=4),
    Case("ema", {"groups": 8}, 24),
    Case("ema", {"groups": 3}, 24),
    Case("ema", {"groups": 24}, 24),
    Case("ema", {"groups": 32}, 96),
    Case("gam"),
    Case("gam", {"channel_gate": None}),
    Case("gc", {"reduction": 4}),
    Case("gc", {"reduction": 4, "fusion": "mul"}),
    Case("gc", {"reduction": 4}, 64, (28, 28)),
    Case("gc", {"reduction": 16}, draws=8, note=TWO),
    Case("gc", {"reduction": 16, "fusion": "mul"}, draws=8, note=TWO),
    Case("ge", GE, 24),
    Case("ge", GE | {"variant": "theta"}, 24),
    Case("ge", GE | {"variant": "theta_minus", "extent": 2}, 24),
    Case("ge", GE | {"extent": 4}, 24),
    Case("ge", GE | {"variant": "theta_minus", "extent": 8}, 24),
    Case("ge", GE | {"variant": "theta", "extent": 8}, 24),
    Case("ge", GE | {"extent": 8}, 24),
    Case("nam", {}, 24),
    # of two kernels in a row: scores from -7 to 7
    Case("nl", {"pool": False}, gain=1),
    Case("nl", size=(28, 28), gain=1),
    Case("nl", note=PEAKED),
    Case("nl", size=(28, 28), note=PEAKED),
    Case("sa", {"groups": 4}, 24),
    Case("sa", {"groups": 64}, 128),
    Case("se", {"reduction": 6}),
    Case(
        "se",
        {
            "reduction": 6,
            "activation": "silu",
            "gate": "hard_sigmoid",
            "use_bias": False,
        },
    ),
    Case("sge", {"groups": 8}, 24),
    Case("sge", {"groups": 64}, 128),
    Case("simam", {}, 24),
    Case("simam", {"e_lambda": 0.1}, 24),
    Case("sk", SK, 48),
    Case("sk", SK | {"branches": 3}, 24),
    Case("sk", SK | {"branches": 3, "strides": 2}, 24),
    Case("sp", {}, 24),
    # 20 columns, as 32 channels, are two blocks
    Case("triplet", size=(14, 20)),
)


def relative_error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def features(case, kind, count, seed):
    """Returns so many inputs of a kind."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (count, *case.size, case.channels)).astype("float32")
    if case.block == "aw":
        # Its attention is one of means, which normal numbers have the same in all.
        x += rng.uniform(-1.5, 1.5, (count, 1, 1, case.channels)).astype("float32")
    if kind != "normal":
        x = np.maximum(x, 0)
        x[..., case.channels // 2] = 0
    if kind == "weak":
        scales = np.geomspace(0.05, 1, case.channels, dtype="float32")
        if case.scattered:
            scales = np.random.default_rng(9).permutation(scales)
        x *= scales
    return x


def live(case, seed):
    """Returns a built block whose random weights make gates far from constant."""
    layer = blocks.make(case.block, case.channels, **case.arguments)
    blocks.live(layer, (*case.size, case.channels), seed)
    for parameter in torch_parameters(layer).values():
        variable, shape = parameter.variable, parameter.torch_shape
        if len(shape) > 1:
            # Keras counts a depthwise kernel's channels among what is summed over.
            fan = np.prod(variable.shape[:-1]) / np.prod(shape[1:])
            variable.assign(variable * (case.gain / 1.5 * np.sqrt(fan)))
    if case.block == "aw":
        layer.expand_norm.gamma.assign(4 * layer.expand_norm.gamma)
    if case.block == "nam":
        # As the paper's penalty makes them: equal ones weigh each channel 1 / C.
        rng = np.random.default_rng(seed)
        gamma = rng.choice([-1, 1], case.channels) * np.geomspace(
            0.01, 4, case.channels
        )
        layer.norm.gamma.assign(rng.permutation(gamma))
    return layer


def net(case, x, seed):
    """Returns the net of a block, and what stands in front of the block."""
    image = keras.Input(x.shape[1:], name="image")
    conv = keras.layers.Conv2D(
        case.channels, 1, activation="relu6", use_bias=False, name="conv"
    )
    y = conv(image)
    # The block sees the data's own channel scales, and its dead channel.
    kernel = np.random.default_rng([seed, 2]).normal(0, 0.02, (case.channels,) * 2)
    kernel = 1.5 * np.eye(case.channels) + kernel * x.std((0, 1, 2))
    conv.set_weights([kernel[None, None]])
    return keras.Model(image, live(case, seed)(y)), keras.Model(image, y)


def measure(case, kind, seed, path):
    """Returns share above one step, most steps, errors on other and own images."""
    own = features(case, kind, 16, [seed, 0])
    other = features(case, kind, 8, [seed, 1])
    model, before = net(case, own, seed)
    expected, x = (np.asarray(part(other)) for part in (model, before))
    if x.shape == expected.shape and relative_error(x, expected) < 0.05:
        raise SystemExit(f"exactness.py: {case} does nothing to {kind} features")
    quantized = mobile.quantize(model, own)
    mobile.convert(quantized, path)
    runner = litert.Runner(path)
    (tensor,) = runner.outputs
    y, y_own = (litert.dequantize(runner(x)[0], tensor) for x in (other, own))
    steps = np.abs(y - np.asarray(quantized(other))) / tensor.scale
    return (
        *((steps > 1.1).mean(), np.rint(steps.max())),
        *(relative_error(y, expected), relative_error(y_own, np.asarray(model(own)))),
    )


def row(case, seeds):
    """Returns the table's row of a block."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds * case.draws):
            for kind in KINDS:
                path = pathlib.Path(folder, "block.tflite")
                found.append(measure(case, kind, seed, path))
                keras.backend.clear_session()
    share, steps, *errors = np.max(found, axis=0)
    arguments = ", ".join(f"{key}={value!r}" for key, value in case.arguments.items())
    return (
        *(f"`{case.block}`", arguments and f"`{arguments}`"),
        *(blocks.size_of((*case.size, case.channels)), f"{share:.2%}", f"{steps:.0f}"),
        *(f"{error:.1%}" for error in errors),
        case.note,
    )


def main():
    """Prints the table; see the module's docstring."""
    names = keras_attention.names()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", help="the page to put the table into")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for case in CASES:
        if case.block in arguments.only:
            rows.append(row(case, arguments.seeds))
            print(_page.row(rows[-1]), flush=True)
    if arguments.write:
        _page.put(arguments.write, MARK, _page.table(HEAD, rows))


if __name__ == "__main__":
    main()

"""Every block in four backbones, trained a little, as int8 files.

    python benchmarks/int8_table.py [--write docs/int8.md] [--only se eca]
        [--backbones MobileNetV2] [--steps 200 60] [--results build/int8_table.json]

Each backbone is trained on handwritten digits for so many steps of 32 images; then, for
each block, a copy gets that block in its own places, as initialized, is trained for as
many steps as the second number says, quantized on 256 images without training,
converted, and run on the 360 test images. Digits are easy, and the networks small where
their builder has a width: the table tells what becomes int8 and how near the file is to
Keras, not how good a block is.

What is done is kept in the results file, and not done again: stop and start it as you
like; two processes with backbones and results files of their own take half of the time.
All 76 networks take about four hours on two cores.
"""

import argparse
import gc
import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _page
import keras
import numpy as np

import keras_attention
from keras_attention import data, files, mobile, models

MARK = "int8 table"
BATCH = 32

# Builder -> size of the images, what `models.insert` calls its places, arguments.
BACKBONES = {
    "MobileNetV2": (32, "mobilenet_v2", {"width": 0.35, "stem_stride": 1}),
    "ResNet50": (16, "resnet", {"stem": "cifar"}),
    "EfficientNetLite0": (32, "efficientnet", {"stem_stride": 1}),
    "MobileNeXt": (32, "mobilenext", {"width": 0.35, "stem_stride": 1}),
}
# With its own reduction of 4, GAM makes 190 million parameters of EfficientNet-Lite0.
ARGUMENTS = {"gam": {"reduction": 32}}
# SK takes the place of convolutions with kernels of its own, and shuffle attention
# exchanges the channels that the trained network knows: there is more to learn.
MORE_STEPS = {"sa": 5, "sk": 20}
HEAD = (
    *("block", "backbone", "int8", "file (kB)", "accuracy: float", "file"),
    *("agreement with quantized Keras", "with float"),
)


def arrays(dataset):
    """Returns all images and labels of a dataset."""
    x, y = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(x), np.concatenate(y)


def fit(model, digits, steps, rate):
    """Trains a network for so many steps, from a rate to zero."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            # The blocks' and EfficientNet's own 0.99 takes more steps than there are.
            layer.momentum = 0.9
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    x, y = arrays(digits.calibration)
    order = np.random.default_rng(0).permutation(len(x))
    order = np.resize(order, steps * BATCH)
    model.fit(x[order], y[order], batch_size=BATCH, shuffle=False, verbose=0)


def plain(backbone, digits, steps):
    """Returns a trained network without blocks."""
    keras.utils.set_random_seed(0)
    _, _, options = BACKBONES[backbone]
    shape, classes = digits.image_shape, len(digits.labels)
    model = getattr(models, backbone)(shape, classes, dropout=0.0, **options)
    fit(model, digits, steps, 3e-3)
    return model


def cell(block, base, place, digits, steps, folder):
    """Returns the figures of a trained network with a block as a dict."""
    start = time.perf_counter()
    keras.utils.set_random_seed(0)
    attention = {"name": block, **ARGUMENTS.get(block, {})}
    model = models.insert(base, attention, at=place)
    fit(model, digits, steps * MORE_STEPS.get(block, 1), 1e-3)
    x, y = arrays(digits.test)
    path = folder / "model.tflite"
    try:
        images = arrays(digits.calibration)[0][:256]
        quantized = mobile.quantize(model, images)
        report = mobile.convert(quantized, path)
    except (RuntimeError, ValueError) as error:
        accuracy = float(np.mean(model.predict(x, verbose=0).argmax(1) == y))
        return {
            "float_accuracy": accuracy,
            "refused": str(error).splitlines()[0],
        }
    verified = mobile.verify(path, against=quantized, data=(x, y), reference_samples=0)
    against_float = mobile.verify(
        path, against=model, data=(x, y), reference_samples=0, worst_layers=0
    )
    worst = verified.worst_layers[0]
    return {
        "float_accuracy": against_float.keras_accuracy,
        "bytes": report.bytes,
        "dtypes": report.dtypes,
        "file_accuracy": verified.file_accuracy,
        "broken": verified.broken,
        "repaired": verified.repaired,
        "keras_agreement": verified.argmax_agreement,
        "float_agreement": against_float.argmax_agreement,
        "worst_layer": [worst.layer, round(worst.snr_db, 1)],
        "seconds": round(time.perf_counter() - start),
    }


def row(block, backbone, figures):
    """Returns the table's row of one network."""
    accuracy = f"{figures['float_accuracy']:.1%}"
    for argument, value in ARGUMENTS.get(block, {}).items():
        block = f"{block}, {argument}={value}"
    if "refused" in figures:
        return block, backbone, f"no: {figures['refused']}", "", accuracy, "", "", ""
    whole = "yes" if set(figures["dtypes"]) <= {"int8", "int32"} else "not whole"
    return (
        *(block, backbone, whole, f"{figures['bytes'] / 1000:.0f}", accuracy),
        *(
            f"{figures[name]:.1%}"
            for name in ("file_accuracy", "keras_agreement", "float_agreement")
        ),
    )


def main():
    """Fills the table; see above."""
    names = keras_attention.names()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", help="a page with the marks of the table")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--steps", nargs=2, type=int, default=(200, 60))
    parser.add_argument("--results", default="build/int8_table.json", type=pathlib.Path)
    arguments = parser.parse_args()
    files.require_writable(arguments.results)
    results = {}
    if arguments.results.exists():
        results = json.loads(arguments.results.read_text())
    before, after = arguments.steps

    def key(block, backbone):
        return f"{block}/{backbone}/{before}+{after * MORE_STEPS.get(block, 1)}"

    for backbone in arguments.backbones:
        missing = [
            name for name in arguments.only if key(name, backbone) not in results
        ]
        if not missing:
            continue
        size, place, _ = BACKBONES[backbone]
        digits = data.load("digits", image_size=size, augment=False)
        base = plain(backbone, digits, before)
        for block in missing:
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                figures = cell(block, base, place, digits, after, folder)
            results[key(block, backbone)] = figures
            with files.replacing(arguments.results) as temporary:
                temporary.write_text(json.dumps(results, indent=1))
            keras.backend.clear_session()
            gc.collect()
            print(_page.row(row(block, backbone, figures)), figures, flush=True)
    rows = [
        row(block, backbone, results[key(block, backbone)])
        for block in names
        for backbone in BACKBONES
        if key(block, backbone) in results
    ]
    if arguments.write:
        _page.put(arguments.write, MARK, _page.table(HEAD, rows))


if __name__ == "__main__":
    main()

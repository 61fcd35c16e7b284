"""Every block in four backbones, trained a little, as int8 files.

    python benchmarks/int8_table.py [--write docs/int8.md] [--only se eca]
        [--backbones MobileNetV2] [--steps 150] [--results build/int8_table.json]

Each network is trained on handwritten digits for so many steps of 32 images, quantized
on 256 of them without training, converted, and run on the 360 test images. Digits are
easy, and the networks small where their builder has a width: the table tells what
becomes int8 and how near the file is to Keras, not how good a block is.

What is done is kept in the results file, and not done again: stop and start it as you
like. All 76 networks take four to five hours on two cores that do other things, too:
three or four minutes each.
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

# Builder, size of the images, arguments.
BACKBONES = {
    "MobileNetV2": (32, {"width": 0.35, "stem_stride": 1}),
    "ResNet50": (16, {"stem": "cifar"}),
    "EfficientNetLite0": (32, {"stem_stride": 1}),
    "MobileNeXt": (32, {"width": 0.35, "stem_stride": 1}),
}
# With its own reduction of 4, GAM makes 190 million parameters of EfficientNet-Lite0.
ARGUMENTS = {"gam": {"reduction": 32}}
HEAD = (
    "| block | backbone | int8 | file (kB) | accuracy: float | file "
    "| agreement with quantized Keras | with float |",
    "|---|---|---|---|---|---|---|---|",
)


def arrays(dataset):
    """Returns all images and labels of a dataset."""
    x, y = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(x), np.concatenate(y)


def trained(block, backbone, digits, steps):
    """Returns a network with a block in its own places, trained for so many steps."""
    keras.utils.set_random_seed(0)
    _, options = BACKBONES[backbone]
    build = getattr(models, backbone)
    shape, classes = digits.image_shape, len(digits.labels)
    attention = {"name": block, **ARGUMENTS.get(block, {})}
    model = build(shape, classes, attention=attention, dropout=0.0, **options)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    x, y = arrays(digits.calibration)
    order = np.random.default_rng(0).permutation(len(x))
    order = np.resize(order, steps * BATCH)
    model.fit(x[order], y[order], batch_size=BATCH, shuffle=False, verbose=0)
    return model


def cell(block, backbone, steps, folder):
    """Returns the figures of one network as a dict."""
    start = time.perf_counter()
    digits = data.load("digits", image_size=BACKBONES[backbone][0], augment=False)
    model = trained(block, backbone, digits, steps)
    x, y = arrays(digits.test)
    logits = model.predict(x, verbose=0)
    figures = {"float_accuracy": float(np.mean(logits.argmax(1) == y))}
    path = folder / "model.tflite"
    try:
        images = arrays(digits.calibration)[0][:256]
        quantized = mobile.quantize(model, images)
        report = mobile.convert(quantized, path)
    except (RuntimeError, ValueError) as error:
        return figures | {"refused": str(error).splitlines()[0]}
    verified = mobile.verify(path, against=quantized, data=(x, y), reference_samples=0)
    against_float = mobile.verify(
        path, against=model, data=x, reference_samples=0, worst_layers=0
    )
    worst = verified.worst_layers[0]
    return figures | {
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
    """Returns the table's line of one network."""
    accuracy = f"{figures['float_accuracy']:.1%}"
    for argument, value in ARGUMENTS.get(block, {}).items():
        block = f"{block}, {argument}={value}"
    if "refused" in figures:
        return (
            f"| {block} | {backbone} | no: {figures['refused']} | | {accuracy} | | | |"
        )
    whole = "yes" if set(figures["dtypes"]) <= {"int8", "int32"} else "not whole"
    return (
        f"| {block} | {backbone} | {whole} | {figures['bytes'] / 1000:.0f} "
        f"| {accuracy} | {figures['file_accuracy']:.1%} "
        f"| {figures['keras_agreement']:.1%} | {figures['float_agreement']:.1%} |"
    )


def main():
    """Fills the table; see above."""
    names = keras_attention.names()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", help="a page with the marks of the table")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--results", default="build/int8_table.json", type=pathlib.Path)
    arguments = parser.parse_args()
    results = {}
    if arguments.results.exists():
        results = json.loads(arguments.results.read_text())
    for block in arguments.only:
        for backbone in arguments.backbones:
            key = f"{block}/{backbone}/{arguments.steps}"
            if key not in results:
                with tempfile.TemporaryDirectory() as folder:
                    results[key] = cell(
                        block, backbone, arguments.steps, pathlib.Path(folder)
                    )
                files.require_writable(arguments.results)
                with files.replacing(arguments.results) as temporary:
                    temporary.write_text(json.dumps(results, indent=1))
                keras.backend.clear_session()
                gc.collect()
            print(row(block, backbone, results[key]), results[key].get("seconds"), "s")
    done = [
        row(block, backbone, results[key])
        for block in names
        for backbone in BACKBONES
        if (key := f"{block}/{backbone}/{arguments.steps}") in results
    ]
    if arguments.write:
        _page.put(arguments.write, MARK, [*HEAD, *done])


if __name__ == "__main__":
    main()

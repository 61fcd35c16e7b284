"""What a block brings when a pretrained network is fine-tuned on photos, in int8 too.

    python benchmarks/finetuning.py PHOTOS [--blocks none ema] [--write PAGE]

PHOTOS has train/ and val/ with a folder of photos per class. torchvision's MobileNetV2
gets a new classifier and, in every unit that expands, no block or a warm-started one.
All are trained alike, with several seeds (order, augmentation,
classifier, blocks), then calibrated, trained under quantization with their own float
outputs as targets, and converted.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import _page
import keras
import tensorflow as tf

from keras_attention import data, mobile, models, training

BLOCKS = {
    "none": None,
    "se": {"name": "se", "reduction": 24},
    "coord": "coord",
    "ema": "ema",
    "a2": "a2",
    "aw": "aw",
}
HEADINGS = ("float", "calibrated", "trained int8", "int8 file")


def network(block, size, classes):
    """Returns the pretrained network with a block in each unit, and a new classifier.

    Args:
        block: What `models.insert` takes, or None.
        size: Of the images, in pixels.
        classes: Number of classes.
    """
    model = models.MobileNetV2((size, size, 3), weights="imagenet")
    if block is not None:
        model = models.insert(model, block, at="mobilenet_v2", warm_start=True)
    features = model.get_layer("head_dropout").output
    logits = keras.layers.Dense(classes, name="new_classifier", dtype="float32")
    return keras.Model(model.inputs, logits(features))


def run(block, photos, arguments, seed, folder):
    """Returns the four accuracies of one training, in the order of HEADINGS."""
    keras.utils.set_random_seed(seed)
    model = network(block, photos.image_shape[0], len(photos.labels))
    history = training.fit_classifier(
        model, photos, epochs=arguments.epochs, learning_rate=arguments.learning_rate
    )
    quantized = mobile.quantize(
        model, photos.calibration, freeze_after=photos.steps_per_epoch // 2
    )
    calibrated = training.accuracy(quantized, photos.test)
    tuned = training.finetune_quantized(quantized, model, photos, epochs=1)
    path = folder / "model.tflite"
    mobile.convert(quantized, path)
    report = mobile.verify(path, against=quantized, data=photos.test)
    return (
        history["val_accuracy"][-1],
        calibrated,
        tuned["val_accuracy"][-1],
        report.file_accuracy,
    )


def table(results):
    """Returns the lines of a table: mean and spread of accuracies in percent."""
    rows = [
        (name, *(_cell(column) for column in zip(*runs, strict=True)))
        for name, runs in results.items()
    ]
    return _page.table(("block", *HEADINGS), rows)


def _cell(fractions):
    values = sorted(100 * fraction for fraction in fractions)
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ({values[0]:.1f} to {values[-1]:.1f})" if values[1:] else mean


def main():
    """Prints the table; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", help="folder with train/ and val/")
    default = ["none", "se", "coord"]
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=default)
    parser.add_argument("--size", type=int, default=96, help="pixels")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", help="the page to put the table into")
    parser.add_argument("--mark", default="table", help="where in the page")
    arguments = parser.parse_args()
    started = time.monotonic()
    results = {name: [] for name in arguments.blocks}
    for seed in range(arguments.seeds):
        photos = data.load(
            f"folder:{arguments.photos}", image_size=arguments.size, seed=seed
        )
        for name in arguments.blocks:
            with tempfile.TemporaryDirectory() as folder:
                found = run(BLOCKS[name], photos, arguments, seed, pathlib.Path(folder))
            results[name].append(found)
            accuracies = ", ".join(f"{accuracy:.1%}" for accuracy in found)
            minutes = (time.monotonic() - started) / 60
            print(f"{minutes:5.1f} min, seed {seed}, {name}: {accuracies}", flush=True)
            keras.backend.clear_session()
    seeds = "1 seed" if arguments.seeds == 1 else f"{arguments.seeds} seeds"
    lines = [
        f"{arguments.size} pixels, {photos.train_size} training and "
        f"{photos.test_size} test photos of {len(photos.labels)} classes, "
        f"{arguments.epochs} + 1 epochs, {seeds}: top-1 accuracy in percent, mean "
        "(smallest to largest).",
        "",
        *table(results),
    ]
    print("\n".join(lines))
    if arguments.write:
        _page.put(arguments.write, arguments.mark, lines)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()

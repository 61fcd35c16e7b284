"""What int8 costs torchvision's MobileNetV2 on photos, before and after training.

    python benchmarks/real_weights.py PHOTOS [--write docs/int8.md]

PHOTOS has train/ and val/ with a folder per class, named by its WordNet number. All of
ImageNet's 1000 classes compete. For each of some random subsets of training photos the
network is calibrated and converted, then trained for an epoch under quantization on the
float network's answers and converted again. Broken are photos that the float network
has right and the file wrong, repaired the other way round.
"""

import argparse
import time

import _page
import keras
import numpy as np
import tensorflow as tf
from _photos import Judge, int8_file

from keras_attention import data, mobile, models

HEADINGS = ("subset", "file", "top-1", "broken", "repaired", "agreement", "minutes")


def run(model, judge, arguments, seed):
    """Returns the table's two rows of a subset of photos."""
    start = time.monotonic()

    def cells(quantized, name):
        top1, broken, repaired, *_, agreement = judge(int8_file(quantized))
        minutes = f"{(time.monotonic() - start) / 60:.1f}"
        counts = [f"{broken:.0f}", f"{repaired:.0f}"]
        return [str(seed), name, f"{top1:.1%}", *counts, f"{agreement:.1%}", minutes]

    spec = f"folder:{arguments.photos}"
    plain = data.load(spec, image_size=224, seed=seed, augment=False)
    batches = [x for x, _ in plain.train.take(-(-arguments.calibration // 32))]
    calibration = np.concatenate(batches)[: arguments.calibration]
    train = data.load(spec, image_size=224, seed=seed).train
    steps = int(train.cardinality()) * arguments.epochs
    quantized = mobile.quantize(model, calibration, freeze_after=max(1, steps // 2))
    rows = [cells(quantized, "calibrated")]
    print(rows[0], flush=True)
    schedule = keras.optimizers.schedules.CosineDecay(arguments.learning_rate, steps)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    quantized.compile(keras.optimizers.Adam(schedule), loss)
    targets = mobile.soft_targets(model, train)
    quantized.fit(targets, epochs=arguments.epochs, shuffle=False, verbose=0)
    rows.append(cells(quantized, "trained"))
    print(rows[1], flush=True)
    return rows


def main():
    """Prints the table; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", help="folder with train/ and val/")
    parser.add_argument("--subsets", type=int, default=3)
    parser.add_argument("--calibration", type=int, default=200, help="photos")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--write", help="the page to put the table into")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = models.MobileNetV2(weights="imagenet")
    test = data.load(f"folder:{arguments.photos}", image_size=224)
    judge = Judge(model, test)
    rows = [["", "float", f"{judge.of_float()[0]:.1%}", "", "", "", ""]]
    for seed in range(arguments.subsets):
        rows += run(model, judge, arguments, seed)
    lines = _page.table(HEADINGS, rows)
    print("\n".join(lines))
    if arguments.write:
        _page.put(arguments.write, "real weights", lines)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()

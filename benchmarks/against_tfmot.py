"""Quantization-aware training here and by tfmot: accuracy of files, time of a step.

    python benchmarks/against_tfmot.py PHOTOS [--write docs/int8.md]

PHOTOS is as for real_weights.py. torchvision's MobileNetV2 is built in Keras 3 and,
with the same weights, in tf_keras, which tfmot needs. On each of some random subsets of
training photos both get their ranges; both are trained on the same batches (photos,
order, augmentation, the float network's probabilities as targets) by the same
optimizer, become int8 files, and answer the photos of val/ on XNNPACK. tfmot's batch
normalization is frozen for that, as what is folded here is; tfmot is also trained as it
comes, as its guide has it. At last the training steps of the quantized and the float
networks are measured in turns.
"""

import argparse
import time

import _page
import _tfmot
import _timing
import keras
import numpy as np
import tensorflow as tf
import tf_keras
from _photos import Judge, int8_file

from keras_attention import data, mobile, models

BATCH = 32
CHANGES = "broken, repaired"
HEADINGS = ("subset", "file", "of 1000", CHANGES, "of ten", CHANGES, "agreement")
OURS = "ours, trained"
THEIRS = ("tfmot, trained", "tfmot as it comes, trained")
STEPS = {
    "ours": keras,
    "tfmot": tf_keras,
    "tfmot as it comes": tf_keras,
    "float, Keras 3": keras,
    "float, tf_keras": tf_keras,
}


def first(photos, count):
    """Returns the first `count` photos of the calibration data."""
    batches = [x for x, _ in photos.calibration.take(-(-count // BATCH))]
    return np.concatenate(batches)[:count]


def with_targets(model, photos, epochs):
    """Returns the training batches with the network's probabilities, in memory."""
    chosen = photos.epoch(0)
    for number in range(1, epochs):
        chosen = chosen.concatenate(photos.epoch(number))
    targets = mobile.soft_targets(model, chosen).cache()
    for _ in targets:  # Only what was read to its end stays in memory.
        continue
    return targets


def compile_as(api, model, learning_rate, steps):
    """Compiles a model of Keras 3 or tf_keras, which is what `api` is."""
    schedule = api.optimizers.schedules.CosineDecay(learning_rate, steps)
    loss = api.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(api.optimizers.Adam(schedule), loss)


def compare(model, other, judge, photos, arguments):
    """Returns {file: what `judge` says of it} of one subset.

    Args:
        model: the float network, Keras 3.
        other: the same in tf_keras.
        judge: a `Judge`.
        photos: what `data.load` returned for the seed of this subset.
        arguments: of the command line.
    """
    calibration = first(photos, arguments.calibration)
    targets = with_targets(model, photos, arguments.epochs)
    steps = int(targets.cardinality())

    def train(api, quantized):
        compile_as(api, quantized, arguments.learning_rate, steps)
        quantized.fit(targets, shuffle=False, verbose=0)

    ours = mobile.quantize(model, calibration, freeze_after=max(1, steps // 2))
    results = {"ours, calibrated": judge(int8_file(ours))}
    train(keras, ours)
    results[OURS] = judge(int8_file(ours))
    theirs = _tfmot.quantize(other)
    _tfmot.set_ranges(theirs, other, calibration)
    _tfmot.freeze_normalizations(theirs)
    results["tfmot, ranges set"] = judge(_tfmot.convert(theirs))
    train(tf_keras, theirs)
    results[THEIRS[0]] = judge(_tfmot.convert(theirs))
    theirs = _tfmot.quantize(other)
    train(tf_keras, theirs)
    results[THEIRS[1]] = judge(_tfmot.convert(theirs))
    return results


def accuracies(judge, subsets):
    """Returns the lines of the table of accuracies, and how far ours are above.

    Args:
        judge: a `Judge`.
        subsets: what `compare` returned, for each subset.
    """
    means = {name: sum(r[name] for r in subsets) / len(subsets) for name in subsets[0]}
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines.append(row("", "float", judge.of_float()))
    for subset, results in [*enumerate(subsets), ("mean", means)]:
        lines += [row(subset, name, numbers) for name, numbers in results.items()]
    lines.append("")
    for name in THEIRS:
        above = [100 * (r[OURS] - r[name])[[0, 3]] for r in [*subsets, means]]
        texts = []
        for column, classes in zip(
            zip(*above, strict=True), (1000, "ten"), strict=True
        ):
            *each, mean = (f"{points:+.1f}" for points in column)
            texts.append(f"{', '.join(each)} of {classes} (mean {mean})")
        lines.append(f"- {OURS}, minus {name}, in points: {'; '.join(texts)}")
    return lines


def row(subset, name, numbers):
    """Returns a line of the table of accuracies."""
    cells = [str(subset), name]
    for accuracy, broken, repaired in (numbers[:3], numbers[3:6]):
        cells += [f"{accuracy:.1%}", f"{broken:.0f}, {repaired:.0f}"]
    return f"| {' | '.join(cells)} | {numbers[6]:.1%} |"


def step_times(networks, batch, turns):
    """Measures training steps in turns: what `fit` calls for each batch.

    Args:
        networks: compiled models of Keras 3 or tf_keras.
        batch: images and their probabilities.
        turns: number of steps of each.

    Returns:
        float64 array (turns, networks): seconds.
    """
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    steps = []
    for network in networks:
        # Functions are traced here, before anything is measured.
        network.fit(batches, steps_per_epoch=3, shuffle=False, verbose=0)
        steps.append((network.train_function, iter(batches)))
    seconds = np.empty((turns, len(steps)))
    for turn in range(turns):
        for offset in range(len(steps)):
            index = (turn + offset) % len(steps)
            step, batches = steps[index]
            start = time.perf_counter()
            float(step(batches)["loss"])
            seconds[turn, index] = time.perf_counter() - start
    return seconds


def steps_table(model, other, photos, arguments):
    """Returns the lines of the table of steps. It trains both networks."""
    calibration = first(photos, arguments.calibration)
    batch = next(iter(mobile.soft_targets(model, photos.epoch(0).take(1))))
    ours, frozen = mobile.quantize(model, calibration), _tfmot.quantize(other)
    _tfmot.freeze_normalizations(frozen)
    networks = [ours, frozen, _tfmot.quantize(other), model, other]
    for network, api in zip(networks, STEPS.values(), strict=True):
        compile_as(api, network, arguments.learning_rate, arguments.turns)
    seconds = step_times(networks, batch, arguments.turns)
    compared = list(STEPS)[1:3]
    headings = ["step", "median (s)", "5 % to 95 %", *(f"of {x}" for x in compared)]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for name, column in zip(STEPS, seconds.T, strict=True):
        low, median, high = np.quantile(column, [0.05, 0.5, 0.95])
        cells = [name, f"{median:.3f}", f"{low:.3f} to {high:.3f}"]
        cells += [str(_timing.estimate(column / seconds[:, i])) for i in (1, 2)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main():
    """Prints the tables; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", help="folder with train/ and val/")
    parser.add_argument("--size", type=int, default=96, help="pixels")
    parser.add_argument("--subsets", type=int, default=3)
    parser.add_argument("--calibration", type=int, default=200, help="photos")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--turns", type=int, default=40, help="steps that are measured")
    parser.add_argument("--write", help="the page to put the tables into")
    arguments = parser.parse_args()
    started = time.monotonic()
    size, spec = arguments.size, f"folder:{arguments.photos}"
    model = models.MobileNetV2((size, size, 3), weights="imagenet")
    other = _tfmot.twin(model)
    judge, subsets = None, []
    for seed in range(arguments.subsets):
        photos = data.load(spec, image_size=size, batch_size=BATCH, seed=seed)
        judge = judge or Judge(model, photos)
        subsets.append(compare(model, other, judge, photos, arguments))
        minutes = (time.monotonic() - started) / 60
        for name, numbers in subsets[-1].items():
            print(f"{minutes:.1f} min {row(seed, name, numbers)}", flush=True)
    lines = [
        f"{size} pixels, {arguments.calibration} photos for the ranges, "
        f"{arguments.epochs} x {photos.train_size} photos for training in batches of "
        f"{BATCH}, {photos.test_size} test photos:",
        "",
        *accuracies(judge, subsets),
        "",
        f"Training steps, {arguments.turns} of each, in turns; the median of the ratio "
        "and its 95 % interval:",
        "",
        *steps_table(model, other, photos, arguments),
    ]
    print("\n".join(lines))
    if arguments.write:
        _page.put(arguments.write, "tfmot", lines)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()

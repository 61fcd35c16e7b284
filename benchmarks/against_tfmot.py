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
import _turns
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
    rows = [cells("", "float", judge.of_float())]
    for subset, results in [*enumerate(subsets), ("mean", means)]:
        rows += [cells(subset, name, numbers) for name, numbers in results.items()]
    lines = [*_page.table(HEADINGS, rows), ""]
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


def cells(subset, name, numbers):
    """Returns a row of the table of accuracies."""
    texts = [subset, name]
    for accuracy, broken, repaired in (numbers[:3], numbers[3:6]):
        texts += [f"{accuracy:.1%}", f"{broken:.0f}, {repaired:.0f}"]
    return [*texts, f"{numbers[6]:.1%}"]


def step_times(networks, batch, turns):
    """Measures training steps in turns: what `fit` calls for each batch.

    Args:
        networks: {name: compiled model of Keras 3 or tf_keras}.
        batch: images and their probabilities.
        turns: number of steps of each.

    Returns:
        {name: float64 array (turns,)}: seconds.
    """
    dataset = tf.data.Dataset.from_tensors(batch).repeat()

    def task(network):
        # Functions are traced here, before anything is measured.
        network.fit(dataset, steps_per_epoch=3, shuffle=False, verbose=0)
        step, batches = network.train_function, iter(dataset)

        def measure():
            start = time.perf_counter()
            float(step(batches)["loss"])
            return time.perf_counter() - start

        return measure

    tasks = {name: task(network) for name, network in networks.items()}
    times = _turns.take_turns(tasks, turns)
    return {name: np.array(seconds) for name, seconds in times.items()}


def steps_table(model, other, photos, arguments):
    """Returns the lines of the table of steps. It trains both networks."""
    calibration = first(photos, arguments.calibration)
    batch = next(iter(mobile.soft_targets(model, photos.epoch(0).take(1))))
    ours, frozen = mobile.quantize(model, calibration), _tfmot.quantize(other)
    _tfmot.freeze_normalizations(frozen)
    made = [ours, frozen, _tfmot.quantize(other), model, other]
    networks = dict(zip(STEPS, made, strict=True))
    for name, network in networks.items():
        compile_as(STEPS[name], network, arguments.learning_rate, arguments.turns)
    times = step_times(networks, batch, arguments.turns)
    compared = list(STEPS)[1:3]
    headings = ["step", "median (s)", "5 % to 95 %", *(f"of {x}" for x in compared)]
    rows = []
    for name, seconds in times.items():
        low, median, high = np.quantile(seconds, [0.05, 0.5, 0.95])
        ratios = [_timing.estimate(seconds / times[other]) for other in compared]
        rows.append([name, f"{median:.3f}", f"{low:.3f} to {high:.3f}", *ratios])
    return _page.table(headings, rows)


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
            line = _page.row(cells(seed, name, numbers))
            print(f"{minutes:.1f} min {line}", flush=True)
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

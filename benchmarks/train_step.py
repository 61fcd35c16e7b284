"""What training costs beside plain Keras: a recipe's epochs, and `model.fit` alone.

    python benchmarks/train_step.py [--recipe digits] [--set image_size=16 ...]
                                    [--steps 40] [--write docs/scaling.md]

In turns, each one epoch of `fit`, on the same network, batches, loss and schedule:

- keras: an optimizer of Keras, no callbacks;
- keras again: the same once more, which shows how far the figures can be trusted;
- ours: what `training.train` does on one device: the recipe's optimizer, a look at the
  loss of every step, logs, and a checkpoint at the end.

A step is from the beginning of one batch to that of the next, callbacks and waiting for
data included; of a turn's steps the first quartile counts. The epoch is all of `fit`,
with the checkpoint, whose share is the smaller, the longer an epoch takes. Ratios are
of turns, medians (quartiles); processor time is that of all threads, which other
programs disturb less than time on the wall.
"""

import argparse
import itertools
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _page
import _turns
import keras
import tensorflow as tf
from gpu import processor

from keras_attention import data
from keras_attention.training import logs, optimizers, resuming, strategy
from keras_attention.training.checkpoints import Checkpoints, Position
from keras_attention.training.recipe import Recipe

LIMIT = 1.03
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}


class Watch(keras.callbacks.Callback):
    """Reads the clocks at the beginning of every step."""

    def __init__(self):
        super().__init__()
        self.readings = {clock: [] for clock in CLOCKS}

    def on_train_batch_begin(self, batch, logs=None):
        """Reads them."""
        for clock, read in CLOCKS.items():
            self.readings[clock].append(read())

    def step(self, clock):
        """Returns the first quartile of the seconds between two steps."""
        found = self.readings[clock]
        return _turns.spread([b - a for a, b in itertools.pairwise(found)]).low


def plain_optimizer(recipe, steps):
    """Returns Keras' own optimizer in the place of the recipe's."""
    section, rate = recipe.optimizer, optimizers.schedule(recipe, steps)
    if section.name == "adamw":
        found = keras.optimizers.AdamW(rate, weight_decay=section.weight_decay)
        found.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return found
    if section.name == "sgd":
        return keras.optimizers.SGD(rate, section.momentum, nesterov=section.nesterov)
    return keras.optimizers.RMSprop(rate, momentum=section.momentum)


def tasks_of(recipe, images, steps, folder):
    """Returns {name: function () -> {(what, clock): seconds}} of epochs of `steps`."""
    classes = len(images.labels)
    engine = strategy.choose("none", recipe)

    def batches(position):
        found = engine.dataset(images, position.epoch, position.step)
        return found.map(lambda x, y: (x, tf.one_hot(y, classes)))

    def compiled(optimizer):
        keras.utils.set_random_seed(recipe.seed)
        model = recipe.model.build(images.image_shape, classes)
        model = engine.prepare(model, recipe)
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        )
        model.compile(optimizer, loss, metrics=["accuracy"])
        optimizer.build(model.trainable_variables)
        return model

    def plain():
        model = compiled(plain_optimizer(recipe, images.steps_per_epoch))

        def fit(epoch, watch):
            model.fit(
                batches(Position(epoch)),
                initial_epoch=epoch,
                epochs=epoch + 1,
                steps_per_epoch=steps,
                callbacks=[watch],
                shuffle=False,
                verbose=0,
            )

        return fit

    def ours():
        model = compiled(optimizers.build(recipe, images.steps_per_epoch))
        checkpoints = Checkpoints(folder / "checkpoints")

        def fit(epoch, watch):
            resuming.fit(
                model,
                batches,
                checkpoints=checkpoints,
                epochs=epoch + 1,
                steps_per_epoch=steps,
                start=Position(epoch),
                recipe=recipe.to_dict(),
                callbacks=[
                    watch,
                    logs.CSVLog(folder / "epochs.csv", recipe.batch_size),
                    logs.tensorboard(folder / "epochs"),
                ],
                verbose=0,
            )

        return fit

    def task(fit):
        epochs = itertools.count()

        def run():
            watch = Watch()
            begin = {clock: read() for clock, read in CLOCKS.items()}
            fit(next(epochs), watch)
            spent = {clock: read() - begin[clock] for clock, read in CLOCKS.items()}
            return {
                **{("step", clock): watch.step(clock) for clock in CLOCKS},
                **{("epoch", clock): spent[clock] for clock in CLOCKS},
            }

        return run

    fits = {"keras": plain(), "keras again": plain(), "ours": ours()}
    return {name: task(fit) for name, fit in fits.items()}


def measured_lines(recipe, times):
    """Returns the table, and what a step of ours takes of keras' processor time."""
    head = (
        *("training", "step, ms", "images/s"),
        *(
            "step to keras, processor",
            "step to keras, wall",
            "epoch to keras, processor",
        ),
    )

    def ratio(name, *what):
        return _turns.ratio(
            *([turn[what] for turn in times[n]] for n in (name, "keras"))
        )

    rows = []
    for name, turns in times.items():
        wall = _turns.spread([turn["step", "wall"] for turn in turns]).median
        compared = [ratio(name, "step", clock) for clock in CLOCKS]
        compared.append(ratio(name, "epoch", "processor"))
        shown = [f"{found:.3f}" for found in compared]
        rows.append(
            (
                *(name, f"{1e3 * wall:.1f}", f"{recipe.batch_size / wall:.0f}"),
                *(["-"] * 3 if name == "keras" else shown),
            )
        )
    return _page.table(head, rows), ratio("ours", "step", "processor")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="digits", help="name or path")
    parser.add_argument("--set", nargs="+", default=(), metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, help="of an epoch; default: all")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--write", metavar="PAGE", help="where the table goes")
    arguments = parser.parse_args()
    recipe = Recipe.load(arguments.recipe).replace(arguments.set)
    images = data.load(
        recipe.data,
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augment=recipe.augment,
        cache=recipe.cache,
    )
    steps = arguments.steps or images.steps_per_epoch
    with tempfile.TemporaryDirectory() as folder:
        tasks = tasks_of(recipe, images, steps, pathlib.Path(folder))
        for task in tasks.values():
            task()  # traces
        times = _turns.take_turns(tasks, arguments.turns)
    lines, found = measured_lines(recipe, times)
    given = "".join(f" --set {override}" for override in arguments.set)
    size = "x".join(map(str, images.image_shape[:2]))
    lines = [
        f"Measured on {processor()}; TensorFlow {tf.__version__}, Keras "
        f"{keras.__version__}; recipe `{arguments.recipe}`{given}, images of {size}, "
        f"batches of {recipe.batch_size}, {arguments.turns} turns of {steps} steps.",
        "",
        *lines,
    ]
    print(*lines, sep="\n")
    kept = found.median <= LIMIT
    verdict = "met" if kept else "NOT met"
    print(f"\nat most {LIMIT} of keras' processor time: {verdict}, {found:.3f}")
    if arguments.write:
        _page.put(arguments.write, "train step", lines)
    raise SystemExit(not kept)


if __name__ == "__main__":
    main()

"""A whole training run: from a recipe to a folder with the trained model."""

import dataclasses
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_attention import data, dtypes, files, report
from keras_attention.optimization import cosine
from keras_attention.training import (
    logs,
    optimizers,
    resuming,
    run_report,
    targets,
)
from keras_attention.training import strategy as strategies
from keras_attention.training.checkpoints import Checkpoints, Position
from keras_attention.training.evaluation import EvaluationReport, evaluate
from keras_attention.training.recipe import Recipe

# What a run's folder holds.
MODEL = "model.keras"
QUANTIZED = "quantized.keras"
RECIPE = "recipe.yaml"
CHECKPOINTS = "checkpoints"
LOGS = "logs"
# Folder inside of a run's folders.
QUANTIZED_PHASE = "quantized"


@dataclasses.dataclass(frozen=True)
class TrainingReport(report.Report):
    """What `train` did.

    Attributes:
        out: The run's folder.
        strategy: "none", "mirrored", "multi_worker" or "data_parallel".
        replicas: Copies of the model that were trained together.
        wrote: Whether this host wrote the files in `out`: of several the first does.
        epochs: Passes over the training part, those before a restart included.
        resumed: The first batch of this process; None: a new run.
        minutes: That this process took.
        history: One list per logged value, an entry per epoch of the float training.
        evaluation: Of model.keras on the test part; None on several hosts.
        quantized: Of quantized.keras; None without `quantize.epochs`.
    """

    out: pathlib.Path
    strategy: str
    replicas: int
    wrote: bool
    epochs: int
    resumed: Position | None
    minutes: float
    history: dict[str, list[float]] = dataclasses.field(repr=False)
    evaluation: EvaluationReport | None = dataclasses.field(repr=False)
    quantized: EvaluationReport | None = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class _Targets:
    """Images with other targets: what `Engine.dataset` takes in their place."""

    images: data.ImageData
    replace: Callable[[Any], Any]

    @property
    def batch_size(self):
        return self.images.batch_size

    def epochs(self, *position, **shard):
        return self.replace(self.images.epochs(*position, **shard))


@dataclasses.dataclass(frozen=True)
class _Phase:
    """One of the two trainings of a run: in float, and as quantized.

    Attributes:
        folder: Of its checkpoints.
        log: Its table of epochs.
        epochs: Passes over the training part.
        make: Returns the network and its optimizer; called in the engine's scope.
        answer: Replaces a dataset's labels by targets, (batch, classes).
        smoothing: Share of the target that is spread over all classes.
        outdated: Folders and files that are wrong behind a new start.
        rehearse: Tries, before a new start, what comes after the training.
    """

    folder: pathlib.Path
    log: pathlib.Path
    epochs: int
    make: Callable[[], tuple[keras.Model, keras.optimizers.Optimizer]]
    answer: Callable[[Any], Any]
    smoothing: float = 0.0
    outdated: tuple[pathlib.Path, ...] = ()
    rehearse: Callable[[keras.Model], None] = lambda network: None


def train(
    recipe: Recipe | str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    strategy: str | None = None,
    resume: bool = True,
    strict: bool = False,
    every_steps: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    on_data: Callable[[data.ImageData], None] = lambda images: None,
) -> TrainingReport:
    """Train a recipe's network on its data, or go on where a killed run was.

    `out_dir` gets recipe.yaml, labels.txt, checkpoints/ after every epoch, logs/ (a
    table of the epochs, TensorBoard), and at the end model.keras, quantized.keras if
    the recipe has `quantize.epochs`, report.html and report.json. On one device a run
    that was killed and started again ends with bitwise the weights of one that was not.

    Args:
        recipe: A recipe, the name of a shipped one, or the path of a .yaml file.
        out_dir: The run's folder; of several hosts one that all of them see.
        strategy: See `strategy.choose`; None takes what is there.
        resume: Whether to go on from the checkpoints in `out_dir`; False removes them,
            and the logs and models of the run before.
        strict: Whether a damaged image is an error instead of being skipped.
        every_steps: Checkpoints inside of epochs, too: after so many steps.
        callbacks: More callbacks, for both trainings.
        on_data: Is called with the images before anything is trained, to show what was
            skipped and how much memory the cache will take.

    Returns:
        What was reached.

    Raises:
        NonFiniteLoss: If the loss is NaN or infinite: says at which step, and which
            layer's output was the first.
        OSError: If data can't be read, or a file not be written.
        ValueError: If recipe, data, strategy and devices don't fit together, or
            `out_dir` holds the run of another recipe.
    """
    start = time.perf_counter()
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    out = pathlib.Path(out_dir)
    files.require_writable(out / MODEL)
    _require_quantizer(recipe)
    engine = strategies.choose(strategy, recipe)
    keras.utils.set_random_seed(recipe.seed)
    images = data.load(
        recipe.data,
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augment=recipe.augment,
        strict=strict,
        cache=recipe.cache,
    )
    if images.batch_size != recipe.batch_size:
        raise ValueError(
            f"batch_size must be at most the number of training images, "
            f"{images.train_size}; received {recipe.batch_size}"
        )
    on_data(images)
    # Numbers that the hosts can compare.
    digest = [int(images.digest[i : i + 4], 16) for i in range(0, 16, 4)]
    if not engine.agree(digest):
        raise ValueError(
            f"the hosts see other training images: {recipe.data} must be the same on "
            "all of them"
        )
    run = _Run(recipe, out, engine, images, resume, every_steps, tuple(callbacks))
    network, history, resumed = run.fit(run.float_phase())
    quantized = None
    if recipe.quantize.epochs:
        quantized, _, _ = run.fit(run.quantized_phase(network))
    return run.finish(network, quantized, history, resumed, start)


@dataclasses.dataclass(frozen=True)
class _Run:
    recipe: Recipe
    out: pathlib.Path
    engine: strategies.Engine
    images: data.ImageData
    resume: bool
    every_steps: int | None
    callbacks: tuple[keras.callbacks.Callback, ...]

    def float_phase(self) -> _Phase:
        recipe, images = self.recipe, self.images

        def make():
            with dtypes.policy(recipe.policy()):
                network = recipe.model.build(images.image_shape, len(images.labels))
            return network, optimizers.build(recipe, images.steps_per_epoch)

        return _Phase(
            self.out / CHECKPOINTS,
            self.out / LOGS / logs.TABLE,
            recipe.epochs,
            make,
            self._one_hot,
            recipe.label_smoothing,
            (
                self.out / CHECKPOINTS / QUANTIZED_PHASE,
                *(self.out / LOGS / name for name in logs.NAMES),
                self.out / LOGS / QUANTIZED_PHASE,
                self.out / MODEL,
                self.out / QUANTIZED,
            ),
            self._rehearse,
        )

    def quantized_phase(self, network: keras.Model) -> _Phase:
        """What `finetune_quantized` does, in checkpoints."""
        from keras_attention import mobile

        section = self.recipe.quantize
        steps = section.epochs * self.images.steps_per_epoch

        def make():
            # The ranges settle in the first half, the weights follow in the second.
            quantized = self._quantize(network, self.images.calibration, steps // 2)
            rate = cosine(section.lr, steps)
            return quantized, keras.optimizers.AdamW(rate, weight_decay=0.0)

        return _Phase(
            self.out / CHECKPOINTS / QUANTIZED_PHASE,
            self.out / LOGS / QUANTIZED_PHASE / logs.TABLE,
            section.epochs,
            make,
            lambda dataset: mobile.soft_targets(network, dataset),
        )

    def _quantize(self, network, calibration, freeze_after=1):
        from keras_attention import mobile

        return mobile.quantize(
            network,
            calibration,
            scheme=self.recipe.quantize.scheme,
            freeze_after=max(1, freeze_after),
        )

    def _rehearse(self, network):
        """What can't be quantized is refused before it is trained."""
        if self.recipe.quantize.epochs:
            self._quantize(network, self.images.calibration.take(1))

    def fit(self, phase: _Phase):
        """Returns the network, its history, and where it was resumed, if it was."""
        engine, images = self.engine, self.images
        with engine.scope():
            network, optimizer = phase.make()
            model = engine.prepare(network, self.recipe)
            loss = keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=phase.smoothing
            )
            model.compile(optimizer, loss, metrics=["accuracy"])
        checkpoints = Checkpoints(phase.folder, write=engine.is_chief)
        if not (self.resume and checkpoints.paths):
            phase.rehearse(network)
        position = self._restore(phase, checkpoints, model)
        self._begin()
        history = resuming.fit(
            model,
            lambda at: engine.dataset(
                _Targets(images, phase.answer), at.epoch, at.step
            ),
            checkpoints=checkpoints,
            epochs=phase.epochs,
            steps_per_epoch=images.steps_per_epoch,
            start=position,
            recipe=self._identity(),
            every_steps=self.every_steps,
            validation_data=engine.evaluation(self._one_hot(images.test)),
            batches=lambda at: phase.answer(images.epochs(at.epoch, at.step)),
            callbacks=[*self.callbacks, *self._logs(phase)],
            verbose=0,
        )
        return network, history, position

    def finish(self, network, quantized, history, resumed, start) -> TrainingReport:
        """Writes what stands at the end of a run."""
        found = {}
        for name, model in ((MODEL, network), (QUANTIZED, quantized)):
            if model is None or not self.engine.is_chief:
                continue
            # Without optimizer, loss and metrics: these are in the checkpoints.
            plain = keras.Model(model.input, model.output, name=model.name)
            with files.replacing(self.out / name) as temporary:
                plain.save(temporary)
            if self.engine.hosts == 1:
                # The file, as others will load it.
                found[name] = evaluate(self.out / name, self.images)
        done = TrainingReport(
            out=self.out,
            strategy=self.engine.name,
            replicas=self.engine.replicas,
            wrote=self.engine.is_chief,
            epochs=self.recipe.epochs,
            resumed=resumed,
            minutes=(time.perf_counter() - start) / 60,
            history=history,
            evaluation=found.get(MODEL),
            quantized=found.get(QUANTIZED),
        )
        if self.engine.is_chief:
            where = run_report.environment(
                strategy=self.engine.name,
                replicas=self.engine.replicas,
                hosts=self.engine.hosts,
            )
            log = self.out / LOGS / logs.TABLE
            run_report.write(self.out, self.recipe, log, done.evaluation, where)
            if done.quantized is not None:
                run_report.write_evaluation(self.out / QUANTIZED_PHASE, done.quantized)
        return done

    def _restore(self, phase, checkpoints, model):
        if not self.resume:
            checkpoints.clear()
            for path in phase.outdated if self.engine.is_chief else ():
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            return None
        try:
            position = checkpoints.restore(
                model, self._identity(), may_differ=["cache"]
            )
        except ValueError as error:
            raise ValueError(
                f"{error}. To start anew: resume=False (--restart)"
            ) from error
        found = (position.epoch, position.step) if position else (-1, -1)
        if not self.engine.agree(found):
            raise ValueError(
                f"the hosts see other checkpoints in {checkpoints.folder}: it must be "
                "one folder that all of them share"
            )
        return position

    def _identity(self):
        """What must be the same when a run goes on."""
        data = {
            "training images": self.images.train_size,
            "training data": self.images.digest,
        }
        return self.recipe.to_dict() | data

    def _begin(self):
        """Writes what is known before the training."""
        if self.engine.is_chief:
            self.out.mkdir(parents=True, exist_ok=True)
            self.recipe.save(self.out / RECIPE)
            data.write_labels(self.out / data.LABELS_FILE, self.images.labels)

    def _logs(self, phase):
        if not self.engine.is_chief:
            return []
        return [
            logs.CSVLog(phase.log, self.recipe.batch_size),
            logs.tensorboard(phase.log.parent),
        ]

    def _one_hot(self, dataset):
        return targets.one_hot(dataset, len(self.images.labels))


def _require_quantizer(recipe):
    """Refuses before the float training what would fail behind it."""
    backend = keras.backend.backend()
    if recipe.quantize.epochs and backend != "tensorflow":
        raise ValueError(
            "quantize.epochs must be 0 unless the backend is tensorflow; received "
            f"{recipe.quantize.epochs} with {backend}: set it to 0, and quantize "
            f"{MODEL} afterwards under KERAS_BACKEND=tensorflow"
        )

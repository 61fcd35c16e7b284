"""Cases of `distribution.py` that look at one trap each; also what processes run."""

import dataclasses
import pathlib
import tempfile
import types

import keras
import numpy as np
import tensorflow as tf
from support import distribution, distribution_runs
from support.distribution import SGD, TRAINED, Case, Images, batches, samples

from keras_attention.training import strategy

FEATURES = 256
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True)
class Constant:
    """One batch, again and again."""

    x: np.ndarray
    y: np.ndarray

    @property
    def batch_size(self):
        return len(self.x)

    def epochs(self, start_epoch=0, start_step=0, shard=(1, 0)):
        hosts, host = shard
        part = self.batch_size // hosts
        mine = slice(host * part, (host + 1) * part)
        one = tf.data.Dataset.from_tensors((self.x[mine], self.y[mine]))
        return one.repeat()


def masks(engine):
    """How many of two samples, one per replica, let each feature pass, in three steps.

    With inputs 1, a kernel of zeros and targets far off, a step moves the kernel by
    the sum of the samples' masks.
    """

    def once():
        keras.utils.set_random_seed(0)
        with engine.scope():
            x = keras.Input((FEATURES,))
            y = keras.layers.Dropout(0.5)(x)
            dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
            model = keras.Model(x, dense(y))
            trained = engine.prepare(model)
            # The loss is linear: its gradient is 1 everywhere below the target.
            trained.compile(SGD(1.0), keras.losses.MeanAbsoluteError())
        images = Constant(np.ones((2, FEATURES), "float32"), np.full((2, 1), 1e6, "f4"))
        passed, before = [], np.zeros(FEATURES)
        data = engine.dataset(images)
        for _ in range(3):
            trained.fit(data, steps_per_epoch=1, verbose=0, shuffle=False)
            kernel = keras.ops.convert_to_numpy(dense.kernel)[:, 0]
            passed.append(np.round(kernel - before).astype(int).tolist())
            before = kernel
        (seed,) = (v for v in model.variables if v.name == "seed_generator_state")
        return {"passed": passed, "seed": keras.ops.convert_to_numpy(seed).tolist()}

    return [once(), once()]


class Overflowing(Images):
    """Images of which those of one half of the second batch are beyond float16."""

    half = 1

    def epochs(self, start_epoch=0, start_step=0, shard=(1, 0)):
        hosts, host = shard

        def loud(number, batch):
            x, y = batch
            rows = tf.range(len(x)) + host * len(x)
            chosen = (rows * 2 // self.batch_size == self.half) & (number == 1)
            return tf.where(chosen[:, None, None, None], 1e30, x), y

        endless = super().epochs(start_epoch, start_step, shard)
        return endless.enumerate().map(loud)


def overflow(engine):
    """A step of float16 that overflows on one replica is left out on all."""
    found = {}
    for half in (0, 1):
        with engine.scope():
            keras.config.set_dtype_policy("mixed_float16")
            model = Case(policy="mixed_float16").network()
            trained = engine.prepare(model)
            trained.compile(SGD(0.1, global_clipnorm=0.5), LOSS)
            keras.config.set_dtype_policy("float32")
        images = Overflowing()
        object.__setattr__(images, "half", half)
        trained.fit(engine.dataset(images), steps_per_epoch=3, verbose=0, shuffle=False)
        found[str(half)] = {
            "scale": float(keras.ops.convert_to_numpy(trained.optimizer.dynamic_scale)),
            "weights": _values(model),
        }
    return found


def quantized(engine):
    """Ranges of a fake-quantized network after training."""
    from support.mobile_nets import small

    from keras_attention import mobile

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).uniform(-1, 1, (32, 8, 8, 3)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        mobile.quantize(small(), x).save(path)
        with engine.scope():
            model = keras.saving.load_model(path)
            trained = engine.prepare(model)
            trained.compile(SGD(0.01), keras.losses.MeanSquaredError())
    images = Constant(x[:16], np.ones((16, 5), "float32"))
    trained.fit(engine.dataset(images), steps_per_epoch=8, verbose=0, shuffle=False)
    return {
        "ranges": {w.path: _list(w) for w in model.weights if "range" in w.path},
        "weights": {w.path: _list(w) for w in model.trainable_weights},
    }


def saved(engine):
    """The model that was trained is saved as a plain one."""
    with engine.scope():
        model = Case(normalized=True).network()
        trained = engine.prepare(model)
        trained.compile("sgd", LOSS)
    norms = [
        layer for layer in model._flatten_layers() if hasattr(layer, "synchronized")
    ]
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([norm.synchronized for norm in norms])

    trained.fit(
        engine.dataset(Images()),
        steps_per_epoch=1,
        verbose=0,
        callbacks=[Look()],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
    x, _ = samples(4)
    return {
        "during": seen,
        "after": [norm.synchronized for norm in norms],
        "class": type(loaded).__name__,
        "same_class": type(loaded) is type(model),
        "difference": float(np.abs(loaded(x) - _values_of(model(x))).max()),
    }


def predicted(engine):
    """Answers for 37 images, in batches of 32, beside those of the plain model."""
    with engine.scope():
        model = Case().network()
        trained = engine.prepare(model)
    x, _ = samples(37)
    return [trained.predict(x, verbose=0).tolist(), _values_of(model(x)).tolist()]


def evaluated(engine):
    """Losses and accuracies of a network that was never trained, on 5 and 9 images."""
    found = []
    for count in (5, 9):
        with engine.scope():
            trained = engine.prepare(Case().network())
            trained.compile("sgd", LOSS, metrics=["accuracy"])
        found.append(trained.evaluate(engine.evaluation(batches(count)), verbose=0))
    return found


class AddsLoss(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.sum(x))
        return x


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **_):
        return keras.ops.sum(y_pred)


class OwnStep(keras.Model):
    def train_step(self, *data):
        return {}


class NotFunctional(keras.Model):
    def call(self, x):
        return x


def _dense(kind=keras.Model, wrap=lambda x: x, **arguments):
    x = keras.Input((4,))
    return kind(x, keras.layers.Dense(3, **arguments)(wrap(x)))


def _recipe(batch_size=8, accumulate=1):
    optimizer = types.SimpleNamespace(accumulate=accumulate)
    return types.SimpleNamespace(batch_size=batch_size, optimizer=optimizer)


def refusals(engine):
    """Messages of the errors, by what was tried; None where there was none."""
    with engine.scope():
        trained = engine.prepare(_dense())
        trained.compile("sgd", "mse")
        fused = engine.prepare(_dense())
    x, y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
    data = engine.dataset(Constant(x, y))
    accumulating = SGD(0.1, gradient_accumulation_steps=2)

    def prepare(model):
        with engine.scope():
            return engine.prepare(model())

    def several_steps():
        fused.compile("sgd", "mse", steps_per_execution=2)
        fused.fit(data, steps_per_epoch=3)

    def fit(**arguments):
        model = prepare(lambda: _dense(**arguments))
        model.compile("sgd", "mse")
        model.fit(data, steps_per_epoch=1, verbose=0, shuffle=False)

    def outside():
        if keras.backend.backend() == "jax":
            keras.distribution.set_distribution(None)
        engine.prepare(_dense())

    tried = {
        "predict": lambda: trained.predict(x, verbose=0),
        "no steps": lambda: trained.fit(data),
        "batch of a recipe": lambda: engine.check(_recipe(batch_size=9)),
        "small batch": lambda: engine.check(_recipe(batch_size=1)),
        "batch of data": lambda: engine.dataset(Constant(x[:7], y[:7])),
        "own train_step": lambda: prepare(lambda: _dense(OwnStep)),
        "own compute_loss": lambda: prepare(lambda: _dense(OwnLoss)),
        "subclassed": lambda: prepare(NotFunctional),
        "sequential": lambda: prepare(
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        ),
        "unbuilt": lambda: prepare(
            lambda: keras.Sequential([keras.layers.Dense(3, name="late")])
        ),
    }
    if keras.backend.backend() == "jax":
        tried["mirrored"] = lambda: strategy.choose("mirrored")
        tried["multi_worker"] = lambda: strategy.choose("multi_worker")
    else:
        tried |= {
            "jit_compile": lambda: fused.compile("sgd", "mse", jit_compile=True),
            "accumulation": lambda: fused.compile(accumulating, "mse"),
            "accumulation of a recipe": lambda: engine.check(_recipe(accumulate=2)),
            "array": lambda: trained.fit(x, y, steps_per_epoch=1),
            "steps_per_execution": several_steps,
            "train_on_batch": lambda: trained.train_on_batch(x, y),
            "test_on_batch": lambda: trained.test_on_batch(x, y),
            "predict_on_batch": lambda: trained.predict_on_batch(x),
            "add_loss": lambda: fit(wrap=AddsLoss(name="adds")),
            "nested add_loss": lambda: fit(
                wrap=lambda x: _dense(wrap=AddsLoss(name="adds"))(x)
            ),
            "activity_regularizer": lambda: fit(
                activity_regularizer="l2", name="active"
            ),
            "data_parallel": lambda: strategy.choose("data_parallel"),
        }
    tried["outside"] = outside
    return {name: _error(attempt) for name, attempt in tried.items()}


def _error(attempt):
    try:
        attempt()
    except ValueError as error:
        return str(error)
    return None


def _values_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _list(weight):
    return _values_of(weight).ravel().tolist()


def _values(model):
    return [_list(weight) for weight in model.weights]


def agree(engine):
    """Equal numbers; then some of which one is the host's own."""
    return [engine.agree((3, 5)), engine.agree((engine.host, 5))]


CASES = TRAINED | {
    case.__name__: case
    for case in (
        *(masks, overflow, quantized, saved, predicted, evaluated),
        *(refusals, agree, distribution_runs.resumed, distribution_runs.not_finite),
    )
}

if __name__ == "__main__":
    distribution.main(CASES)

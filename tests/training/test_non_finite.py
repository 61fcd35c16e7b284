"""A loss that is not finite: training stops, and says at which step, in which layer."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attention import CoordAttention
from keras_attention.training import checkpoint_files, non_finite, resuming
from keras_attention.training.checkpoints import Checkpoints, Position

RANDOM = np.random.default_rng(0)
STEPS, BATCH = 6, 4
IMAGES = RANDOM.normal(size=(3 * STEPS * BATCH, 6, 6, 2)).astype("float32")
CLASSES = (IMAGES.mean((1, 2, 3)) > 0).astype("int32")


class Logarithm(keras.layers.Layer):
    """Not a number where the input is below `lowest`."""

    def __init__(self, lowest=-100.0, **kwargs):
        super().__init__(**kwargs)
        self.lowest = lowest

    def call(self, x):
        return x + 0 * keras.ops.log(x - self.lowest)


class Block(keras.layers.Layer):
    """Layers inside of a layer."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.before = keras.layers.Dense(3, name="before")
        self.inner = inner

    def build(self, shape):
        self.before.build(shape)
        self.inner.build((*shape[:-1], 3))

    def call(self, x):
        return self.inner(self.before(x))


def make_model(extra=None, optimizer=None, run_eagerly=True, **arguments):
    # Eagerly: most models here make a dozen steps, which take less than tracing.
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, name="first")(x)
    x = CoordAttention(name="attention")(x)
    x = keras.layers.Dropout(0.2)(x)
    if extra is not None:
        x = extra(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="classifier")(x))
    model.compile(
        optimizer or keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=run_eagerly,
        **arguments,
    )
    return model


def batches(images=IMAGES, classes=CLASSES):
    def following(position):
        data = tf.data.Dataset.from_tensor_slices((images, classes)).batch(BATCH)
        return data.repeat().skip(position.epoch * STEPS + position.step)

    return following


class Count(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1


def failure(model, folder, dataset=None, **arguments):
    """Trains until it fails; returns the exception and the checkpoints."""
    checkpoints, count = Checkpoints(folder), Count()
    with pytest.raises(non_finite.NonFiniteLoss) as info:
        resuming.fit(
            model,
            dataset or batches(),
            checkpoints=checkpoints,
            epochs=3,
            steps_per_epoch=STEPS,
            monitor="loss",
            callbacks=[count],
            verbose=0,
            **{"every_steps": 4, **arguments},
        )
    # Nothing is logged or saved behind the failure, and the model is as it was before.
    assert count.epochs == info.value.position.epoch - info.value.validation
    arrays, metadata = checkpoint_files.read(checkpoints.paths[-1])
    last = Position(**metadata["position"])
    assert last <= info.value.position
    for one, saved in zip(model.variables, arrays.values(), strict=False):
        assert np.isfinite(saved).all()
        np.testing.assert_array_equal(one.numpy(), saved)
    assert f"back at the checkpoint of epoch {last.epoch}" in str(info.value)
    return info.value


@pytest.fixture
def checkpoints_min(monkeypatch):
    # The loss decides which is best.
    original = Checkpoints.__init__
    monkeypatch.setattr(
        Checkpoints, "__init__", lambda self, folder: original(self, folder, mode="min")
    )


pytestmark = pytest.mark.usefixtures("checkpoints_min", "quick_disk")


@pytest.mark.parametrize("epoch, step", [(0, 0), (0, 3), (1, 5), (2, 1)])
def test_nan_in_an_image(tmp_path, epoch, step):
    images = IMAGES.copy()
    images[(epoch * STEPS + step) * BATCH + 2, 0, 0, 0] = np.nan
    model = make_model(run_eagerly=epoch != 2)
    found = failure(model, tmp_path, batches(images))
    assert found.position == Position(epoch, step)
    assert found.layer is None
    assert found.cause == "the input batch itself, in samples [2]"
    assert f"in step {step + 1} of epoch {epoch + 1}: it began with" in str(found)


def test_the_first_layer_is_named_wherever_it_is(tmp_path):
    # One image is so dark that the logarithm fails on it, at a known step.
    images = IMAGES.copy()
    images[(STEPS + 2) * BATCH + 1] *= 1e4
    nested = keras.Sequential([Logarithm(name="deep")], name="net")
    cases = {
        "alone": Logarithm(name="alone"),
        "block/inner": Block(Logarithm(name="inner"), name="block"),
        "net/deep": nested,
        "log": lambda x: x + 0 * keras.ops.log(x + 100),
    }
    for name, layer in cases.items():
        found = failure(make_model(layer), tmp_path / name, batches(images))
        assert found.position == Position(1, 2), name
        # Keras numbers operations in the order in which a process makes them.
        assert re.fullmatch(rf"{name}(_\d+)?", found.layer)
        assert found.cause == f"the output of the layer {found.layer}"
    # The second of these is the one that began.
    both = keras.Sequential(
        [
            Logarithm(-1e9, name="never"),
            Logarithm(name="here"),
            Logarithm(name="later"),
        ],
        name="net",
    )
    assert failure(make_model(both), tmp_path, batches(images)).layer == "net/here"


def test_learning_rate_that_overflows(tmp_path):
    # Sane for 9 steps; float32 ends at 3.4e38, and two layers of 1e30 are beyond.
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([8], [1e-3, 1e30])
    found = failure(make_model(optimizer=keras.optimizers.SGD(rate)), tmp_path)
    # The tenth update is the first with that rate, the eleventh loss the first with it.
    assert found.position == Position(1, 4)
    assert found.cause == "the output of the layer attention/reduce"


def test_an_update_that_is_not_finite_is_named_by_its_weight(tmp_path):
    class Root(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(name="scale", shape=(), initializer="zeros")

        def call(self, x):
            # The root of 0 has a value, and no finite derivative.
            return x * (1 + keras.ops.sqrt(keras.ops.square(self.scale)))

    found = failure(make_model(Root(name="root")), tmp_path)
    assert found.position == Position(0, 1)
    assert found.layer == "root"
    assert found.cause == "the variable root/scale, in the update before"


def test_a_loss_that_fails_by_itself(tmp_path):
    model = make_model(optimizer=keras.optimizers.SGD(0.01))

    @keras.saving.register_keras_serializable(package="test")
    def loss(y, answer):
        error = keras.ops.mean(keras.ops.square(answer), -1)
        return error + 0 * keras.ops.log(2.5 - keras.ops.cast(y[..., 0], "float32"))

    model.compile(model.optimizer, loss)
    classes = CLASSES[:, None].copy()
    classes[9 * BATCH] = 3
    found = failure(model, tmp_path, batches(classes=classes))
    assert found.position == Position(1, 3)
    assert found.layer is None
    assert found.cause == "the loss itself: all layers' outputs are finite"


def test_a_failure_that_does_not_come_again_says_so(tmp_path):
    chosen, faults = IMAGES[(STEPS + 1) * BATCH], iter([np.nan])

    def read(images):
        # The eighth batch, at its first time.
        due = np.array_equal(images[0], chosen)
        return images * np.float32(next(faults, 1) if due else 1)

    def dataset(position):
        return batches()(position).map(
            lambda x, y: (
                tf.ensure_shape(tf.numpy_function(read, [x], tf.float32), x.shape),
                y,
            )
        )

    found = failure(make_model(), tmp_path, dataset)
    assert found.position == Position(1, 1)
    assert found.layer is None
    assert found.cause == "something that did not happen again"


def test_several_steps_at_once(tmp_path):
    images = IMAGES.copy()
    images[(STEPS + 1) * BATCH] = np.nan
    model = make_model(steps_per_execution=3, run_eagerly=False)
    found = failure(model, tmp_path, batches(images))
    assert found.position == Position(1, 1)
    assert found.cause == "the input batch itself, in samples [0]"
    assert model.steps_per_execution == 3


def test_the_file_system_is_needed(tmp_path):
    lost = non_finite.NonFiniteLoss(Position(1, 1))
    with pytest.raises(ValueError, match="none has no checkpoint to begin from"):
        non_finite.locate(
            make_model(),
            lost,
            checkpoints=Checkpoints(tmp_path / "none"),
            dataset=batches(),
            steps_per_epoch=STEPS,
        )
    assert str(lost) == "the loss is not finite in step 2 of epoch 2"


def test_validation_that_fails(tmp_path):
    images = IMAGES[:BATCH].copy()
    images[1, 0, 0, 0] = np.inf
    found = failure(
        make_model(),
        tmp_path,
        validation_data=tf.data.Dataset.from_tensors((images, CLASSES[:BATCH])),
    )
    assert found.validation
    assert found.position == Position(1)
    assert found.cause == "the input batch itself, in samples [1]"
    assert "in the validation after epoch 1" in str(found)

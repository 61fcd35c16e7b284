"""`resuming.fit`: the same weights and logs however often it is broken off."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.checkpointing import BreakOff, network

from keras_attention.training import resuming
from keras_attention.training.checkpoints import Checkpoints, Position

RANDOM = np.random.default_rng(0)
EPOCHS, STEPS, BATCH = 3, 5, 8
IMAGES = RANDOM.normal(size=(EPOCHS * STEPS * BATCH, 6)).astype("float32")
CLASSES = (IMAGES[:, 0] > 0).astype("int32")


pytestmark = pytest.mark.usefixtures("quick_disk")


class StopAfter(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def make_model(use_ema=True):
    keras.utils.set_random_seed(0)
    model = network(6, 8, 0.3, 2)
    rate = keras.optimizers.schedules.CosineDecay(0.1, EPOCHS * STEPS)
    model.compile(
        keras.optimizers.AdamW(rate, use_ema=use_ema, ema_momentum=0.8),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def dataset(position):
    data = tf.data.Dataset.from_tensor_slices((IMAGES, CLASSES))
    return data.batch(BATCH).repeat().skip(position.epoch * STEPS + position.step)


def fit(model, folder, callbacks=lambda start: [], **arguments):
    checkpoints = Checkpoints(folder)
    start = checkpoints.restore(model)
    return resuming.fit(
        model,
        dataset,
        checkpoints=checkpoints,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        start=start,
        every_steps=2,
        validation_data=dataset(Position()).take(3),
        callbacks=callbacks(start),
        verbose=0,
        **arguments,
    )


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("use_ema", [True, False])
def test_broken_off_three_times(tmp_path, use_ema):
    whole = make_model(use_ema)
    expected = fit(whole, tmp_path / "whole")
    assert set(expected) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(log) for log in expected.values()} == {EPOCHS}

    # In an epoch, in the same one again, and in the last.
    for at in ((0, 3), (0, 4), (2, 3)):
        with pytest.raises(InterruptedError):
            fit(
                make_model(use_ema),
                tmp_path / "broken",
                lambda start, at=at: [BreakOff(*at, start)],
            )
    last = make_model(use_ema)
    assert Checkpoints(tmp_path / "broken").restore(last) == Position(2, 2)
    history = fit(last, tmp_path / "broken")
    assert history == expected
    assert_same(state(last), state(whole))
    assert last.optimizer.iterations.numpy() == EPOCHS * STEPS

    # When all is done there is nothing left to do.
    done = make_model(use_ema)
    assert fit(done, tmp_path / "broken") == expected
    assert_same(state(done), state(whole))


def test_the_logs_are_those_of_keras(tmp_path):
    model, plain = make_model(use_ema=False), make_model(use_ema=False)
    found = fit(model, tmp_path)
    expected = plain.fit(
        dataset(Position()),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        validation_data=dataset(Position()).take(3),
        shuffle=False,
        verbose=0,
    ).history
    assert found == expected
    assert_same(state(model), state(plain))


def test_stopping_in_the_rest_of_an_epoch_leaves_the_averages(tmp_path):
    with pytest.raises(InterruptedError):
        fit(make_model(), tmp_path, lambda start: [BreakOff(1, 3, start)])
    model = make_model()
    history = fit(model, tmp_path, lambda start: [StopAfter()])
    assert len(history["loss"]) == 2
    averages = [v.numpy() for v in model.optimizer.variables if "average" in v.path]
    assert_same([v.numpy() for v in model.trainable_variables], averages)


def test_a_full_folder_is_not_begun_in(tmp_path):
    Checkpoints(tmp_path).save(make_model(), Position(1))
    with pytest.raises(ValueError, match="holds checkpoints of another run"):
        resuming.fit(
            make_model(),
            dataset,
            checkpoints=Checkpoints(tmp_path),
            epochs=1,
            steps_per_epoch=STEPS,
        )

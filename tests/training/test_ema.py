"""Averaged weights: validated on and saved, and training goes on as without."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.checkpointing import assert_same, network, state

from keras_attention.training import ema

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(64, 6)).astype("float32")
CLASSES = (IMAGES[:, 0] > 0).astype("int32")


def make_model(use_ema=True, wrap=lambda optimizer: optimizer):
    keras.utils.set_random_seed(0)
    model = network(6, 8, 0.3, 2)
    model.compile(
        wrap(keras.optimizers.SGD(0.3, momentum=0.9, use_ema=use_ema)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=True,  # tracing would take longer than the few steps
    )
    return model


def fit(model, callbacks=(), epochs=3, **arguments):
    data = tf.data.Dataset.from_tensor_slices((IMAGES, CLASSES)).batch(16)
    return model.fit(
        data,
        epochs=epochs,
        callbacks=list(callbacks),
        shuffle=False,
        verbose=0,
        **arguments,
    ).history


class EachEpoch(keras.callbacks.Callback):
    """The state that training has after each epoch, and the averages' own loss."""

    def __init__(self):
        super().__init__()
        self.states, self.losses = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.states.append(state(self.model))
        # By Keras itself, in a model of its own.
        twin = make_model()
        twin.optimizer.build(twin.trainable_variables)
        for variable, value in zip(
            (*twin.variables, *twin.optimizer.variables), self.states[-1], strict=True
        ):
            variable.assign(value)
        twin.optimizer.finalize_variable_values(twin.trainable_variables)
        self.losses.append(twin.evaluate(IMAGES, CLASSES, verbose=0)[0])


@pytest.mark.parametrize("wrapped", [False, True])
def test_validation_sees_the_averages_and_training_sees_nothing(wrapped):
    wrap = keras.optimizers.LossScaleOptimizer if wrapped else lambda one: one
    plain, watched = make_model(wrap=wrap), make_model(wrap=wrap)
    expected, found = EachEpoch(), EachEpoch()
    if wrapped:
        for watch in (expected, found):
            watch.on_epoch_end = lambda epoch, logs=None, watch=watch: (
                watch.states.append(state(watch.model))
            )
    validation = {"validation_data": (IMAGES, CLASSES)}
    raw = fit(plain, [expected], **validation)["val_loss"]
    averaged = fit(watched, [ema.EvaluateAverages(), found], **validation)["val_loss"]
    for one, other in zip(found.states, expected.states, strict=True):
        assert_same(one, other)
    assert_same(state(watched), state(plain))
    # At the first epochs the averages are still near the initial weights.
    assert np.abs(np.subtract(averaged, raw)).min() > 0.01
    if not wrapped:
        # The same arithmetic on the same values, in batches of another size: rounding.
        np.testing.assert_allclose(averaged, found.losses, rtol=1e-5)


def test_the_averages_can_be_saved_while_training_goes_on(tmp_path):
    model = make_model()
    fit(model, [ema.KeepRawWeights()])
    before = state(model)
    with ema.averaged(model) as same:
        assert same is model
        inside = [variable.numpy() for variable in model.trainable_variables]
        model.save(tmp_path / "model.keras")
    assert_same(state(model), before)
    averages = [v.numpy() for v in model.optimizer.variables if "average" in v.path]
    assert_same(inside, averages)
    assert any((one != other).any() for one, other in zip(inside, before, strict=False))
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same([v.numpy() for v in loaded.trainable_variables], averages)

    with pytest.raises(RuntimeError, match="inside"), ema.averaged(model):
        raise RuntimeError("inside")
    assert_same(state(model), before)


def test_two_fits_are_one():
    once, twice = make_model(), make_model()
    fit(once, epochs=4)
    fit(twice, [ema.KeepRawWeights()], epochs=1)
    fit(twice, epochs=4, initial_epoch=1)
    assert_same(state(twice), state(once))
    # And Keras alone goes on from the averages.
    other = make_model()
    fit(other, epochs=1)
    fit(other, epochs=4, initial_epoch=1)
    assert (other.get_weights()[0] != once.get_weights()[0]).any()


def test_without_averages():
    model = make_model(use_ema=False)
    assert not ema.has_averages(model)
    assert ema.has_averages(make_model())
    with pytest.raises(ValueError, match="keeps no averages: it needs use_ema=True"):
        model.evaluate(IMAGES, CLASSES, callbacks=[ema.EvaluateAverages()], verbose=0)

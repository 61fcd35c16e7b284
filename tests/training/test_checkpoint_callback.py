"""When the callback saves, and what it refuses."""

import pytest
from support.checkpointing import (
    CLASSES,
    IMAGES,
    make_model,
    names,
    train,
)

from keras_attention.training.checkpoint_callback import CheckpointCallback
from keras_attention.training.checkpoints import (
    Checkpoints,
    Position,
)

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_wrong_arguments_of_the_callback(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for steps in (0, 1.5):
        with pytest.raises(ValueError, match="every_steps must be a positive integer"):
            CheckpointCallback(checkpoints, every_steps=steps)
    with pytest.raises(ValueError, match="the best val_loss is the smallest"):
        CheckpointCallback(checkpoints, monitor="val_loss")
    callback = CheckpointCallback(checkpoints, monitor="val_acc")
    model = make_model()
    with pytest.raises(
        ValueError, match="monitor is 'val_acc'; logged are accuracy, loss, val_acc"
    ):
        model.fit(
            IMAGES,
            CLASSES,
            validation_data=(IMAGES, CLASSES),
            callbacks=[callback],
            verbose=0,
        )


def test_the_callback_saves_each_epoch_and_every_few_steps(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=20)
    model = make_model()
    callback = CheckpointCallback(checkpoints, {"lr": 1}, every_steps=3)
    # A clean epoch of 8 steps, and one that begins behind its fourth.
    data = {"x": IMAGES, "y": CLASSES, "batch_size": 1, "verbose": 0}
    log = model.fit(
        **data, validation_data=(IMAGES, CLASSES), callbacks=[callback]
    ).history
    assert callback.history == log
    assert names(checkpoints) == [
        "epoch00000-step0000003",
        "epoch00000-step0000006",
        "epoch00001-step0000000",
    ]
    assert checkpoints.best == checkpoints.paths[-1]
    checkpoints.save(train(model, 4), Position(1, 4), {"lr": 1})
    assert checkpoints.restore(model, {"lr": 1}) == Position(1, 4)
    callback = CheckpointCallback(checkpoints, every_steps=3, start=Position(1, 4))
    model.fit(
        **data, steps_per_epoch=4, initial_epoch=1, epochs=2, callbacks=[callback]
    )
    assert names(checkpoints)[3:] == [
        "epoch00001-step0000004",
        "epoch00001-step0000006",
        "epoch00002-step0000000",
    ]

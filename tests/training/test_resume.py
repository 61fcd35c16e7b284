"""A run killed with SIGKILL goes on as if nothing had happened, to the last bit."""

import random

import keras
import numpy as np
import pytest
from support import killing

from keras_attention.training import logs


@pytest.mark.slow
def test_a_run_killed_three_times_ends_bitwise_like_one_that_was_not(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    begin, expected = killing.finish(whole)
    assert begin == "begins at None"
    # 4 epochs of 22 steps; the loss falls, so there is something to lose.
    assert len(expected["loss"]) == 4
    assert expected["loss"][-1] < 0.8 * expected["loss"][0]

    steps = [
        killing.kill_at(killed, *moment)[0] for moment in killing.moments(3, seed=0)
    ]
    begin, found = killing.finish(killed)
    # It neither began anew nor was it done.
    assert min(steps) > 0 and sum(steps) < 88
    assert begin.startswith("begins at Position(epoch=") and "epoch=4" not in begin
    killing.assert_equal_runs(found, expected)


@pytest.mark.slow
def test_the_command_killed_in_both_of_its_trainings_leaves_the_same_models(tmp_path):
    options = [
        *("--image-size", "16", "--epochs", "2", "--batch-size", "64"),
        *("--learning-rate", "0.02", "--checkpoint-steps", "5"),
        *("--set", "quantize.epochs=1", "--set", "weight_ema=0.9"),
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    killing.train_command(whole, options)
    draw = random.Random(0)
    # Of eleven files of the first training; of six of the second.
    for name, last in (("checkpoints/epoch", 10), ("checkpoints/quantized/epoch", 6)):
        killing.train_command(killed, options, (name, draw.randint(3, last)))
        assert not (killed / "model.keras").exists()
    written = killing.train_command(killed, options)
    # It neither began anew nor trained what it had trained.
    assert not any(name.startswith("checkpoints/epoch") for name in written)
    assert "checkpoints/quantized/epoch00000-step0000000.safetensors" not in written
    for name in ("model.keras", "quantized.keras"):
        found, expected = (
            keras.saving.load_model(folder / name).weights for folder in (killed, whole)
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{name}: {one.path}")
    for name in ("logs/epochs.csv", "logs/quantized/epochs.csv"):
        found, expected = (logs.read(folder / name) for folder in (killed, whole))
        for column in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy"):
            assert found[column] == expected[column]


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_end_like_two_that_were_not(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    begins, expected = killing.finish_workers(whole)
    assert begins == ["begins at None"] * 2
    killing.kill_worker(killed, 1, steps=40)  # in the second epoch
    begins, found = killing.finish_workers(killed)
    # Both read what the chief has written.
    assert begins[0] == begins[1]
    assert begins[0].startswith("begins at Position(epoch=1, step=")
    # A metric's sum is a float32 per worker, which are brought together and divided.
    killing.assert_equal_runs(found, expected, log_tolerance=1e-6)


def test_the_comparison_sees_a_single_bit():
    run = {name: np.ones(2, "float32") for name in ("loss", "val_accuracy")}
    run["variable 0"] = np.ones(3, "float32")
    other = run | {"variable 0": np.nextafter(run["variable 0"], np.float32(2))}
    with pytest.raises(AssertionError, match="variable 0"):
        killing.assert_equal_runs(other, run)

"""Checkpoints: what is in them, which are kept, and what befalls damaged ones."""

import dataclasses

import keras
import numpy as np
import pytest
from support.checkpointing import (
    assert_same,
    make_model,
    names,
    state,
    train,
)

from keras_attention.training import checkpoint_state
from keras_attention.training.checkpoints import (
    Checkpoints,
    NonFiniteStateError,
    Position,
)

"""Checkpoints: what is in them, which are kept, and what befalls damaged ones."""


pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_float16"])
def test_everything_survives_and_the_next_steps_are_the_same(tmp_path, dtype):
    first, second = make_model(dtype=dtype), make_model(dtype=dtype)
    train(first)
    train(second, 2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(first, Position(2, 7))
    expected = state(first)
    metrics = [variable.numpy() for variable in first.metrics_variables]
    # Dropout's state, two moments, averages, counters, statistics: all but the metrics.
    assert len(expected) == len(first.weights) + 1 + 2 + 3 * 6
    following = state(train(first))

    assert Checkpoints(tmp_path).restore(second) == Position(2, 7)
    assert_same(state(second), expected)
    if dtype == "bfloat16":
        assert {str(w.dtype) for w in second.weights} == {"bfloat16"}
    restoring = Checkpoints(tmp_path)
    restoring.restore(second)
    second.reset_metrics()
    restoring.restore_metrics(second)
    assert_same([v.numpy() for v in second.metrics_variables], metrics)
    assert_same(state(train(second)), following)


def test_the_newest_and_the_best_are_kept(tmp_path):
    model = train(make_model())
    checkpoints = Checkpoints(tmp_path, keep=2)
    nan = float("nan")
    values = [nan, 0.3, 0.9, 0.9, nan, 0.5, None]
    for epoch, value in enumerate(values):
        checkpoints.save(model, Position(epoch), value=value)
    assert names(checkpoints) == [
        "epoch00002-step0000000",
        "epoch00005-step0000000",
        "epoch00006-step0000000",
    ]
    # Of equal values the first; and a new process finds it in the files.
    for again in (checkpoints, Checkpoints(tmp_path)):
        assert again.best == tmp_path / "epoch00002-step0000000.safetensors"

    restarted = Checkpoints(tmp_path, keep=2)
    restarted.restore(model)
    restarted.save(model, Position(7), value=0.8)
    assert restarted.best == tmp_path / "epoch00002-step0000000.safetensors"
    restarted.save(model, Position(7, 5))
    restarted.save(model, Position(8), value=0.95)
    assert names(restarted) == ["epoch00007-step0000005", "epoch00008-step0000000"]
    assert restarted.best == tmp_path / "epoch00008-step0000000.safetensors"


def test_the_smallest_is_best_in_mode_min(tmp_path):
    model = train(make_model())
    checkpoints = Checkpoints(tmp_path, keep=1, mode="min")
    for epoch, value in enumerate([float("nan"), 2.0, 1.0, 3.0]):
        checkpoints.save(model, Position(epoch), value=value)
    assert names(checkpoints) == ["epoch00002-step0000000", "epoch00003-step0000000"]


def test_without_a_value_none_is_best(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(train(make_model()), Position(1), value=float("nan"))
    assert checkpoints.best is None
    assert len(checkpoints.paths) == 1


@pytest.mark.parametrize("how", ["torn", "flipped", "empty"])
def test_a_damaged_file_falls_back_with_a_warning(tmp_path, how):
    model = train(make_model())
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(model, Position(1), value=0.5)
    expected = state(model)
    newest = checkpoints.save(train(model), Position(2), value=0.9)
    data = bytearray(newest.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 4
    newest.write_bytes({"torn": data[:-1], "flipped": data, "empty": b""}[how])

    again, other = Checkpoints(tmp_path), make_model()
    assert again.best == tmp_path / "epoch00001-step0000000.safetensors"
    with pytest.warns(
        UserWarning,
        match=r"epoch00002-step0000000\.safetensors is damaged: .*; going on from "
        r"epoch00001-step0000000\.safetensors$",
    ):
        assert again.restore(other) == Position(1)
    assert_same(state(other), expected)
    # Training went another way from here; what was damaged goes.
    again.save(other, Position(1, 3))
    assert names(again) == ["epoch00001-step0000000", "epoch00001-step0000003"]


def test_none_good_is_an_error_and_none_at_all_is_not(tmp_path):
    model = train(make_model())
    before = state(model)
    assert Checkpoints(tmp_path / "none").restore(model) is None
    checkpoints = Checkpoints(tmp_path)
    for epoch in (1, 2):
        checkpoints.save(model, Position(epoch)).write_bytes(b"no checkpoint")
    with pytest.raises(
        ValueError, match=r"^no checkpoint is good: .*epoch00002.*; .*epoch00001"
    ):
        Checkpoints(tmp_path).restore(model)
    assert_same(state(model), before)


def test_nobody_writes_over_a_run_that_was_not_restored(tmp_path):
    model = train(make_model())
    path = Checkpoints(tmp_path).save(model, Position(30))
    fresh = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="holds checkpoints of another run: restore"):
        fresh.save(model, Position())
    assert path.exists()
    fresh.clear()
    fresh.save(model, Position())
    assert names(fresh) == ["epoch00000-step0000000"]


def test_another_model_is_refused_by_the_variable(tmp_path):
    Checkpoints(tmp_path).save(train(make_model()), Position(1))

    def restoring(model):
        before = state(model)
        with pytest.raises(ValueError) as info:
            Checkpoints(tmp_path).restore(model)
        assert_same(state(model), before)
        return str(info.value)

    message = restoring(train(make_model(units=6)))
    assert "epoch00001-step0000000.safetensors is of another model" in message
    assert "/kernel of shape (4, 5) and dtype float32 would go to" in message
    assert "/kernel of shape (4, 6) and dtype float32" in message
    message = restoring(train(make_model(dtype="bfloat16")))
    assert "of shape (4, 5) and dtype bfloat16" in message
    message = restoring(train(make_model(optimizer=keras.optimizers.SGD(0.1))))
    assert "saved as adam_w" in message and "would go to sgd" in message
    message = restoring(train(make_model(optimizer=keras.optimizers.AdamW(0.01))))
    assert "_average of shape (4, 5)" in message and "_momentum of" in message


def test_a_variable_more_is_named():
    model = train(make_model())
    arrays = checkpoint_state.read(model)
    last = [name for name in arrays if name.startswith("optimizer/")][-1]
    fewer = {name: array for name, array in arrays.items() if name != last}
    with pytest.raises(
        ValueError,
        match=r"^19 saved variables of the optimizer would go to 20; "
        f"the first without its like is {last.split('/', 2)[2]}$",
    ):
        checkpoint_state.assign(model, fewer)


@dataclasses.dataclass(frozen=True)
class Section:
    lr: float = 0.1
    milestones: tuple = (3, 6)


@dataclasses.dataclass(frozen=True)
class Recipe:
    epochs: int = 3
    optimizer: Section = Section()
    name: str | None = None


def test_another_recipe_is_refused_by_its_entries(tmp_path):
    model = train(make_model())
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(model, Position(1), Recipe())
    assert checkpoints.restore(model, Recipe()) == Position(1)
    assert checkpoints.restore(model, dataclasses.asdict(Recipe())) == Position(1)
    assert checkpoints.restore(model) == Position(1)
    other = Recipe(epochs=9, optimizer=Section(lr=0.2))
    with pytest.raises(
        ValueError,
        match=r"made with another recipe: epochs was 3 and is 9; "
        r"optimizer\.lr was 0\.1 and is 0\.2\. Use another folder",
    ):
        checkpoints.restore(model, other)
    with pytest.raises(ValueError, match=r"recipe: optimizer\.lr was"):
        checkpoints.restore(model, other, may_differ=["epochs"])
    assert checkpoints.restore(model, other, may_differ=["epochs", "optimizer"])
    with pytest.raises(ValueError, match="new was 'nothing' and is 1"):
        checkpoints.restore(model, dataclasses.asdict(Recipe()) | {"new": 1})


@pytest.mark.parametrize("target", ["weight", "metric"])
def test_what_is_not_finite_is_not_saved(tmp_path, target):
    model = train(make_model())
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(model, Position(1))
    bad = model.layers[0].bias if target == "weight" else model.metrics_variables[0]
    bad.assign(np.full(bad.shape, np.inf))
    with pytest.raises(NonFiniteStateError, match=f"{bad.path} is not finite") as info:
        checkpoints.save(model, Position(2, 5))
    assert info.value.position == Position(2, 5)
    assert names(checkpoints) == ["epoch00001-step0000000"]


def test_who_does_not_write_reads(tmp_path):
    model = train(make_model())
    reader = Checkpoints(tmp_path, write=False)
    assert reader.save(model, Position(1)) is None
    assert not list(tmp_path.iterdir())
    Checkpoints(tmp_path).save(model, Position(1))
    assert reader.restore(make_model()) == Position(1)
    reader.save(model, Position(2))
    reader.clear()
    assert names(reader) == ["epoch00001-step0000000"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"keep": 0}, "keep must be a positive integer, got 0"),
        ({"keep": 1.5}, r"keep must be a positive integer, got 1\.5"),
        ({"mode": "auto"}, 'mode must be "max" or "min", got \'auto\''),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path, **arguments)


def test_metrics_that_are_not_there_are_missed(tmp_path):
    model = train(make_model())
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="metrics are not those of the checkpoint"):
        checkpoints.restore_metrics(model)
    checkpoints.save(model, Position(1, 3))
    checkpoints.restore(model)
    with pytest.raises(ValueError, match="metrics are not those of the checkpoint"):
        checkpoints.restore_metrics(make_model())

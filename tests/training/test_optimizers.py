"""Optimizers against numpy: steps, weight decay, schedules, clipping, averages."""

import math

import keras
import numpy as np
import pytest
from support import optimizing

import keras_attention
from keras_attention import registry
from keras_attention.optimization import decays
from keras_attention.training import optimizers
from keras_attention.training.recipe import Recipe

SHAPES = {"kernel": (3, 2), "depthwise": (3, 3, 4, 1), "bias": (2,), "gamma": (4,)}
# Float32 numbers around 1, changed a few dozen times: some units in the 7th digit.
ROUNDING = {"rtol": 3e-6, "atol": 3e-6}


def recipe(*overrides):
    return Recipe().replace(["schedule.name=constant", *overrides])


def variables(seed=0):
    rng = np.random.default_rng(seed)
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=name)
        for name, shape in SHAPES.items()
    ]


def gradients(step):
    rng = np.random.default_rng(step + 1)
    return [rng.normal(size=shape).astype("float32") for shape in SHAPES.values()]


def apply(optimizer, steps, found=gradients):
    """Returns the values before the first and after each step, float64."""
    weights = variables()
    optimizer.build(weights)
    values = [[np.asarray(weight, "float64") for weight in weights]]
    for step in range(steps):
        optimizer.apply(
            [keras.ops.convert_to_tensor(gradient) for gradient in found(step)]
        )
        values.append([np.asarray(weight, "float64") for weight in weights])
    return values


def kernels(values):
    return [len(value.shape) > 1 for value in values]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    lr, momentum, decay = 0.1, 0.9, 0.05
    values = apply(
        optimizers.build(
            recipe(
                f"optimizer.lr={lr}",
                f"optimizer.momentum={momentum}",
                f"optimizer.weight_decay={decay}",
                f"optimizer.nesterov={str(nesterov).lower()}",
            ),
            5,
        ),
        steps=12,
    )
    weights = list(values[0])
    buffers = [np.zeros_like(weight) for weight in weights]
    for step in range(12):
        for i, gradient in enumerate(gradients(step)):
            if weights[i].ndim > 1:
                gradient = gradient + decay * weights[i]
            buffers[i] = momentum * buffers[i] + gradient
            if nesterov:
                gradient = gradient + momentum * buffers[i]
            else:
                gradient = buffers[i]
            weights[i] = weights[i] - lr * gradient
        for ours, theirs in zip(values[step + 1], weights, strict=True):
            np.testing.assert_allclose(ours, theirs, **ROUNDING)


def test_keras_own_weight_decay_would_pull_a_tenth_as_much():
    steps, lr, decay, momentum = 40, 0.01, 0.01, 0.9

    def pull(optimizer):
        nothing = [np.zeros(shape, "float32") for shape in SHAPES.values()]
        values = apply(optimizer, steps, lambda step: nothing)
        return math.log(values[0][0][0, 0] / values[-1][0][0, 0])

    coupled = pull(
        optimizers.build(
            recipe(f"optimizer.lr={lr}", f"optimizer.weight_decay={decay}"), 5
        )
    )
    own = pull(keras.optimizers.SGD(lr, momentum=momentum, weight_decay=decay))
    # Each step pulls at all that follow: 1 + m + m^2 + ... times, up to the last.
    times = [sum(momentum**age for age in range(step + 1)) for step in range(steps)]
    # The kernel shrinks by 3 % meanwhile.
    assert coupled / own == pytest.approx(sum(times) / steps, rel=0.03)
    assert times[-1] == pytest.approx(10, rel=0.02)


def test_rmsprop():
    lr, momentum, decay = 0.01, 0.9, 0.05
    built = optimizers.build(
        recipe(
            "optimizer.name=rmsprop",
            f"optimizer.lr={lr}",
            f"optimizer.momentum={momentum}",
            f"optimizer.weight_decay={decay}",
        ),
        5,
    )
    values = apply(built, steps=12)
    weights = list(values[0])
    squares = [np.zeros_like(weight) for weight in weights]
    buffers = [np.zeros_like(weight) for weight in weights]
    for step in range(12):
        for i, gradient in enumerate(gradients(step)):
            if weights[i].ndim > 1:
                gradient = gradient + decay * weights[i]
            squares[i] = 0.9 * squares[i] + 0.1 * gradient**2
            buffers[i] = momentum * buffers[i] + lr * gradient / np.sqrt(
                squares[i] + 1e-3
            )
            weights[i] = weights[i] - buffers[i]
    for ours, theirs in zip(values[-1], weights, strict=True):
        np.testing.assert_allclose(ours, theirs, **ROUNDING)


def test_adamw_decays_kernels_only():
    lr, decay = 0.01, 0.1
    nothing = [np.zeros(shape, "float32") for shape in SHAPES.values()]
    built = optimizers.build(
        recipe(
            "optimizer.name=adamw",
            f"optimizer.lr={lr}",
            f"optimizer.weight_decay={decay}",
        ),
        5,
    )
    before, *_, after = apply(built, 10, lambda step: nothing)
    for old, new, kernel in zip(before, after, kernels(before), strict=True):
        if kernel:
            np.testing.assert_allclose(new, old * (1 - lr * decay) ** 10, **ROUNDING)
        else:
            np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("name", optimizing.OPTIMIZERS)
def test_names_of_layers_do_not_matter(name):
    # In TensorFlow's own name of a variable stands the layer's.
    x = keras.Input((4,))
    y = keras.layers.Dense(3, name="bias_gamma_beta")(x)
    y = keras.layers.BatchNormalization(name="kernel_norm")(y)
    model = keras.Model(x, keras.layers.Dense(2, name="kernel")(y))
    built = optimizers.build(
        recipe(
            f"optimizer.name={name}", "optimizer.lr=0.1", "optimizer.weight_decay=0.1"
        ),
        5,
    )
    built.build(model.trainable_variables)
    before = [np.asarray(weight) for weight in model.trainable_variables]
    built.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables])
    shrunk = {
        weight.path
        for weight, old in zip(model.trainable_variables, before, strict=True)
        if not np.array_equal(weight, old)
    }
    assert shrunk == {"bias_gamma_beta/kernel", "kernel/kernel"}


def test_what_decays_in_every_block():
    arguments = {"aw": {"filters": 64, "kernel_size": 3}, "sa": {"groups": 8}}
    for block in keras_attention.names():
        layer = registry.get(block, **arguments.get(block, {}))
        layer.build((None, 8, 8, 64))
        for variable in layer.trainable_variables:
            assert decays(variable) == (variable.name == "kernel"), variable.path
    norm = keras.layers.LayerNormalization((1, 2, 3))
    norm.build((None, 8, 8, 64))
    assert [decays(variable) for variable in norm.trainable_variables] == [False] * 2


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["schedule.warmup_epochs=2", "schedule.final=0.1"],
            {
                0: 0.0,
                5: 0.25,
                19: 0.95,
                20: 1.0,
                60: 0.1 + 0.9 * 0.5,
                99: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 79 / 80)),
                100: 0.1,
            },
        ),
        (
            [],
            {
                0: 1.0,
                25: 0.5 * (1 + math.cos(math.pi / 4)),
                50: 0.5,
                99: 0.5 * (1 + math.cos(math.pi * 0.99)),
            },
        ),
        (
            ["schedule={name: step, milestones: [4, 8], factor: 0.2}"],
            {0: 1.0, 39: 1.0, 40: 0.2, 79: 0.2, 80: 0.04, 99: 0.04},
        ),
        (
            [
                "schedule={name: step, milestones: [4, 8], factor: 0.2, "
                "warmup_epochs: 0.5}"
            ],
            {0: 0.0, 1: 0.2, 4: 0.8, 5: 1.0, 39: 1.0, 40: 0.2, 80: 0.04, 99: 0.04},
        ),
        (
            ["schedule={name: constant, warmup_epochs: 1}"],
            {0: 0.0, 3: 0.3, 10: 1.0, 99: 1.0},
        ),
    ],
    ids=["cosine-warm", "cosine", "step", "step-warm", "constant-warm"],
)
def test_rates(overrides, expected):
    lr = 0.4
    built = optimizers.build(
        Recipe().replace(["epochs=10", f"optimizer.lr={lr}", *overrides]), 10
    )
    saved = keras.optimizers.deserialize(keras.optimizers.serialize(built))
    for optimizer in (built, saved):
        for step, share in expected.items():
            optimizer.iterations.assign(step)
            # Float32's cosine near its end: one unit of 1, times the rate.
            rate = float(optimizer.learning_rate)
            assert rate == pytest.approx(lr * share, rel=1e-5, abs=lr * 1e-7), step


def test_a_constant_rate():
    built = optimizers.build(recipe("optimizer.lr=0.25"), 3)
    assert float(built.learning_rate) == 0.25


def test_the_norm_is_clipped_and_the_decay_is_not():
    built = optimizers.build(
        recipe(
            "optimizer.lr=1",
            "optimizer.momentum=0",
            "optimizer.clip_norm=0.5",
            "optimizer.weight_decay=0.1",
        ),
        5,
    )
    before, after = apply(built, 1)
    found = gradients(0)
    norm = math.sqrt(sum((gradient.astype("float64") ** 2).sum() for gradient in found))
    assert norm > 1  # or nothing is shown
    rows = zip(before, after, found, kernels(before), strict=True)
    for old, new, gradient, kernel in rows:
        expected = old - gradient * (0.5 / norm) - kernel * 0.1 * old
        np.testing.assert_allclose(new, expected, **ROUNDING)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_averages_follow_by_the_momentum_of_an_update(accumulate):
    built = optimizers.build(
        recipe("weight_ema=0.8", f"optimizer.accumulate={accumulate}"), 5
    )
    values = apply(built, 6 * accumulate)
    average = values[accumulate]  # after the first update there is nothing else
    share = 0.8 ** (1 / accumulate)
    for weights in values[accumulate + 1 :]:
        pairs = zip(average, weights, strict=True)
        average = [share * mean + (1 - share) * weight for mean, weight in pairs]
    weights = [keras.Variable(value.astype("float32")) for value in values[-1]]
    built.finalize_variable_values(weights)
    for ours, theirs in zip(weights, average, strict=True):
        np.testing.assert_allclose(ours, theirs, **ROUNDING)


def test_accumulated_batches_are_one_batch():
    overrides = "optimizer.weight_decay=0.1", "optimizer.clip_norm=0.5"
    whole = apply(
        optimizers.build(recipe(*overrides), 5),
        3,
        lambda step: [
            (a + b) / 2
            for a, b in zip(gradients(2 * step), gradients(2 * step + 1), strict=True)
        ],
    )
    built = optimizers.build(recipe(*overrides, "optimizer.accumulate=2"), 5)
    halves = apply(built, 6)
    for ours, theirs in zip(halves[-1], whole[-1], strict=True):
        np.testing.assert_allclose(ours, theirs, **ROUNDING)


def test_accumulating_counts_batches_for_the_schedule():
    built = optimizers.build(
        Recipe().replace(["epochs=10", "optimizer.accumulate=4", "optimizer.lr=1"]), 10
    )
    apply(built, 50)
    assert float(built.learning_rate) == pytest.approx(0.5, abs=1e-6)


def test_without_decay_it_is_keras_sgd():
    ours = apply(optimizers.build(recipe("optimizer.lr=0.1"), 5), 5)
    theirs = apply(keras.optimizers.SGD(0.1, momentum=0.9), 5)
    for own, keras_own in zip(ours[-1], theirs[-1], strict=True):
        # The decay of 0 adds exactly nothing.
        np.testing.assert_array_equal(own, keras_own)


@pytest.mark.parametrize("steps", [0, 2.5, -1, "3"])
def test_steps_per_epoch_is_checked(steps):
    with pytest.raises(
        ValueError, match=r"^steps_per_epoch must be an integer >= 1; received"
    ):
        optimizers.build(Recipe(), steps)

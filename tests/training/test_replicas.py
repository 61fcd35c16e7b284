"""Two logical CPUs under MirroredStrategy compute what one device computes.

The traps of Keras on several replicas, and the tests that show what became of them:

| trap | | shown by |
|---|---|---|
| gradients clipped per replica | cure | clipnorm, global_clipnorm, clipvalue |
| batch statistics per replica | cure | batch_normalization, test_saved |
| the same masks on all replicas | cure | test_masks |
| float16: overflow on one replica | cure | test_overflow |
| steps_per_execution > 1 | cure | steps_per_execution |
| last batch odd, or smaller than the replicas | cure | last_batch |
| a step too many per epoch | refusal | no steps; `steps` of every case |
| jit_compile | refusal | jit_compile |
| gradient accumulation | refusal | accumulation |
| own train_step, own losses, add_loss | refusal | own ..., add_loss |
| parts of different size in training | refusal | batch ..., array |
| one batch for all replicas | refusal | ..._on_batch |
| variables of one device | refusal | outside |
| DataParallel on TensorFlow | refusal | data_parallel |
"""

import re

import keras
import numpy as np
import pytest
from support import distribution, distribution_cases
from support.distribution import TRAINED, Case, assert_equal, one_device, samples

from keras_attention.training import replicas, strategy

EQUAL = [name for name in TRAINED if name != "accumulation"]
SPECIAL = [
    *("masks", "overflow", "quantized", "saved", "resumed", "predicted"),
    *("not_finite", "refusals"),
]

REFUSED = {
    "jit_compile": "^jit_compile=True does not work .* use the JAX backend",
    "accumulation": "^gradient_accumulation_steps does not work on several replicas",
    "accumulation of a recipe": "^optimizer.accumulate does not work on several",
    "batch of a recipe": "divisible by the 2 replicas .* received 9: use 8 or 10$",
    "small batch": "received 1: use 2$",
    "batch of data": "received 7: use 6 or 8$",
    "array": "^fit on several replicas takes what Engine.dataset returns, got ndarray$",
    "no steps": r"^fit .* needs steps_per_epoch, .*steps_per_execution \(1\), got None",
    "steps_per_execution": r"a multiple of steps_per_execution \(2\), got 3$",
    "train_on_batch": "use fit and evaluate in place of train_on_batch",
    "test_on_batch": "use fit and evaluate in place of train_on_batch",
    "predict_on_batch": "would answer each image several times",
    "own train_step": "^OwnStep overrides train_step, ",
    "own compute_loss": "^OwnLoss overrides compute_loss, .* pass the loss to compile",
    "subclassed": "functional and built Sequential models; NotFunctional is neither$",
    "unbuilt": "; Sequential is neither$",
    "add_loss": "^AddsLoss 'adds' adds a loss .* mean or a sum over the batch",
    "nested add_loss": "^AddsLoss 'adds' adds a loss",
    "activity_regularizer": "^Dense 'active' adds a loss",
    "outside": "was built outside of Engine.scope\\(\\): .*kernel has one copy",
    "data_parallel": 'needs the JAX backend.* say nothing; use "mirrored"',
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirrored")
    with distribution.running(folder, EQUAL + SPECIAL, [{}]) as results:
        for name in EQUAL:
            one_device(name)
    return results[0]


def test_the_engine(found):
    assert found["engine"] == ["mirrored", 2, 1, 0, True]


@pytest.mark.parametrize("name", EQUAL)
def test_equals_one_device(found, name):
    # Sums over the batch are taken in another order: float32 rounding, 6 to 8 steps.
    assert_equal(found[name], name, tolerance=1e-5, weights=1e-5)


@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_clipping_is_felt(name):
    plain, clipped = (np.concatenate(one_device(n)["weights"]) for n in ("plain", name))
    assert np.abs(plain - clipped).max() > 0.01


def test_masks(found):
    first, second = found["masks"]
    assert first == second  # Two runs.
    for passed in first["passed"]:
        # Two masks of 256 fair coins: 128 +- 8 features pass in one of them. Identical
        # masks would have 0 here.
        assert 96 < passed.count(1) < 160
        assert passed.count(0) + passed.count(1) + passed.count(2) == 256
    assert len({tuple(passed) for passed in first["passed"]}) == 3
    # What is saved is what one device has after three steps.
    assert first["seed"] == distribution_cases.masks(strategy.Engine())[0]["seed"]


def test_one_replica_draws_what_keras_draws():
    x, y = samples(8)
    found = []
    for kind in (keras.Model, replicas.ReplicatedModel):
        keras.utils.set_random_seed(0)
        inputs = keras.Input(x.shape[1:])
        flat = keras.layers.Flatten()(keras.layers.Dropout(0.5)(inputs))
        model = kind(inputs, keras.layers.Dense(3)(flat))
        model.compile(keras.optimizers.SGD(0.1), distribution_cases.LOSS)
        for _ in range(2):
            model.train_step((x, y))
        found.append([keras.ops.convert_to_numpy(w) for w in model.variables])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_overflow(found):
    overflow = found["overflow"]
    assert overflow["0"] == overflow["1"]
    # Halved once from Keras' 2**15; the weights went on from the step before.
    assert overflow["1"]["scale"] == 2**14
    expected = distribution_cases.overflow(strategy.Engine())["1"]
    assert expected["scale"] == 2**14
    for one, other in zip(overflow["1"]["weights"], expected["weights"], strict=True):
        # Rounding of float16 gradients in other sums, two steps of rate 0.1.
        np.testing.assert_allclose(one, other, atol=1e-3)
    start = Case().network().weights
    for values, weight in zip(overflow["1"]["weights"], start, strict=True):
        # Two of the three steps were taken.
        assert np.abs(values - keras.ops.convert_to_numpy(weight).ravel()).max() > 1e-3


def test_quantized(found):
    found = found["quantized"]
    expected = distribution_cases.quantized(strategy.Engine())
    assert set(found["ranges"]) == set(expected["ranges"])
    for path, values in expected["ranges"].items():
        # A range follows the mean of the replicas' extremes, which are less far out
        # than the batch's: here 0.12 % of the largest after 8 steps of 2 x 8 images.
        width = np.abs(values).max()
        np.testing.assert_allclose(
            found["ranges"][path], values, rtol=0, atol=2e-3 * width
        )
    for path, values in expected["weights"].items():
        # Values that are rounded to the next step, in steps of rate 0.01.
        np.testing.assert_allclose(found["weights"][path], values, rtol=0, atol=2e-4)
    share = max(
        distribution.largest_difference([found["ranges"][path]], [values])
        / np.abs(values).max()
        for path, values in expected["ranges"].items()
        if np.any(values)
    )
    weight = distribution.largest_difference(
        [found["weights"][path] for path in expected["weights"]],
        expected["weights"].values(),
    )
    print(f"ranges within {share:.2%}, weights within {weight:.1e}")  # pytest -s


def test_saved(found):
    saved = found["saved"]
    # BatchNormalization beside CoordAttention, and the one inside of it.
    assert saved["during"] == [[True, True]]
    distribution.assert_saved_plain(saved)


def test_a_run_goes_on_in_the_middle_of_an_epoch(found):
    distribution.assert_resumed(found["resumed"])


def test_a_loss_that_is_not_finite_is_traced_to_its_layer(found):
    distribution.assert_not_finite(found["not_finite"])


def test_predicted(found):
    distribution.assert_predicted(found["predicted"])


@pytest.mark.parametrize("name", REFUSED)
def test_refused(found, name):
    assert re.search(REFUSED[name], found["refusals"][name] or "", re.DOTALL)


def test_nothing_else_is_refused(found):
    messages = found["refusals"]
    assert {name for name, text in messages.items() if text} == set(REFUSED)
    assert set(messages) - set(REFUSED) == {"predict", "sequential"}

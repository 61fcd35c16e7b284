"""The tests of `warm_start`, as classes to derive from as those of `layer_suite`.

They run on every backend.

    class TestWarmStart(Block, WarmStart):
        warm = (Warm(0.5, ("expand/kernel",), {"reduction": 2}),)

    class TestNoWarmStart(Block, NoWarmStart):
        refused = {"has no weights": {"variant": "theta_minus"}}
"""

import itertools
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import ops
from support.comparing import array, difference, features
from support.gradients import gradients
from support.layer_suite import FEW, Suite
from support.torch_weights import FIRST, apply, built

# Of outputs, relative to the largest: float32, a gate of 0 may take one rounding.
EXACT = 1e-6


class Warm(NamedTuple):
    """A case of `WarmStart`.

    Attributes:
        scale: what `warm_start` has to return.
        last: ends of the paths of the weights that it sets and that have to learn.
        arguments: of the layer.
        starts_so: whether the block starts with a constant anyway.
    """

    scale: float
    last: tuple[str, ...]
    arguments: dict = {}
    starts_so: bool = False


class WarmStart(Suite):
    """A constant times the input, which learns as a fresh block does.

    Attributes:
        warm: the cases, each a `Warm`.
        shapes: of inputs, without their channels; the first is used everywhere.
        rounding: of bfloat16, relative to the largest output.
    """

    warm = ()
    shapes = ((3, 7, 10),)
    rounding = 2**-7  # of the gate and of the product, 8 bits each

    def expected(self, layer, x, scale):
        """What the block has to compute of a channels-last x."""
        return scale * x

    def fresh(self, case, sizes=None, **arguments):
        """A fresh layer, the same each time, and an input."""
        keras.utils.set_random_seed(0)
        x = features(*(sizes or self.shapes[0]), self.channels)
        return built(self.make(**case.arguments | arguments), x.shape), x

    def random(self, case, sizes=None, **arguments):
        """A layer of random weights and moving statistics, and an input."""
        x = features(*(sizes or self.shapes[0]), self.channels)
        return self.live(x.shape, **case.arguments | arguments)[0], x

    @property
    def main_cases(self):
        """All cases, or the first of them."""
        return self.warm[:1] if FEW else self.warm

    @pytest.mark.parametrize(
        ("start", "data_format"), [("fresh", "channels_last"), ("random", FIRST)]
    )
    def test_is_a_constant_times_its_input(self, start, data_format):
        make = getattr(self, start)
        for case, sizes in itertools.product(self.main_cases, self.shapes):
            layer, x = make(case, sizes, data_format=data_format)
            before = apply(layer, x)
            scale = layer.warm_start()
            assert type(scale) is float
            assert scale == pytest.approx(case.scale, rel=EXACT)
            y, expected = apply(layer, x), self.expected(layer, x, scale)
            assert difference(y, expected) <= EXACT, case
            # Before, it was no constant at all, or was one already.
            already = start == "fresh" and case.starts_so
            assert (variation(before, expected) <= EXACT) == already, case

    @pytest.mark.parametrize("training", [False, True])
    def test_learns_as_a_fresh_block(self, training):
        for case in self.main_cases:
            layer, x = self.fresh(case)
            expected = self.expected(layer, x, layer.warm_start())
            steps = self.last_gradients(case, layer, x, training)
            usual = self.usual_gradients(case, training)
            for name, gradient in steps.items():
                length = np.linalg.norm(gradient)
                assert length >= 1e-2 * np.linalg.norm(usual[name]), (case, name)
                weight = weight_of(layer, name)
                weight.assign(array(weight) - gradient / length)
            # One step, scaled to length 1, ends the constant.
            assert variation(apply(layer, x), expected) >= 100 * EXACT, case

    def usual_gradients(self, case, training):
        """Gradients of the last weights of a block that is not warm-started.

        It is fresh, but a block that starts with these weights at zero anyway has them
        random: it would be compared with itself.
        """
        layer, x = self.fresh(case)
        if case.starts_so:
            for name in case.last:
                weight = weight_of(layer, name)
                weight.assign(features(*weight.shape, seed=3))
        return self.last_gradients(case, layer, x, training)

    def last_gradients(self, case, layer, x, training):
        """Gradients of the last weights, {end of a weight's path: array}."""
        cotangent = features(*layer.compute_output_shape(x.shape), seed=2)
        _, _, found = gradients(layer, x, cotangent, training)
        return {name: found[id(weight_of(layer, name))] for name in case.last}

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    def test_is_a_constant_in_mixed_precision(self, policy):
        layer, x = self.fresh(self.warm[-1], dtype=policy)
        x = array(ops.cast(ops.cast(x, layer.compute_dtype), "float32"))
        expected = self.expected(layer, x, layer.warm_start())
        assert difference(apply(layer, x), expected) <= self.rounding

    def test_after_reload(self, tmp_path):
        layer, x = self.random(self.warm[0])
        inputs = keras.Input(x.shape[1:])
        keras.Model(inputs, layer(inputs)).save(tmp_path / "model.keras")
        layer = keras.models.load_model(tmp_path / "model.keras").layers[-1]
        expected = self.expected(layer, x, layer.warm_start())
        assert difference(apply(layer, x), expected) <= EXACT

    def test_refuses_what_is_not_built(self):
        with pytest.raises(ValueError, match="must be built before it is started warm"):
            self.make(**self.warm[0].arguments).warm_start()


class NoWarmStart(Suite):
    """Refuses, with the reason, and leaves its weights as they are.

    Attributes:
        refused: {regular expression: arguments}.
    """

    refused = {}

    def test_refuses(self):
        for reason, arguments in self.refused.items():
            layer = built(self.make(**arguments), (1, 6, 5, self.channels))
            before = layer.get_weights()
            with pytest.raises(ValueError, match=f"has no warm start: .*{reason}"):
                layer.warm_start()
            assert all(map(np.array_equal, before, layer.get_weights()))


def variation(y, expected):
    """How far y is from a constant times what is expected, whatever constant."""
    constant = np.vdot(y, expected) / np.vdot(expected, expected)
    return difference(y, constant * expected)


def weight_of(layer, name):
    """Returns the weight whose path ends so."""
    (weight,) = (w for w in layer.weights if f"/{w.path}".endswith(f"/{name}"))
    return weight

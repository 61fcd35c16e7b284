"""The tests that every attention layer has to pass, as classes to derive from.

They run on every backend; those of mobile forms and files are in `deploy_suite`. A
block's test file describes the block in a class of its own and derives:

    class Block(Suite):
        layer_class = DoubleAttention
        reference = staticmethod(double_attention.forward)
        goldens = ("double_attention", "double_attention_3d")
        cases = ({"value_channels": 6}, {"residual": False})
        channels = 16

    class TestGolden(Block, Golden): ...
    class TestLayer(Block, Properties): ...
"""

import itertools
import json
import os

import keras
import numpy as np
import pytest
from keras import ops
from support.comparing import CLOSE, array, difference, features
from support.gradients import gradients
from support.torch_weights import FIRST, apply, built, live

from keras_attention.weights import load_torch
from keras_attention.weights.torch_state import torch_parameters

FORMATS = ("channels_last", FIRST)
# On JAX, where each operation is compiled for each shape that it meets, some 30 ms a
# time, `make test-backends` asks for few of them.
FEW = os.environ.get("HYPOTHESIS_PROFILE") == "few"

# Options that are not the defaults, for `full_config`: of every block, and of one with
# convolutions.
LAYER_OPTIONS = {
    "data_format": "channels_last",
    "name": "mine",
    "dtype": "mixed_bfloat16",
    "trainable": False,
}
OPTIONS = {
    "kernel_initializer": keras.initializers.HeNormal(),
    "bias_initializer": keras.initializers.Ones(),
    "kernel_regularizer": keras.regularizers.L2(1e-4),
    "bias_regularizer": keras.regularizers.L1(1e-3),
    **LAYER_OPTIONS,
}


class Suite:
    """Describes a block; the defaults fit most.

    Attributes:
        layer_class: the class.
        reference: numpy restatement, (x, weights, training=False, **arguments) -> y.
        goldens: names of its golden files.
        required: arguments without which the layer can't be made (filters, ...).
        cases: further arguments to test it with, each a dict.
        channels: of the inputs that it is tested on.
        sizes: heights and widths; the second is an ordinary one, the last the smallest.
        gain: of the random kernels, see `torch_weights.random_weights`.
        full_config: valid arguments that all differ from their defaults.
        no_gradient: {authors' name: reason} of weights whose gradient is 0.
        normalized: {authors' name of a normalization: x.shape -> number of positions
            that its batch statistics are taken over}.
        momentum: of its running statistics.
        tolerance: of the comparisons with golden files, relative to the largest number.
    """

    layer_class = None
    reference = None
    goldens = ()
    required = {}
    cases = ({},)
    channels = 24
    sizes = ((8, 8), (7, 10), (5, 3), (1, 6), (1, 1))
    gain = 1.5
    full_config = {}
    no_gradient = {}
    normalized = {}
    momentum = 0.9
    tolerance = CLOSE

    @property
    def main_cases(self):
        """All cases, or the first of them."""
        return self.cases[:1] if FEW else self.cases

    def cases_and_sizes(self):
        """All pairs, or the first case with an ordinary size and with the smallest."""
        sizes = (self.sizes[1], self.sizes[-1]) if FEW else self.sizes
        return list(itertools.product(self.main_cases, sizes))

    def make(self, **arguments):
        return self.layer_class(**self.required | arguments)

    def live(self, shape, seed=0, **arguments):
        return live(self.make(**arguments), shape, seed, self.gain)


class Golden(Suite):
    """Equal to the authors' numbers, loaded by the authors' names."""

    @pytest.fixture
    def loaded(self, golden):
        def load(name):
            file = golden(name)
            layer = self.layer_class(**json.loads(str(file["config_json"])))
            built(layer, file["x"].shape)
            report = load_torch(layer, prefixed(file, "param/"))
            assert set(report.loaded) == set(prefixed(file, "param/"))
            return layer, file

        return load

    def test_golden(self, loaded):
        for name in self.goldens:
            layer, file = loaded(name)
            x = file["x"]
            y = layer(x, training=False)
            assert difference(y, file["y_inference"]) <= self.tolerance, name
            y, dx, weights = gradients(layer, x, file["cotangent"])
            assert difference(y, file["y_training"]) <= self.tolerance, name
            assert difference(dx, file["dx_training"]) <= self.tolerance, name
            expected = prefixed(file, "grad/")
            largest = max(np.abs(gradient).max() for gradient in expected.values())
            parameters = torch_parameters(layer)
            assert len(weights) == len(expected)
            for key, gradient in expected.items():
                actual = weights[id(parameters[key].variable)]
                actual = parameters[key].to_torch(actual).reshape(gradient.shape)
                scale = largest if key in self.no_gradient else None
                off = difference(actual, gradient, scale)
                assert off <= self.tolerance, (name, key)

    def test_statistics_after_one_step(self, loaded):
        for name in self.goldens:
            layer, file = loaded(name)
            layer(file["x"], training=True)
            after, before = prefixed(file, "after_step/"), prefixed(file, "param/")
            parameters = torch_parameters(layer)
            assert len(after) == 2 * len(self.normalized)
            for norm, positions in self.normalized.items():
                key = f"{norm}.running_mean"
                mean = parameters[key].variable
                assert difference(mean, after[key]) <= self.tolerance
                # PyTorch averages the unbiased variance, Keras the biased one
                key, n = f"{norm}.running_var", positions(file["x"].shape)
                kept = self.momentum * before[key]
                unbiased = kept + (array(parameters[key].variable) - kept) * n / (n - 1)
                assert difference(unbiased, after[key]) <= self.tolerance


class Properties(Suite):
    """Equal to numpy, for all shapes and modes; trainable, independent, portable."""

    @pytest.mark.parametrize("data_format", FORMATS)
    @pytest.mark.parametrize("training", [False, True])
    def test_equals_numpy(self, training, data_format):
        for case, size in self.cases_and_sizes():
            shape = (3, *size, self.channels)
            layer, weights = self.live(shape, data_format=data_format, **case)
            x = features(*shape)
            y = apply(layer, x, training)
            arguments = self.required | case
            expected = self.reference(x, weights, training=training, **arguments)
            assert y.shape == expected.shape
            assert difference(y, expected) <= CLOSE, (case, size)

    @pytest.mark.parametrize("data_format", FORMATS)
    def test_dynamic_sizes(self, data_format):
        for case in self.main_cases:
            layer = self.make(data_format=data_format, **case)
            shape = [None] * (len(self.sizes[1]) + 2)
            shape[1 if data_format == FIRST else -1] = self.channels
            x = keras.Input(shape[1:])
            model = keras.Model(x, layer(x))
            _, weights = live(layer, (1, *self.sizes[1], self.channels))
            for size in self.sizes[1:2] if FEW else self.sizes[:3]:
                x = features(2, *size, self.channels)
                y = model.predict(to(x, data_format), verbose=0)
                y = np.moveaxis(y, 1, -1) if data_format == FIRST else y
                expected = self.reference(x, weights, **self.required | case)
                assert difference(y, expected) <= CLOSE, (case, size)

    def test_samples_are_independent_at_inference(self):
        for case in self.main_cases:
            shape = (3, *self.sizes[1], self.channels)
            layer, _ = self.live(shape, **case)
            x = features(*shape)
            together = apply(layer, x)
            alone = np.concatenate([apply(layer, x[i : i + 1]) for i in range(3)])
            # other batch sizes may take another matrix product: rounding only
            assert difference(alone, together) <= 2e-6

    def test_every_weight_gets_a_gradient(self):
        for case in self.main_cases:
            shape = (4, *self.sizes[1], self.channels)
            layer, _ = self.live(shape, **case)
            x = features(*shape)
            cotangent = features(*apply(layer, x).shape, seed=2)
            _, _, found = gradients(layer, x, cotangent)
            largest = max(np.abs(gradient).max() for gradient in found.values())
            for name, parameter in torch_parameters(layer).items():
                if id(parameter.variable) not in found:
                    continue
                gradient = np.abs(found[id(parameter.variable)])
                if name in self.no_gradient:
                    assert gradient.max() <= CLOSE * largest, name
                else:
                    # a ReLU may close a channel for good
                    assert (gradient > 0).mean() >= 0.5, name

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    def test_mixed_precision(self, policy):
        for case in self.main_cases:
            shape = (2, *self.sizes[1], self.channels)
            layer, weights = self.live(shape, dtype=policy, **case)
            half = policy.removeprefix("mixed_")
            assert {w.dtype for w in layer.weights} <= {"float32"}
            # The sum of a channel over the positions goes over float16's range.
            mean = 1.5 * float(np.finfo("float16").max) / np.prod(self.sizes[1])
            for training in (False, True):
                y = layer(mean + 100 * features(*shape), training=training)
                assert keras.backend.standardize_dtype(y.dtype) == half
                assert np.isfinite(ops.convert_to_numpy(ops.cast(y, "float32"))).all()
            layer, weights = self.live(shape, dtype=policy, **case)
            y = apply(layer, features(*shape))
            expected = self.reference(features(*shape), weights, **self.required | case)
            # 8 significant bits in bfloat16 (11 in float16), through several operations
            assert difference(y, expected) <= (0.06 if half == "bfloat16" else 0.01)

    def test_frozen_layer_stays_as_it_is(self):
        shape = (3, *self.sizes[1], self.channels)
        layer, _ = self.live(shape, trainable=False)
        assert layer.trainable_weights == []
        before = layer.get_weights()
        y = apply(layer, features(*shape), training=True)
        assert all(map(np.array_equal, before, layer.get_weights()))
        assert difference(apply(layer, features(*shape)), y) == 0

    @pytest.mark.parametrize("build", [False, True])
    def test_config_round_trip(self, build):
        for arguments in [*self.cases, self.full_config]:
            layer = self.make(**arguments)
            if build:
                built(layer, (1, *self.sizes[0], self.channels))
            given = layer.get_config()
            for key, value in arguments.items():
                if not isinstance(given[key], dict):  # a serialized object
                    assert given[key] == value, key
            config = keras.saving.serialize_keras_object(layer)
            config = json.loads(json.dumps(config))
            again = keras.saving.deserialize_keras_object(config)
            assert type(again) is self.layer_class
            assert again.built == build
            assert json.dumps(again.get_config()) == json.dumps(given)

    def test_keras_file(self, tmp_path):
        for number, case in enumerate(self.main_cases):
            shape = (3, *self.sizes[1], self.channels)
            layer, _ = self.live(shape, **case)
            x = keras.Input(shape[1:])
            model = keras.Model(x, layer(x))
            model.save(tmp_path / f"{number}.keras")
            again = keras.models.load_model(tmp_path / f"{number}.keras")
            images = features(*shape)
            np.testing.assert_array_equal(*map(array, (again(images), model(images))))

    def test_refuses_other_shapes_after_build(self):
        shape = (1, *self.sizes[0], self.channels)
        layer, _ = self.live(shape)
        rank = len(shape)
        axis = rank - 1
        with pytest.raises(
            ValueError, match=f"expected axis {axis}.*value {self.channels}"
        ):
            layer(features(*shape[:-1], 2 * self.channels))
        with pytest.raises(
            ValueError, match=f"expected ndim={rank}, found ndim={rank + 1}"
        ):
            layer(features(1, *shape))

    def test_output_shape(self):
        for case, size in self.cases_and_sizes():
            shape = (3, *size, self.channels)
            layer, _ = self.live(shape, **case)
            y = apply(layer, features(*shape))
            assert layer.compute_output_shape(shape) == y.shape


def prefixed(file, prefix):
    """Returns the arrays of a golden file under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in file.items() if k.startswith(prefix)}


def to(x, data_format):
    """Returns a channels-last array in the data format."""
    return np.moveaxis(x, -1, 1) if data_format == FIRST else x

"""The tests that every builder has to pass, as a class to derive from.

A family's test file describes the family, and adds the tests of that family alone:

    class TestMobileNeXt(BuilderSuite):
        build = staticmethod(narrow_mobilenext)
        arguments = {"attention": "coord"}
        parameters = {"MobileNeXt": 3_535_416}
        last, features = "block_6_depthwise_2_bn", (8, 12, 48)
        ...

Those tests can take the fixtures `small` and `small_file`, and use `drop_rates`,
`check_dropped_samples` and `check_initial_weights`.
"""

import functools
import inspect
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.small_networks import images, randomize, trainable

import keras_attention
from keras_attention import image_input, models

RANGE = (-1, 127 / 128)
PAGE = pathlib.Path(keras_attention.__file__).parents[1] / "docs/models.md"


class BuilderSuite:
    """Describes a family of networks; the defaults fit most.

    Attributes:
        build: (**arguments) -> a small network of five classes.
        arguments: of the network that most tests share, `small`.
        image: shape of its input.
        odd_image: another one, that does not halve evenly.
        parameters: {builder: trainable parameters of its network by default}.
        module: where these builders are written.
        kind: what their docstrings say they return.
        name: of the networks, by default.
        last: the layer that the network ends with without its top.
        features: shape of that layer's map, of 64 x 96 pixels.
        levels: {stride: layer} of the network.
        dropout: its rate, by default.
        sizes: (arguments, shape of the map without top).
        trained: (arguments, batch) of networks in which every weight learns.
        constant: ends of the paths of weights that don't: constants on their way,
            through linear layers, to normalizations.
        mixed: arguments of the network that is tried in mixed precision.
        another: arguments of a network that `small`'s weights don't fit, and how the
            error describes the difference.
        refused: (arguments, message), besides those that all builders refuse.
    """

    build = None
    arguments = {}
    image = (32, 32, 3)
    odd_image = (40, 36, 3)
    parameters = {}
    module = None
    kind = "functional Keras model"
    name = None
    last = None
    features = ()
    levels = {}
    dropout = 0.2
    sizes = ()
    trained = ()
    constant = ()
    mixed = {}
    another = ({}, "")
    refused = ()

    def pytest_generate_tests(self, metafunc):
        tables = {
            "builder": self.parameters,
            "size": self.sizes,
            "learning": self.trained,
            "refusal": (*self.always_refused(), *self.refused),
        }
        for name in tables.keys() & set(metafunc.fixturenames):
            metafunc.parametrize(name, tables[name], ids=described)

    @pytest.fixture(scope="class")
    @classmethod
    def small(cls):
        """The network on random weights; not to be changed."""
        model = cls.build(**cls.arguments)
        randomize(model)
        return model

    @pytest.fixture(scope="class")
    @classmethod
    def small_file(cls, small, tmp_path_factory):
        path = tmp_path_factory.mktemp("weights") / "small.keras"
        small.save(path)
        return path

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, small_file):
        return keras.models.load_model(small_file)

    def assert_same(self, model, other, image=None):
        x = images(2, *(image or self.image))
        np.testing.assert_array_equal(model(x), other(x))

    def test_says_what_it_is(self, builder):
        build = getattr(models, builder)
        assert (build.__name__, build.__module__) == (builder, self.module.__name__)
        doc = inspect.getdoc(build)
        assert doc.splitlines()[0] == f"Returns {builder} as a {self.kind}."
        assert "{" not in doc.replace('{"name": ..., **arguments}', "")
        kinds = [p.kind for p in inspect.signature(build).parameters.values()]
        assert kinds.count(inspect.Parameter.KEYWORD_ONLY) <= 10
        assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) == 2

    def test_the_page_has_its_parameters(self, builder):
        assert parameters_on_the_page()[builder] == f"{self.parameters[builder]:,}"

    def test_stores_its_input_range(self, small, loaded):
        assert image_input.input_range_of(small) == RANGE
        assert image_input.input_range_of(loaded) == RANGE
        self.assert_same(loaded, small)

    def test_sizes(self, size):
        arguments, features = size
        model = self.build(**arguments, include_top=False)
        assert model.output_shape == (None, *features)
        assert model.layers[-1].name == self.last

    def test_size_may_vary(self, small):
        sides = len(self.image) - 1
        model, fixed = (
            self.build(**self.arguments, input_shape=shape)
            for shape in ((None,) * sides + (3,), self.odd_image)
        )
        for network in (model, fixed):
            network.set_weights(small.get_weights())
        self.assert_same(model, fixed, self.odd_image)
        assert model(images(1, *self.image[:-3], 64, 48, 3)).shape == (1, 5)

    def test_grayscale(self):
        shape = (*self.image[:-1], 1)
        assert self.build(input_shape=shape)(images(2, *shape)).shape == (2, 5)

    def test_every_weight_gets_a_gradient(self, learning):
        arguments, batch = learning
        model = self.build(**arguments)
        randomize(model)
        with tf.GradientTape() as tape:
            y = model(images(batch, *model.input_shape[1:]), training=True)
            loss = tf.reduce_sum(y * images(batch, 5, seed=1))
        weights = model.trainable_weights
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        largest = max(np.abs(gradient).max() for gradient in gradients)
        for weight, gradient in zip(weights, gradients, strict=True):
            size = np.abs(gradient).max()
            if weight.path.endswith(self.constant):
                assert size <= 1e-5 * largest, weight.path
            else:
                assert size > 1e-6 * largest, weight.path

    def test_mixed_precision_gives_float32_logits(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = self.build(**self.mixed)
        finally:
            keras.config.set_dtype_policy("float32")
        assert model.get_layer("classifier").compute_dtype == "float32"
        inner = {x.compute_dtype for x in model.layers[1:] if x.name != "classifier"}
        assert inner == {"bfloat16"}
        y = model(images(2, *self.image), training=True)
        assert y.dtype == "float32"
        assert np.isfinite(y).all()

    def test_gives_logits(self, small):
        assert small.name == self.name
        assert small.get_layer("head_dropout").rate == self.dropout
        y = small(images(4, *self.image)).numpy()
        assert y.shape == (4, 5)
        assert (y < 0).any()

    def test_arguments_of_the_top(self):
        model = self.build(classifier_activation="softmax", dropout=0.45, name="eyes")
        assert model.name == "eyes"
        assert model.get_layer("head_dropout").rate == 0.45
        y = model(images(4, *self.image)).numpy()
        np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)

    def test_without_top(self, small):
        shape = (*self.image[:-3], 64, 96, 3)
        model = self.build(**self.arguments, input_shape=shape, include_top=False)
        assert model.layers[-1].name == self.last
        assert model.output_shape == (None, *self.features)
        assert trainable(model) == trainable(small) - (self.features[-1] + 1) * 5
        levels = models.feature_levels(model)
        assert levels == self.levels
        for stride, name in levels.items():
            features = model.get_layer(name).output
            assert features.shape[-3:-1] == (64 // stride, 96 // stride)
        assert features is model.output

    def test_feature_levels(self, small, loaded):
        assert models.feature_levels(small) == self.levels
        assert models.feature_levels(loaded) == self.levels

    def test_weights_from_a_weights_file(self, small, tmp_path):
        path = tmp_path / "small.weights.h5"
        small.save_weights(path)
        self.assert_same(self.build(**self.arguments, weights=path), small)

    def test_weights_from_a_model_file_with_other_rates(self, small, small_file):
        rates = {"drop_path": 0.2, "dropout": 0.3}
        model = self.build(**self.arguments, **rates, weights=str(small_file))
        self.assert_same(model, small)

    def test_weights_of_another_network(self, small_file):
        arguments, difference = self.another
        message = f"same network; .*small.keras differs in {difference}"
        with pytest.raises(ValueError, match=message):
            self.build(**arguments, weights=small_file)
        with pytest.raises(ValueError, match="classifier"):
            self.build(**self.arguments, classes=7, weights=small_file)

    def always_refused(self):
        *sides, channels = self.image
        axes = r"\(T, H, W, C\)" if len(sides) == 3 else r"\(H, W, C\)"
        shape = f"input_shape must be {axes} with positive sizes; received "
        return (
            ({"input_shape": tuple(sides)}, shape + re.escape(str(tuple(sides)))),
            ({"input_shape": (*sides, None)}, shape),
            ({"input_shape": (0, *sides[1:], channels)}, shape),
            ({"input_shape": 32}, f"{shape}32"),
            ({"classes": 0}, "classes must be a positive integer; received 0"),
            ({"classes": 2.5}, "classes must be a positive integer; received 2.5"),
            ({"dropout": 1.0}, r"dropout must be.*\[0, 1\); received 1.0"),
            ({"dropout": None}, r"dropout must be.*received None"),
            ({"drop_path": -0.1}, r"drop_path must be.*\[0, 1\); received -0.1"),
            ({"weights": "imagenett"}, "weights must be None or the path.*'imagenett'"),
            ({"weights": "no/such.keras"}, "weights must be None or.*'no/such.keras'"),
            ({"weights": 3}, "weights must be None or the path.*received 3"),
            (
                {"attention": "cord"},
                "unknown attention name 'cord'.*did you mean 'coord'",
            ),
        )

    def test_refuses_arguments(self, refusal):
        arguments, message = refusal
        for builder in self.parameters:
            with pytest.raises(ValueError, match=message):
                getattr(models, builder)(**arguments)

    def test_refuses_channels_first(self):
        keras.config.set_image_data_format("channels_first")
        try:
            for builder in self.parameters:
                with pytest.raises(ValueError, match="'channels_last'; received 'chan"):
                    getattr(models, builder)()
        finally:
            keras.config.set_image_data_format("channels_last")


def described(case):
    """A case's name in the test's: of a builder, or of (arguments, expected)."""
    if isinstance(case, str):
        return case
    return ",".join(f"{name}={value}" for name, value in case[0].items()) or "default"


@functools.cache
def parameters_on_the_page():
    """Returns {builder: parameters, as they are printed}, of the table in the docs."""
    _, _, page = PAGE.read_text().partition("<!-- builders -->")
    table, _, _ = page.partition("<!-- end of builders -->")
    row = r"^\| `(\w+)`[^|]*\|[^|]*\| ([^|]*) \|"
    return dict(re.findall(row, table, re.MULTILINE))


def drop_rates(model):
    """Returns {layer: rate} of a network's stochastic depth."""
    return {x.name: x.rate for x in model.layers if x.name.endswith("drop_path")}


def check_dropped_samples(layer, shape):
    """Asserts that in training some samples are zero and the others grow by as much."""
    y = layer(np.ones((64, *shape), "float32"), training=True).numpy()
    kept = y.reshape(64, -1)[:, 0] > 0
    rate = 1 - layer.rate
    assert abs(kept.mean() - rate) < 0.2  # 64 draws: three standard deviations
    np.testing.assert_allclose(y[kept], 1 / rate, rtol=1e-6)
    assert not y[~kept].any()


def check_initial_weights(model, deviations, momentum=0.9, epsilon=1e-5):
    """Asserts the weights of a new network.

    Args:
        model: the network.
        deviations: {layer: standard deviation of its kernel}.
        momentum: of all batch normalizations.
        epsilon: likewise.
    """
    for name, expected in deviations.items():
        kernel = model.get_layer(name).kernel
        # four times what is known of the deviation of so many normal numbers
        allowed = 4 / np.sqrt(2 * np.prod(kernel.shape))
        assert np.std(kernel) == pytest.approx(expected, rel=allowed), name
    assert not np.any(model.get_layer("classifier").bias)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (momentum, epsilon)
            gamma, beta, mean, variance = layer.get_weights()
            assert (gamma == 1).all() and (variance == 1).all()
            assert not beta.any() and not mean.any()

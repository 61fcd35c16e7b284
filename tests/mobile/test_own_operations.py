"""Layers and operations of the user's own: opened, rewritten, ruled or refused."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.comparing import CLOSE, difference, features, relative_error
from support.mobile_nets import randomize

from keras_attention import mobile
from keras_attention.mobile import litert

DATA = features(16, 8, 8, 4)


def converted(model, path, data=DATA):
    """Returns the report, the largest difference in steps, the relative error."""
    expected = np.asarray(model(data))
    assert difference(mobile.deploy(model)(data), expected) <= CLOSE
    quantized = mobile.quantize(model, data)
    report = mobile.convert(quantized, path / "own.tflite")
    assert set(report.dtypes) <= {"int8", "int32"}
    runner = litert.Runner(report.path)
    y = litert.dequantize(runner(data)[0], runner.outputs[0])
    steps = np.abs(y - np.asarray(quantized(data))).max() / runner.outputs[0].scale
    return report, steps, relative_error(y, expected)


class Branch(layers.Layer):
    """Convolution, normalization, activation."""

    def __init__(self, filters, size, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size = filters, size
        self.conv = layers.SeparableConv2D(filters, size, padding="same")
        self.norm = layers.GroupNormalization(2)

    def call(self, x):
        return ops.gelu(self.norm(self.conv(x)))

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "size": self.size}


class Inception(layers.Layer):
    """Three branches, one through another layer, and a gate with a variable."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.branches = [Branch(filters, size) for size in (1, 3)]
        self.pool = layers.AveragePooling2D(3, 1, "same")
        self.project = layers.Conv2D(filters, 1, activation="elu")
        self.reduce = layers.Dense(3 * filters, activation="softsign")

    def build(self, shape):
        self.scale = self.add_weight(shape=(3 * self.filters,), name="scale")
        super().build(shape)

    def call(self, x):
        parts = [branch(x) for branch in self.branches]
        y = ops.concatenate([*parts, self.project(self.pool(x))], axis=-1)
        gate = self.reduce(ops.mean(y, axis=(1, 2), keepdims=True))
        return y * gate + y * self.scale

    def get_config(self):
        return super().get_config() | {"filters": self.filters}


def test_an_own_composite_layer_goes_to_the_file_untouched(tmp_path):
    x = keras.Input((8, 8, 4), name="x")
    y = Inception(4, name="own")(x)
    y = Inception(2, name="other")(layers.PReLU(shared_axes=[1, 2])(y))
    model = randomize(keras.Model(x, layers.Dense(5)(layers.Flatten()(y))))
    before = model.get_weights()
    report, steps, error = converted(model, tmp_path)
    assert all(map(np.array_equal, before, model.get_weights()))
    names = {layer.name for layer in mobile.deploy(model).layers}
    assert "own_branches_1_norm_equalizer" in names, sorted(names)
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "GELU", "DIV"} <= set(report.operators)
    # Sixty operations behind each other: steps of the first ones come out larger.
    assert steps <= 10 and error <= 0.06, (steps, error)


class Own(layers.Layer):
    """Applies a function of its input and a variable."""

    def __init__(self, function, shape=(4,), **kwargs):
        super().__init__(**kwargs)
        self.function, self.shape = function, shape

    def build(self, _):
        self.w = self.add_weight(shape=self.shape, name="w")

    def call(self, x):
        return self.function(x, self.w)

    def get_config(self):
        return super().get_config() | {"function": self.function, "shape": self.shape}


def own(function, **arguments):
    x = keras.Input((8, 8, 4), name="x")
    return randomize(keras.Model(x, Own(function, name="own", **arguments)(x)))


def test_a_variable_used_directly_is_a_scale_or_a_shift(tmp_path):
    model = own(lambda x, w: x * w + w)
    report, steps, error = converted(model, tmp_path)
    assert report.operators == {"DEPTHWISE_CONV_2D": 2}
    assert steps <= 1.1 and error <= 0.02


def test_a_variable_used_otherwise_is_refused_by_name():
    model = own(lambda x, w: x + w, shape=(8, 8, 4))
    with pytest.raises(ValueError, match="'own/w' is used directly in .*'own'.*deploy"):
        mobile.quantize(model, DATA)


def test_an_unsupported_operation_inside_of_an_own_layer():
    message = "^Layer 'own_sin': operation Sin can't be .*deploy.*mobile.register_rule"
    with pytest.raises(ValueError, match=message):
        mobile.quantize(own(lambda x, w: ops.sin(x) * w), DATA)


class Reverse(keras.Operation):
    """An operation of the user's own; TFLite reverses int8 values, as slices."""

    def call(self, x):
        return ops.flip(x, axis=1)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Softer(layers.Layer):
    """A layer around something that TFLite has an int8 kernel for."""

    def call(self, x):
        return ops.log_softmax(x)


class Square(keras.Operation):
    """Has a name that Keras has, and another meaning."""

    def call(self, x):
        return x + 1.0

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_an_own_operation_is_none_of_keras_of_the_same_name():
    model = with_layer(Square(name="own"))
    assert difference(mobile.deploy(model)(DATA), model(DATA)) == 0
    with pytest.raises(ValueError, match=r"'own': operation .*\.Square can't be"):
        mobile.quantize(model, DATA)


class Slopes(layers.PReLU):
    """What a subclass computes is known as long as its `call` is Keras'."""


def test_a_subclass_of_a_layer_is_opened_like_it():
    model = with_layer(Slopes(shared_axes=[1, 2], name="own"))
    deployed = mobile.deploy(model)
    assert isinstance(deployed.get_layer("own_slope"), layers.DepthwiseConv2D)
    assert difference(deployed(DATA), model(DATA)) <= CLOSE


def test_what_int8_cannot_do_is_deployed_as_it_is():
    x = keras.Input((8, 8, 4), name="x")
    quotient = ops.divide(x, ops.exp(x))
    model = keras.Model(x, ops.power(ops.abs(quotient), 1.7))
    before = model.to_json()
    deployed = mobile.deploy(model)
    assert difference(deployed(DATA), model(DATA)) <= CLOSE
    assert {"divide", "power"} <= {op.name.split("_")[0] for op in deployed.operations}
    assert model.to_json() == before


class LayerScale(layers.Layer):
    """As that of Keras' ConvNeXt: in Keras, but no layer of `keras.layers`."""

    __module__ = "keras.applications.convnext"

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")

    def call(self, x):
        return x * self.gamma


def test_layers_of_networks_in_keras_are_opened():
    model = with_layer(LayerScale(name="scale"))
    deployed = mobile.deploy(model)
    assert [type(layer) for layer in deployed.layers[2:]] == [layers.DepthwiseConv2D]
    assert difference(deployed(DATA), model(DATA)) <= CLOSE


@pytest.fixture
def rules():
    """Forgets what a test registered."""
    registered = []

    def register(operation, rule):
        registered.append(operation)
        mobile.register_rule(operation, rule)

    yield register
    for operation in registered:
        mobile.register_rule(operation, None)


def with_layer(function):
    x = keras.Input((8, 8, 4), name="x")
    return randomize(keras.Model(x, function(layers.Conv2D(4, 3)(x))))


@pytest.mark.parametrize("key", [Softer, "Softer"])
def test_a_registered_layer_stays_as_it_is(key, rules, tmp_path):
    model = with_layer(Softer(name="soft"))
    kinds = {type(layer).__name__ for layer in mobile.deploy(model).layers}
    assert "Softer" not in kinds  # opened
    rules(key, mobile.Rule((-255 / 16, 0.0)))
    deployed = mobile.deploy(model)
    assert isinstance(deployed.get_layer("soft"), Softer)
    report, steps, _ = converted(model, tmp_path)
    assert report.operators == {"CONV_2D": 1, "LOG_SOFTMAX": 1} and steps <= 1.1
    assert mobile.quantize(model, DATA).get_layer("soft_quant").get_range() == (
        pytest.approx(-255 / 16),
        0.0,
    )


def test_an_own_operation_gets_a_rule_and_loses_it(rules, tmp_path):
    model = with_layer(Reverse(name="reverse"))
    message = "^Layer 'reverse': operation .*Reverse can't .*mobile.register_rule.$"
    with pytest.raises(ValueError, match=message):
        mobile.quantize(model, DATA)
    rules(Reverse, mobile.Rule())
    rules(Reverse, mobile.Rule("same"))  # in the place of the other
    with pytest.raises(ValueError, match="tflite file for phones:\n.*float32"):
        converted(model, tmp_path)  # REVERSE_V2 stays float: said at the end
    mobile.register_rule(Reverse, None)
    with pytest.raises(ValueError, match=message):
        mobile.quantize(model, DATA)


def test_a_rule_of_ones_own_in_front_of_that_of_the_package(rules, tmp_path):
    model = with_layer(layers.Activation("log_softmax", name="soft"))
    rules(layers.Activation, mobile.Rule((-255 / 16, 0.0)))
    report, steps, _ = converted(model, tmp_path)
    assert report.operators == {"CONV_2D": 1, "LOG_SOFTMAX": 1} and steps <= 1.1
    mobile.register_rule(layers.Activation, None)
    assert "LOG_SOFTMAX" not in converted(model, tmp_path)[0].operators


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mobile.register_rule(3, mobile.Rule()), TypeError, "Received: 3"),
        (
            lambda: mobile.register_rule(int, mobile.Rule()),
            TypeError,
            "keras.Operation",
        ),
        (lambda: mobile.register_rule("A", "same"), TypeError, "a mobile.Rule or None"),
        (lambda: mobile.Rule("other"), ValueError, "output must be 'own', 'same' or a"),
        (
            lambda: mobile.Rule(kernel="row"),
            ValueError,
            "kernel must be None, 'channel'",
        ),
    ],
)
def test_mistakes(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_dead_branch_is_converted(tmp_path):
    """As a pruned net has them: two ReLUs that no value of the data opens."""
    x = keras.Input((8, 8, 4), name="x")
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="alive")(x)
    closed = layers.Conv2D(4, 3, padding="same", activation="relu", name="closed")
    behind = layers.Conv2D(4, 1, activation="relu", name="behind")
    live = layers.Conv2D(4, 1, name="live")
    model = randomize(keras.Model(x, live(y) + live(behind(closed(y)))))
    closed.set_weights([-np.abs(closed.kernel), np.full(4, -0.1)])
    behind.set_weights([np.ones((1, 1, 4, 4)), np.full(4, -1.0)])
    report, steps, error = converted(model, tmp_path)
    assert mobile.quantize(model, DATA).get_layer("closed_relu_quant").get_range() == (
        0.0,
        1.0,
    )
    # live(0) is its bias: nothing of it may be lost in the dead branch.
    assert steps <= 1.1 and error <= 0.02, (steps, error)

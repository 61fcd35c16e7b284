"""The L1 penalty on batch normalizations' scales, in models of all kinds."""

import keras
import numpy as np
import pytest
from keras import ops
from support.comparing import CLOSE, array, difference, features
from support.gradients import gradients

from keras_attention import NAM, CoordAttention, GammaL1, penalize_gammas

SHAPE = (6, 5, 8)


@keras.saving.register_keras_serializable(package="test_regularizers")
class Branches(keras.layers.Layer):
    """Has normalizations in a list and in a dictionary."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        norm = keras.layers.BatchNormalization
        self.pair = [norm(name="first"), norm(name="second")]
        self.named = {"third": norm(name="third")}

    def build(self, input_shape):
        for layer in [*self.pair, *self.named.values()]:
            layer.build(input_shape)

    def call(self, x, training=None):
        for layer in [*self.pair, *self.named.values()]:
            x = layer(x, training=training)
        return x


def layers():
    """Layers with seven scales: one here, two in a model, three below, one in NAM."""
    return [
        keras.layers.BatchNormalization(name="alone"),
        keras.Sequential(
            [
                keras.Input(SHAPE),
                keras.layers.Conv2D(8, 1),
                keras.layers.BatchNormalization(name="nested"),
                CoordAttention(name="coord"),
            ],
            name="model",
        ),
        keras.layers.BatchNormalization(scale=False, name="no_scale"),
        Branches(name="branches"),
        keras.layers.LayerNormalization(name="another_gamma"),
        NAM(name="nam"),
    ]


SCALES = 7


def functional():
    x = inputs = keras.Input(SHAPE, name="x")
    for layer in layers():
        x = layer(x)
    return keras.Model(inputs, {"y": x}, name="net")


def sequential():
    return keras.Sequential([keras.Input(SHAPE), *layers()], name="net")


@keras.saving.register_keras_serializable(package="test_regularizers")
class Subclassed(keras.Model):
    """Calls the layers one after the other."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.steps = layers()

    def build(self, input_shape):
        for layer in self.steps:
            layer.build(input_shape)

    def call(self, x, training=None):
        for layer in self.steps:
            x = layer(x, training=training) if "nam" in layer.name else layer(x)
        return x


def subclassed():
    model = Subclassed(name="net")
    model.build((None, *SHAPE))
    return model


def randomized(model):
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(1, 0.3, w.shape) for w in model.weights])
    return model


def penalty_of(model, factor):
    """Returns the sum of the magnitudes of the scales, by the names of weights."""
    scales = [w for w in model.weights if w.name == "gamma"]
    scales = [w for w in scales if "another_gamma" not in w.path]
    assert len(scales) == SCALES
    return factor * sum(np.abs(array(w)).sum() for w in scales)


def total(losses):
    return sum(map(array, losses))


class TestGammaL1:
    def test_is_the_sum_of_magnitudes(self):
        gamma = ops.convert_to_tensor([1.0, -2.0, 0.0, 0.5])
        assert array(GammaL1()(gamma)) == pytest.approx(3.5e-4)
        assert array(GammaL1(2)(gamma)) == 7.0

    def test_sum_of_halves_is_float32(self):
        """The largest bfloat16 sum of ones is 256."""
        penalty = GammaL1(1)(ops.ones(1024, "bfloat16"))
        assert array(penalty) == 1024

    def test_config(self):
        config = keras.regularizers.serialize(GammaL1(0.25))
        again = keras.regularizers.deserialize(config)
        assert isinstance(again, GammaL1) and again.penalty == 0.25
        layer = keras.layers.BatchNormalization(gamma_regularizer=GammaL1(0.25))
        again = keras.layers.BatchNormalization.from_config(layer.get_config())
        assert again.gamma_regularizer.penalty == 0.25

    @pytest.mark.parametrize("penalty", [-1e-4, float("inf"), float("nan"), "l1", True])
    def test_refuses(self, penalty):
        with pytest.raises(ValueError, match="penalty must be a finite.*received"):
            GammaL1(penalty)
        with pytest.raises(ValueError, match="penalty must be a finite.*received"):
            penalize_gammas(functional(), penalty)


@pytest.mark.parametrize("make", [functional, sequential, subclassed])
class TestPenalizeGammas:
    def test_every_scale_and_no_other(self, make):
        model = randomized(make())
        assert model.losses == []
        before = model.get_weights()
        assert penalize_gammas(model, 0.01) is None
        assert len(model.losses) == SCALES
        expected = penalty_of(model, 0.01)
        assert total(model.losses) == pytest.approx(expected, rel=CLOSE)
        assert all(map(np.array_equal, before, model.get_weights()))

    def test_again_after_a_file(self, make, tmp_path):
        """Composite layers, and models of one's own, don't save what is in them."""
        model = randomized(make())
        penalize_gammas(model, 0.01)
        model.save(tmp_path / "net.keras")
        again = keras.models.load_model(tmp_path / "net.keras")
        saved = 0 if make is subclassed else 2  # "alone" and "nested"
        assert len(again.losses) == saved
        penalize_gammas(again, 0.01)
        assert total(again.losses) == pytest.approx(total(model.losses), rel=CLOSE)
        x = features(2, *SHAPE)
        a, b = keras.tree.flatten([model(x), again(x)])
        assert difference(b, a) == 0

    def test_as_a_part_of_another_model(self, make):
        x = keras.Input(SHAPE)
        model = keras.Model(x, make()(x))
        penalize_gammas(model, 0.01)
        assert len(model.losses) == SCALES

    def test_replaces_and_takes_away(self, make):
        model = randomized(make())
        penalize_gammas(model, 0.01)
        penalize_gammas(model, 0.5)
        assert len(model.losses) == SCALES
        assert total(model.losses) == pytest.approx(penalty_of(model, 0.5), rel=CLOSE)
        penalize_gammas(model, 0)
        assert model.losses == []

    def test_frozen_scales_have_none(self, make):
        model = make()
        penalize_gammas(model)
        parts = model.steps if make is subclassed else model.layers
        for layer in parts:
            if layer.name in ("alone", "model"):
                layer.trainable = False
        assert len(model.losses) == SCALES - 3

    def test_refuses_a_second_regularizer(self, make):
        model = make()
        parts = model.steps if make is subclassed else model.layers
        (nam,) = (layer for layer in parts if layer.name == "nam")
        nam.norm.gamma_regularizer = keras.regularizers.L2(0.1)
        with pytest.raises(ValueError, match="'norm' has gamma_regularizer=.*L2"):
            penalize_gammas(model)
        assert model.losses == []


def test_training_moves_scales_by_the_sign():
    """What the authors add to each gradient: penalty * sign(gamma)."""
    x, cotangent = features(4, *SHAPE), features(4, *SHAPE, seed=2)

    def after_step(penalty):
        layer = NAM(name="nam")
        model = keras.Sequential([keras.Input(SHAPE), layer])
        layer.norm.gamma.assign(features(8, seed=3))
        penalize_gammas(model, penalty)
        model.compile(keras.optimizers.SGD(1.0), loss=lambda y, z: ops.sum(y * z))
        model.train_on_batch(x, cotangent)
        return array(layer.norm.gamma)

    moved = after_step(0.25) - after_step(0)
    assert difference(moved, -0.25 * np.sign(features(8, seed=3))) <= CLOSE


def test_unbuilt_models_have_it_when_they_are_built():
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([norm, Branches()])
    penalize_gammas(model, 0.01)
    assert not model.built and model.losses == []
    model.build((None, *SHAPE))
    assert len(model.losses) == 4
    assert array(model.losses[0]) == pytest.approx(0.08)
    assert norm.get_config()["gamma_regularizer"]["config"] == {"penalty": 0.01}


def test_stock_normalizations_save_it(tmp_path):
    x = keras.Input(SHAPE)
    y = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 1)(x))
    model = keras.Model(x, keras.layers.BatchNormalization()(y))
    penalize_gammas(model, 0.01)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert len(again.losses) == 2
    assert total(again.losses) == pytest.approx(0.16)


def test_compiling_again_is_enough():
    """A compiled training step keeps the losses that it was made with."""
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input(SHAPE), layer])
    x = features(4, *SHAPE)
    for penalty, expected in ((0, 0), (0.01, 0.08), (0.5, 4), (0, 0)):
        penalize_gammas(model, penalty)
        model.compile(keras.optimizers.SGD(0.0), loss=lambda y, z: ops.sum(0 * z))
        # float32, of a sum of eight ones
        assert model.train_on_batch(x, x) == pytest.approx(expected, rel=CLOSE)


def test_gradient_of_a_layer_is_that_of_its_function():
    """The penalty is a loss: it changes nothing in the layer itself."""
    x = features(2, *SHAPE)
    layer = NAM()
    layer.build(x.shape)
    _, dx, _ = gradients(layer, x, x)
    penalized = NAM(gamma_regularizer=GammaL1(10))
    penalized.build(x.shape)
    np.testing.assert_array_equal(gradients(penalized, x, x)[1], dx)
    assert array(penalized.losses[0]) == 80

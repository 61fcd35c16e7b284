"""EfficientNets: units, inputs, initial weights, feature levels, files, refusals."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.small_efficientnets import DEEP, UNITS, narrow_efficientnet
from support.small_networks import images, randomize, trainable

from keras_attention import SqueezeExcite, image_input, models
from keras_attention.models import efficientnet

BUILDERS = list(efficientnet.SCALINGS)


@pytest.fixture(scope="module")
def small():
    """A narrow network on random weights; not to be changed."""
    model = narrow_efficientnet()
    randomize(model)
    return model


@pytest.fixture(scope="module")
def small_file(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.keras"
    small.save(path)
    return path


@pytest.fixture(scope="module")
def b0():
    return models.EfficientNetB0((64, 96, 3), 1000)


class TestBuilders:
    @pytest.mark.parametrize("name", BUILDERS)
    def test_say_what_they_are(self, name):
        build = getattr(models, name)
        assert build.__name__ == name and build.__module__ == efficientnet.__name__
        doc = inspect.getdoc(build)
        assert doc.startswith(f"Returns {name} as a functional Keras model.")
        assert ("ReLU6; no squeeze" in doc) == ("Lite" in name)
        assert "{" not in build.__doc__.replace('{"name": ..., **arguments}', "")
        parameters = inspect.signature(build).parameters
        kinds = [p.kind for p in parameters.values()]
        assert kinds.count(inspect.Parameter.KEYWORD_ONLY) <= 10
        assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) == 2
        default = None if "Lite" in name else "se"
        assert parameters["attention"].default == default

    def test_names(self):
        assert narrow_efficientnet().name == "efficientnetb0"
        assert narrow_efficientnet("EfficientNetLite0").name == "efficientnetlite0"
        assert narrow_efficientnet(name="eyes").name == "eyes"

    def test_units_and_strides(self, b0):
        assert [x.name for x in b0.layers if x.name.endswith("_project_bn")] == [
            f"stage_{stage}_unit_{unit}_project_bn"
            for stage, units in enumerate((1, 2, 2, 3, 3, 4, 1), 1)
            for unit in range(1, units + 1)
        ]
        assert {
            x.name: x.strides for x in b0.layers if getattr(x, "strides", 1) == (2, 2)
        } == {"stem_conv": (2, 2)} | {
            f"stage_{stage}_unit_1_depthwise_conv": (2, 2) for stage in (2, 3, 4, 6)
        }
        with_sum = [x.name[:14] for x in b0.layers if x.name.endswith("_add")]
        assert with_sum == [
            f"stage_{stage}_unit_{unit}"
            for stage, units in enumerate((1, 2, 2, 3, 3, 4, 1), 1)
            for unit in range(2, units + 1)
        ]

    def test_squeezes_to_a_quarter_of_the_units_input(self, b0):
        blocks = [x for x in b0.layers if isinstance(x, SqueezeExcite)]
        widths = [block.reduce.filters for block in blocks]
        stages = ([8], [4, 6], [6, 10], [10, 20, 20], [20, 28, 28], [28] + [48] * 3)
        assert widths == [*sum(stages, []), 48]
        assert {keras.activations.serialize(x.activation) for x in blocks} == {"silu"}

    def test_activations(self, small):
        lite = narrow_efficientnet("EfficientNetLite0")
        for model in (small, lite):
            acts = [x for x in model.layers if x.name.endswith("_act")]
            # one behind stem and head, two in units that expand
            assert len(acts) == 2 + 2 * len(UNITS) - 1
            for layer in acts:
                kind = keras.layers.ReLU if model is lite else keras.layers.Activation
                assert type(layer) is kind
        assert {x.max_value for x in lite.layers if x.name.endswith("_act")} == {6.0}
        x = images(1, 4, 4, 3)
        swish = small.get_layer("stem_act")(x)
        np.testing.assert_allclose(swish, x / (1 + np.exp(-x)), rtol=1e-5)

    def test_lite_keeps_the_depth_of_its_ends(self):
        stages = efficientnet.stages(efficientnet.SCALINGS["EfficientNetLite4"])
        assert [units for *_, units, _ in stages] == [1, 4, 4, 6, 6, 8, 1]
        stages = efficientnet.stages(efficientnet.SCALINGS["EfficientNetB4"])
        assert [units for *_, units, _ in stages] == [2, 4, 4, 6, 6, 8, 2]


class TestInput:
    def test_range_is_stored(self, small, small_file):
        assert image_input.input_range_of(small) == (-1, 127 / 128)
        again = keras.models.load_model(small_file)
        assert image_input.input_range_of(again) == (-1, 127 / 128)
        x = images(2, 32, 32, 3)
        np.testing.assert_array_equal(again(x), small(x))

    @pytest.mark.parametrize(
        ("size", "stem_stride", "last"),
        [
            ((32, 32), 2, (4, 4)),
            ((32, 32), 1, (8, 8)),
            ((64, 96), 2, (8, 12)),
            ((47, 33), 2, (6, 5)),
            ((1, 1), 2, (1, 1)),
            ((None, None), 2, (None, None)),
        ],
    )
    def test_sizes(self, size, stem_stride, last):
        model = narrow_efficientnet(
            input_shape=(*size, 3), stem_stride=stem_stride, include_top=False
        )
        assert model.output_shape == (None, *last, 48)
        assert model.layers[-1].name == "head_act"

    def test_size_may_vary(self):
        model = narrow_efficientnet(input_shape=(None, None, 3))
        fixed = narrow_efficientnet(input_shape=(40, 37, 3))
        randomize(model)
        fixed.set_weights(model.get_weights())
        x = images(2, 40, 37, 3)
        np.testing.assert_array_equal(model(x), fixed(x))

    def test_grayscale(self):
        model = narrow_efficientnet(input_shape=(32, 32, 1))
        assert model(images(2, 32, 32, 1)).shape == (2, 5)


class TestTraining:
    def test_initial_weights_are_the_official_codes(self, b0):
        def deviation(name, expected):
            # at least 800 numbers: known to 2.5 %, four times that is allowed
            kernel = b0.get_layer(name).kernel
            assert np.std(kernel) == pytest.approx(expected, rel=0.1), name

        deviation("stem_conv", np.sqrt(2 / (9 * 32)))
        deviation("stage_3_unit_1_depthwise_conv", np.sqrt(2 / 25))
        deviation("stage_7_unit_1_project_conv", np.sqrt(2 / 320))
        deviation("head_conv", np.sqrt(2 / 1280))
        classifier = b0.get_layer("classifier")
        deviation("classifier", np.sqrt(1 / (3 * 1000)))
        assert np.abs(classifier.kernel).max() <= np.sqrt(1 / 1000)
        assert not np.any(classifier.bias)
        for layer in b0.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                assert (layer.momentum, layer.epsilon) == (0.99, 1e-3)
                gamma, beta, mean, variance = layer.get_weights()
                assert (gamma == 1).all() and (variance == 1).all()
                assert not beta.any() and not mean.any()

    @pytest.mark.parametrize("name", ["EfficientNetB0", "EfficientNetLite0"])
    def test_every_weight_gets_a_gradient(self, name):
        model = narrow_efficientnet(name)
        randomize(model)
        with tf.GradientTape() as tape:
            y = model(images(8, 32, 32, 3), training=True)
            loss = tf.reduce_sum(y * images(8, 5, seed=1))
        weights = model.trainable_weights
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        largest = max(np.abs(gradient).max() for gradient in gradients)
        for weight, gradient in zip(weights, gradients, strict=True):
            size = np.abs(gradient).max()
            if weight.path.endswith("project_bn/beta"):
                # a constant on its way, through a linear layer, to a normalization
                assert size <= 1e-5 * largest
            else:
                assert size > 1e-6 * largest, weight.path

    def test_drop_path_falls_linearly_and_needs_a_sum(self):
        model = models.EfficientNetB0((32, 32, 3), drop_path=0.2)
        rates = {
            layer.name: layer.rate
            for layer in model.layers
            if layer.name.endswith("drop_path")
        }
        units = [
            (s, u) for s, n in enumerate((1, 2, 2, 3, 3, 4, 1), 1) for u in range(n)
        ]
        assert rates == pytest.approx(
            {
                f"stage_{stage}_unit_{unit + 1}_drop_path": 0.2 * done / 15
                for done, (stage, unit) in enumerate(units)
                if unit
            }
        )
        # the branch is dropped, not the shortcut
        dropped = model.get_layer("stage_2_unit_2_drop_path")
        assert dropped.input is model.get_layer("stage_2_unit_2_project_bn").output
        assert dropped.noise_shape == (None, 1, 1, 1)

    def test_mixed_precision_gives_float32_logits(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = narrow_efficientnet()
        finally:
            keras.config.set_dtype_policy("float32")
        assert model.get_layer("head_act").compute_dtype == "bfloat16"
        y = model(images(2, 32, 32, 3), training=True)
        assert y.dtype == "float32"
        assert np.isfinite(y).all()


class TestTop:
    def test_logits_by_default(self, small):
        y = small(images(4, 32, 32, 3)).numpy()
        assert y.shape == (4, 5)
        assert (y < 0).any()

    def test_classifier_activation_and_dropout(self):
        model = narrow_efficientnet(classifier_activation="softmax", dropout=0.45)
        y = model(images(4, 32, 32, 3)).numpy()
        np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)
        assert model.get_layer("head_dropout").rate == 0.45

    def test_without_top(self, small):
        model = narrow_efficientnet(include_top=False)
        assert model.output_shape == (None, 4, 4, 48)
        assert trainable(model) == trainable(small) - (48 + 1) * 5


class TestFeatureLevels:
    LEVELS = {
        2: "stage_1_unit_1_project_bn",
        4: "stage_2_unit_2_add",
        8: "stage_3_unit_1_project_bn",
        16: "stage_5_unit_1_project_bn",
        32: "head_act",
    }

    @pytest.mark.parametrize("attention", ["se", "aw", "sk"])
    def test_strides_are_those_of_the_maps(self, attention):
        size = {"input_shape": (64, 96, 3)}
        model = narrow_efficientnet(stages=DEEP, attention=attention, **size)
        assert models.feature_levels(model) == self.LEVELS
        for stride, name in self.LEVELS.items():
            shape = model.get_layer(name).output.shape
            assert shape[1:3] == (64 // stride, 96 // stride)

    def test_of_others(self, b0, small_file):
        assert models.feature_levels(b0) == self.LEVELS | {
            8: "stage_3_unit_2_add",
            16: "stage_5_unit_3_add",
        }
        levels = {2: self.LEVELS[2], 4: self.LEVELS[4], 8: "head_act"}
        assert models.feature_levels(keras.models.load_model(small_file)) == levels
        model = narrow_efficientnet(stem_stride=1)
        assert list(models.feature_levels(model)) == [1, 2, 4]


class TestWeights:
    def test_from_a_weights_file(self, small, tmp_path):
        path = tmp_path / "small.weights.h5"
        small.save_weights(path)
        model = narrow_efficientnet(weights=path)
        x = images(2, 32, 32, 3)
        np.testing.assert_array_equal(model(x), small(x))

    def test_from_a_model_file_with_another_drop_path(self, small, small_file):
        arguments = {"drop_path": 0.2, "dropout": 0.1, "weights": str(small_file)}
        model = narrow_efficientnet(**arguments)
        x = images(2, 32, 32, 3)
        np.testing.assert_array_equal(model(x), small(x))

    def test_of_another_network(self, small_file):
        message = "same network; .*small.keras differs in 4 layers: stage_1_unit_1_att"
        with pytest.raises(ValueError, match=message):
            narrow_efficientnet("EfficientNetLite0", weights=small_file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (32, 32)}, r"input_shape must be \(H, W, C\).*\(32, 32\)"),
        ({"classes": 0}, "classes must be a positive integer; received 0"),
        ({"stem_stride": 3}, "stem_stride must be 1 or 2; received 3"),
        ({"dropout": 1.0}, r"dropout must be.*\[0, 1\); received 1.0"),
        ({"drop_path": -0.1}, r"drop_path must be.*\[0, 1\); received -0.1"),
        ({"weights": "x.keras"}, "weights must be None.*'x.keras'"),
        ({"attention": "cord"}, "unknown attention name 'cord'.*did you mean 'coord'"),
        ({"attention_position": "after_stage"}, "position must be.*'after_stage'"),
    ],
)
@pytest.mark.parametrize("name", ["EfficientNetB0", "EfficientNetLite4"])
def test_refuses_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(models, name)(**arguments)

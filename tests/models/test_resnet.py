"""ResNets: exact counts, inputs, stems, weights, feature levels, refusals."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.small_networks import SMALL, images, narrow_resnet, randomize, trainable

from keras_attention import image_input, models
from keras_attention.models import _building, resnet

BUILDERS = list(resnet.FAMILIES)


@pytest.fixture(scope="module")
def small():
    """A narrow network with attention on random weights; not to be changed."""
    model = narrow_resnet(attention="se")
    randomize(model)
    return model


@pytest.fixture(scope="module")
def small_file(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.keras"
    small.save(path)
    return path


CIFAR = {"input_shape": (32, 32, 3), "classes": 100, "stem": "cifar"}


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        # torchvision's networks
        ("ResNet18", {}, 11_689_512),
        ("ResNet34", {}, 21_797_672),
        ("ResNet50", {}, 25_557_032),
        ("ResNet101", {}, 44_549_160),
        ("ResNet152", {}, 60_192_808),
        ("ResNeXt50", {}, 25_028_904),
        ("ResNet50", {"attention": "se"}, 28_088_024),
        ("ResNet50", {"attention": "cbam"}, 28_089_624),
        # the kernels of the formula; those of the official runs give 25,557,112
        ("ResNet50", {"attention": "eca"}, 25_557_118),
        ("ResNet50", {"attention": "sa"}, 25_557_740),
        ("ResNet50", {"attention": "sge"}, 25_559_080),
        ("ResNet50", {"attention": "triplet"}, 25_561_832),
        ("ResNet50", {"attention": "gc"}, 28_078_773),
        ("ResNet50", {"attention": "bam"}, 25_915_099),
        ("ResNet50", {"attention": "aw"}, 25_722_240),
        ("ResNet50", CIFAR, 23_705_252),
        ("ResNet50", CIFAR | {"attention": "ema"}, 23_903_620),
        ("ResNet50", CIFAR | {"attention": "coord"}, 25_623_084),
        ("ResNet101", CIFAR, 42_697_380),
        ("ResNet101", CIFAR | {"attention": "ema"}, 43_072_004),
        ("ResNet101", CIFAR | {"attention": "coord"}, 46_322_828),
    ],
)
def test_parameter_counts(name, arguments, count, monkeypatch):
    monkeypatch.setattr(_building, "normal", lambda mode: "zeros")  # saves time
    assert trainable(getattr(models, name)(**arguments)) == count


class TestBuilders:
    @pytest.mark.parametrize("name", BUILDERS)
    def test_say_what_they_are(self, name):
        build = getattr(models, name)
        assert build.__name__ == name and build.__module__ == resnet.__name__
        first = inspect.getdoc(build).splitlines()[0]
        assert first == f"Returns {name} as a functional Keras model."
        assert "{" not in build.__doc__.replace('{"name": ..., **arguments}', "")
        kinds = [p.kind for p in inspect.signature(build).parameters.values()]
        assert kinds.count(inspect.Parameter.KEYWORD_ONLY) <= 10
        assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) == 2

    def test_names(self):
        assert narrow_resnet().name == "resnet50"
        assert narrow_resnet("ResNeXt50").name == "resnext50"
        assert narrow_resnet(name="eyes").name == "eyes"

    def test_units(self):
        model = models.ResNet34((32, 32, 3), 5)
        relus = [x.name for x in model.layers if x.name.startswith("stage_")]
        relus = [name for name in relus if name.endswith("_relu")]
        assert relus == [
            f"stage_{stage}_unit_{unit}_relu"
            for stage, units in enumerate((3, 4, 6, 3), 1)
            for unit in range(1, units + 1)
        ]

    def test_strides_are_in_the_3x3(self):
        model = narrow_resnet()
        strides = {
            layer.name: layer.strides
            for layer in model.layers
            if isinstance(layer, keras.layers.Conv2D) and layer.strides != (1, 1)
        }
        assert strides == {"stem_conv": (2, 2)} | {
            f"stage_{stage}_unit_1_{conv}": (2, 2)
            for stage in (2, 3, 4)
            for conv in ("conv_2", "shortcut_conv")
        }
        model = narrow_resnet("ResNet18")
        assert model.get_layer("stage_2_unit_1_conv_1").strides == (2, 2)
        assert model.get_layer("stage_2_unit_1_conv_2").strides == (1, 1)

    def test_shortcuts_only_where_shapes_change(self):
        for name, stages in (("ResNet50", (1, 2, 3, 4)), ("ResNet18", (2, 3, 4))):
            # 64 channels, those of the stem, in the first stage
            model = narrow_resnet(name, channels=(64, 8, 8, 8))
            assert {x.name for x in model.layers if "shortcut_conv" in x.name} == {
                f"stage_{stage}_unit_1_shortcut_conv" for stage in stages
            }


class TestInput:
    def test_range_is_stored(self, small, small_file):
        assert image_input.input_range_of(small) == (-1, 127 / 128)
        again = keras.models.load_model(small_file)
        assert image_input.input_range_of(again) == (-1, 127 / 128)
        x = images(2, 32, 32, 3)
        np.testing.assert_array_equal(again(x), small(x))

    @pytest.mark.parametrize(
        ("size", "stem", "last"),
        [
            ((32, 32), "imagenet", (1, 1)),
            ((32, 32), "cifar", (4, 4)),
            ((64, 96), "imagenet", (2, 3)),
            ((47, 33), "imagenet", (2, 2)),
            ((1, 1), "imagenet", (1, 1)),
            ((None, None), "imagenet", (None, None)),
        ],
    )
    def test_sizes(self, size, stem, last):
        for name, channels in (("ResNet50", 64), ("ResNet18", 16)):
            model = narrow_resnet(
                name, input_shape=(*size, 3), stem=stem, include_top=False
            )
            assert model.output_shape == (None, *last, channels)
            assert model.layers[-1].name == "stage_4_unit_1_relu"

    def test_size_may_vary(self):
        model = narrow_resnet(attention="se", input_shape=(None, None, 3))
        fixed = narrow_resnet(attention="se", input_shape=(40, 36, 3))
        randomize(model)
        fixed.set_weights(model.get_weights())
        x = images(2, 40, 36, 3)
        np.testing.assert_array_equal(model(x), fixed(x))

    def test_grayscale(self):
        assert narrow_resnet(input_shape=(32, 32, 1))(images(2, 32, 32, 1)).shape == (
            2,
            5,
        )


class TestTraining:
    def test_initial_weights_are_torchvisions(self):
        model = models.ResNeXt50((32, 32, 3), 1000)

        def deviation(name, expected):
            # at least 4096 numbers: known to 1.1 %, four times that is allowed
            kernel = model.get_layer(name).kernel
            assert np.std(kernel) == pytest.approx(expected, rel=0.045), name

        deviation("stem_conv", np.sqrt(2 / (49 * 64)))
        deviation("stage_1_unit_1_conv_1", np.sqrt(2 / 128))
        deviation("stage_1_unit_1_conv_2", np.sqrt(2 / (9 * 128)))  # in groups
        deviation("stage_4_unit_1_shortcut_conv", np.sqrt(2 / 2048))
        deviation("classifier", np.sqrt(1 / (3 * 2048)))
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
                gamma, beta, mean, variance = layer.get_weights()
                assert (gamma == 1).all() and (variance == 1).all()
                assert not beta.any() and not mean.any()

    @pytest.mark.parametrize("name", ["ResNet18", "ResNet50", "ResNeXt50"])
    def test_every_weight_gets_a_gradient(self, name):
        # CIFAR stem: with one position per channel normalizations have gradient 0
        attention = {"name": "se", "reduction": 2}  # some of its ReLUs stay alive
        model = narrow_resnet(name, attention=attention, stem="cifar")
        randomize(model)
        with tf.GradientTape() as tape:
            y = model(images(8, 32, 32, 3), training=True)
            loss = tf.reduce_sum(y * images(8, 5, seed=1))
        weights = model.trainable_weights
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        largest = max(np.abs(gradient).max() for gradient in gradients)
        for weight, gradient in zip(weights, gradients, strict=True):
            assert np.abs(gradient).max() > 1e-6 * largest, weight.path

    def test_drop_path_falls_linearly(self):
        model = narrow_resnet(drop_path=0.4)
        rates = {
            layer.name: layer.rate
            for layer in model.layers
            if layer.name.endswith("drop_path")
        }
        assert rates == pytest.approx(
            {
                "stage_1_unit_2_drop_path": 0.1,
                "stage_2_unit_1_drop_path": 0.2,
                "stage_3_unit_1_drop_path": 0.3,
                "stage_4_unit_1_drop_path": 0.4,
            }
        )
        # the branch is dropped, not the shortcut
        dropped = model.get_layer("stage_2_unit_1_drop_path")
        assert dropped.input is model.get_layer("stage_2_unit_1_bn_3").output
        assert dropped.noise_shape == (None, 1, 1, 1)

    def test_mixed_precision_gives_float32_logits(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = narrow_resnet("ResNeXt50", attention="cbam")
        finally:
            keras.config.set_dtype_policy("float32")
        assert model.get_layer("stage_4_unit_1_relu").compute_dtype == "bfloat16"
        y = model(images(2, 32, 32, 3), training=True)
        assert y.dtype == "float32"
        assert np.isfinite(y).all()


class TestTop:
    def test_logits_by_default(self, small):
        y = small(images(4, 32, 32, 3)).numpy()
        assert y.shape == (4, 5)
        assert (y < 0).any()

    def test_classifier_activation_and_dropout(self):
        model = narrow_resnet(classifier_activation="softmax", dropout=0.3)
        y = model(images(4, 32, 32, 3)).numpy()
        np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)
        assert model.get_layer("head_dropout").rate == 0.3

    def test_without_top(self, small):
        model = narrow_resnet(attention="se", include_top=False)
        assert model.output_shape == (None, 1, 1, 64)
        assert trainable(model) == trainable(small) - (64 + 1) * 5


class TestFeatureLevels:
    def test_of_resnets(self, small, small_file):
        levels = {
            4: "stage_1_unit_2_relu",
            8: "stage_2_unit_1_relu",
            16: "stage_3_unit_1_relu",
            32: "stage_4_unit_1_relu",
        }
        for name in ("ResNet18", "ResNet50"):
            assert models.feature_levels(narrow_resnet(name)) == levels
        assert models.feature_levels(small) == levels
        assert models.feature_levels(keras.models.load_model(small_file)) == levels
        assert list(models.feature_levels(narrow_resnet(stem="cifar"))) == [1, 2, 4, 8]

    def test_blocks_belong_to_what_they_stand_behind(self):
        model = narrow_resnet("ResNet18", attention=["bam", "sk"])
        assert models.feature_levels(model) == {
            4: "stage_1_attention_1",
            8: "stage_2_attention_1",
            16: "stage_3_attention_1",
            32: "stage_4_unit_1_relu",
        }

    @pytest.mark.parametrize("attention", [None, "aw"])
    def test_of_mobilenet_v2(self, attention):
        model = models.MobileNetV2(**SMALL, attention=attention)
        levels = models.feature_levels(model)
        assert levels == {
            2: "block_1_project_bn",
            4: "block_3_add",
            8: "block_6_add",
            16: "block_13_add",
            32: "head_relu",
        }
        model = models.MobileNetV2(**SMALL, attention=attention, stem_stride=1)
        assert models.feature_levels(model) == {
            stride // 2: name for stride, name in levels.items()
        }

    @pytest.mark.parametrize("include_top", [True, False])
    def test_strides_are_those_of_the_maps(self, include_top):
        networks = [
            narrow_resnet(input_shape=(64, 96, 3), include_top=include_top),
            models.MobileNetV2((64, 96, 3), width=0.35, include_top=include_top),
        ]
        for model in networks:
            levels = models.feature_levels(model)
            for stride, name in levels.items():
                shape = model.get_layer(name).output.shape
                assert shape[1:3] == (64 // stride, 96 // stride)
            if not include_top:
                assert model.get_layer(levels[32]).output is model.output

    def test_refuses_other_models(self):
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, keras.layers.Conv2D(3, 3)(inputs), name="other")
        with pytest.raises(ValueError, match="network of a builder.*received 'other'"):
            models.feature_levels(model)


class TestWeights:
    def test_from_a_weights_file(self, small, tmp_path):
        path = tmp_path / "small.weights.h5"
        small.save_weights(path)
        model = narrow_resnet(attention="se", weights=path)
        x = images(2, 32, 32, 3)
        np.testing.assert_array_equal(model(x), small(x))

    def test_from_a_model_file_with_another_drop_path(self, small, small_file):
        arguments = {"drop_path": 0.2, "dropout": 0.1, "weights": str(small_file)}
        model = narrow_resnet(attention="se", **arguments)
        x = images(2, 32, 32, 3)
        np.testing.assert_array_equal(model(x), small(x))

    def test_of_another_network(self, small_file):
        message = "same network; .*small.keras differs in 5 layers: stage_1_unit_1_att"
        with pytest.raises(ValueError, match=message):
            narrow_resnet(weights=small_file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (32, 32)}, r"input_shape must be \(H, W, C\).*\(32, 32\)"),
        ({"classes": 0}, "classes must be a positive integer; received 0"),
        ({"stem": "tiny"}, r"stem must be one of \('imagenet', 'cifar'\); received"),
        ({"dropout": 1.0}, r"dropout must be.*\[0, 1\); received 1.0"),
        ({"drop_path": -0.1}, r"drop_path must be.*\[0, 1\); received -0.1"),
        ({"weights": "imagenett"}, "weights must be None or the path.*'imagenett'"),
        ({"attention": "cord"}, "unknown attention name 'cord'.*did you mean 'coord'"),
        ({"attention_position": "after_expand"}, "position must be.*'after_expand'"),
    ],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.ResNet50(**arguments)

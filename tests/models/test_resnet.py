"""ResNets: what all builders do; exact counts, units, stems, stochastic depth."""

import keras
import numpy as np
import pytest
from support.builder_suite import BuilderSuite, check_initial_weights, drop_rates
from support.small_networks import narrow_resnet, trainable

from keras_attention import models
from keras_attention.models import _building, resnet

# (input_shape, stem, height and width of the last map)
SIZES = (
    ((32, 32, 3), "imagenet", (1, 1)),
    ((32, 32, 3), "cifar", (4, 4)),
    ((47, 33, 3), "imagenet", (2, 2)),
    ((64, 96, 3), "imagenet", (2, 3)),
    ((1, 1, 3), "imagenet", (1, 1)),
    ((None, None, 3), "imagenet", (None, None)),
)
ALIVE = {"name": "se", "reduction": 2}  # some of its ReLUs stay so


class TestResNet(BuilderSuite):
    build = staticmethod(narrow_resnet)
    arguments = {"attention": "se"}
    # torchvision's networks
    parameters = {
        "ResNet18": 11_689_512,
        "ResNet34": 21_797_672,
        "ResNet50": 25_557_032,
        "ResNet101": 44_549_160,
        "ResNet152": 60_192_808,
        "ResNeXt50": 25_028_904,
    }
    module = resnet
    name = "resnet50"
    last, features = "stage_4_unit_1_relu", (2, 3, 64)
    levels = {
        4: "stage_1_unit_2_relu",
        8: "stage_2_unit_1_relu",
        16: "stage_3_unit_1_relu",
        32: "stage_4_unit_1_relu",
    }
    dropout = 0.0
    sizes = [
        ({"build": name, "input_shape": shape, "stem": stem}, (*sides, channels))
        for shape, stem, sides in SIZES
        for name, channels in (("ResNet50", 64), ("ResNet18", 16))
    ]
    # CIFAR stem: with one position per channel normalizations have gradient 0
    trained = [
        ({"build": name, "attention": ALIVE, "stem": "cifar"}, 8)
        for name in ("ResNet18", "ResNet50", "ResNeXt50")
    ]
    mixed = {"build": "ResNeXt50", "attention": "cbam"}
    another = ({}, "5 layers: stage_1_unit_1_att")
    refused = (
        ({"stem": "tiny"}, r"stem must be one of \('imagenet', 'cifar'\); received"),
        ({"attention_position": "after_expand"}, "position must be.*'after_expand'"),
    )


CIFAR = {"input_shape": (32, 32, 3), "classes": 100, "stem": "cifar"}


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        *((name, {}, count) for name, count in TestResNet.parameters.items()),
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


class TestUnits:
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


def test_initial_weights_are_torchvisions():
    deviations = {
        "stem_conv": np.sqrt(2 / (49 * 64)),
        "stage_1_unit_1_conv_1": np.sqrt(2 / 128),
        "stage_1_unit_1_conv_2": np.sqrt(2 / (9 * 128)),  # in groups
        "stage_4_unit_1_shortcut_conv": np.sqrt(2 / 2048),
        "classifier": np.sqrt(1 / (3 * 2048)),
    }
    check_initial_weights(models.ResNeXt50((32, 32, 3), 1000), deviations)


def test_drop_path_falls_linearly():
    model = narrow_resnet(drop_path=0.4)
    assert drop_rates(model) == pytest.approx(
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


class TestFeatureLevels:
    def test_of_other_resnets(self):
        for name in ("ResNet18", "ResNet50", "ResNeXt50"):
            model = narrow_resnet(name)
            assert model.name == name.lower()
            assert models.feature_levels(model) == TestResNet.levels
        assert list(models.feature_levels(narrow_resnet(stem="cifar"))) == [1, 2, 4, 8]

    def test_blocks_belong_to_what_they_stand_behind(self):
        model = narrow_resnet("ResNet18", attention=["bam", "sk"])
        assert models.feature_levels(model) == {
            4: "stage_1_attention_1",
            8: "stage_2_attention_1",
            16: "stage_3_attention_1",
            32: "stage_4_unit_1_relu",
        }

    def test_refuses_other_models(self):
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, keras.layers.Conv2D(3, 3)(inputs), name="other")
        with pytest.raises(ValueError, match="network of a builder.*received 'other'"):
            models.feature_levels(model)

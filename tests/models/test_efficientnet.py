"""EfficientNets: what all builders do; units, initial weights, stochastic depth."""

import inspect

import keras
import numpy as np
import pytest
from support.builder_suite import BuilderSuite, check_initial_weights, drop_rates
from support.small_efficientnets import DEEP, UNITS, narrow_efficientnet
from support.small_networks import images

from keras_attention import SqueezeExcite, models
from keras_attention.models import efficientnet
from keras_attention.weights import imagenet

BUILDERS = list(efficientnet.SCALINGS)
# (stage, unit) of all units of B0
B0_UNITS = [
    (stage, unit)
    for stage, units in enumerate((1, 2, 2, 3, 3, 4, 1), 1)
    for unit in range(1, units + 1)
]
LEVELS = {
    2: "stage_1_unit_1_project_bn",
    4: "stage_2_unit_2_add",
    8: "stage_3_unit_1_project_bn",
    16: "stage_5_unit_1_project_bn",
    32: "head_act",
}


class TestEfficientNet(BuilderSuite):
    build = staticmethod(narrow_efficientnet)
    # what they count by definition, see test_efficientnet_counts.py
    parameters = {name: imagenet.FILES[name].parameters for name in BUILDERS}
    module = efficientnet
    name = "efficientnetb0"
    last, features = "head_act", (8, 12, 48)
    levels = {2: LEVELS[2], 4: LEVELS[4], 8: "head_act"}
    odd_image = (40, 37, 3)
    sizes = (
        ({"input_shape": (32, 32, 3)}, (4, 4, 48)),
        ({"input_shape": (32, 32, 3), "stem_stride": 1}, (8, 8, 48)),
        ({"input_shape": (47, 33, 3)}, (6, 5, 48)),
        ({"input_shape": (1, 1, 3)}, (1, 1, 48)),
        ({"input_shape": (None, None, 3)}, (None, None, 48)),
    )
    trained = (({}, 8), ({"build": "EfficientNetLite0"}, 8))
    constant = ("project_bn/beta",)
    another = ({"build": "EfficientNetLite0"}, "4 layers: stage_1_unit_1_att")
    refused = (
        ({"stem_stride": 3}, "stem_stride must be 1 or 2; received 3"),
        ({"weights": "x.keras"}, "weights must be None.*'x.keras'"),
        ({"attention_position": "after_stage"}, "position must be.*'after_stage'"),
    )

    def test_lite_is_without_squeeze(self, builder):
        build, lite = getattr(models, builder), "Lite" in builder
        assert ("ReLU6; no squeeze" in inspect.getdoc(build)) == lite
        default = inspect.signature(build).parameters["attention"].default
        assert default == (None if lite else "se")

    def test_activations(self, small):
        lite = narrow_efficientnet("EfficientNetLite0")
        assert lite.name == "efficientnetlite0"
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


@pytest.fixture(scope="module")
def b0():
    keras.utils.set_random_seed(0)
    return models.EfficientNetB0((64, 96, 3), 1000, drop_path=0.2)


class TestB0:
    def test_units_and_strides(self, b0):
        assert [x.name for x in b0.layers if x.name.endswith("_project_bn")] == [
            f"stage_{stage}_unit_{unit}_project_bn" for stage, unit in B0_UNITS
        ]
        assert {
            x.name: x.strides for x in b0.layers if getattr(x, "strides", 1) == (2, 2)
        } == {"stem_conv": (2, 2)} | {
            f"stage_{stage}_unit_1_depthwise_conv": (2, 2) for stage in (2, 3, 4, 6)
        }
        with_sum = [x.name[:14] for x in b0.layers if x.name.endswith("_add")]
        assert with_sum == [
            f"stage_{stage}_unit_{unit}" for stage, unit in B0_UNITS if unit > 1
        ]

    def test_squeezes_to_a_quarter_of_the_units_input(self, b0):
        blocks = [x for x in b0.layers if isinstance(x, SqueezeExcite)]
        widths = [block.reduce.filters for block in blocks]
        stages = ([8], [4, 6], [6, 10], [10, 20, 20], [20, 28, 28], [28] + [48] * 3)
        assert widths == [*sum(stages, []), 48]
        assert {keras.activations.serialize(x.activation) for x in blocks} == {"silu"}

    def test_initial_weights_are_the_official_codes(self, b0):
        deviations = {
            "stem_conv": np.sqrt(2 / (9 * 32)),
            "stage_3_unit_1_depthwise_conv": np.sqrt(2 / 25),
            "stage_7_unit_1_project_conv": np.sqrt(2 / 320),
            "head_conv": np.sqrt(2 / 1280),
            "classifier": np.sqrt(1 / (3 * 1000)),
        }
        check_initial_weights(b0, deviations, momentum=0.99, epsilon=1e-3)
        kernel = b0.get_layer("classifier").kernel
        assert np.abs(kernel).max() <= np.sqrt(1 / 1000)

    def test_drop_path_falls_linearly_and_needs_a_sum(self, b0):
        assert drop_rates(b0) == pytest.approx(
            {
                f"stage_{stage}_unit_{unit}_drop_path": 0.2 * done / 15
                for done, (stage, unit) in enumerate(B0_UNITS)
                if unit > 1
            }
        )
        # the branch is dropped, not the shortcut
        dropped = b0.get_layer("stage_2_unit_2_drop_path")
        assert dropped.input is b0.get_layer("stage_2_unit_2_project_bn").output
        assert dropped.noise_shape == (None, 1, 1, 1)

    def test_feature_levels(self, b0):
        assert models.feature_levels(b0) == LEVELS | {
            8: "stage_3_unit_2_add",
            16: "stage_5_unit_3_add",
        }


def test_lite_keeps_the_depth_of_its_ends():
    stages = efficientnet.stages(efficientnet.SCALINGS["EfficientNetLite4"])
    assert [units for *_, units, _ in stages] == [1, 4, 4, 6, 6, 8, 1]
    stages = efficientnet.stages(efficientnet.SCALINGS["EfficientNetB4"])
    assert [units for *_, units, _ in stages] == [2, 4, 4, 6, 6, 8, 2]


@pytest.mark.parametrize("attention", ["se", "aw", "sk"])
def test_strides_of_feature_levels_are_those_of_the_maps(attention):
    size = {"input_shape": (64, 96, 3)}
    model = narrow_efficientnet(stages=DEEP, attention=attention, **size)
    assert models.feature_levels(model) == LEVELS
    for stride, name in LEVELS.items():
        shape = model.get_layer(name).output.shape
        assert shape[1:3] == (64 // stride, 96 // stride)


def test_feature_levels_of_small_images():
    assert list(models.feature_levels(narrow_efficientnet(stem_stride=1))) == [1, 2, 4]

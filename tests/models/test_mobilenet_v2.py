"""MobileNetV2: what all builders do; counts, initial weights, stochastic depth."""

import numpy as np
import pytest
from support.builder_suite import (
    BuilderSuite,
    check_dropped_samples,
    check_initial_weights,
    drop_rates,
)
from support.small_networks import SMALL, trainable

from keras_attention import models
from keras_attention.models import mobilenet_v2


def small_mobilenet_v2(**arguments):
    return models.MobileNetV2(**SMALL | arguments)


class TestMobileNetV2(BuilderSuite):
    build = staticmethod(small_mobilenet_v2)
    arguments = {"attention": "coord"}
    parameters = {"MobileNetV2": 3_504_872}
    module = mobilenet_v2
    name = "mobilenet_v2"
    last, features = "head_relu", (2, 3, 1280)
    levels = {
        2: "block_1_project_bn",
        4: "block_3_add",
        8: "block_6_add",
        16: "block_13_add",
        32: "head_relu",
    }
    dropout = 0.1
    sizes = (
        ({"input_shape": (32, 32, 3)}, (1, 1, 1280)),
        ({"input_shape": (32, 32, 3), "stem_stride": 1}, (2, 2, 1280)),
        ({"input_shape": (47, 33, 3)}, (2, 2, 1280)),
        ({"input_shape": (1, 1, 3)}, (1, 1, 1280)),
        ({"input_shape": (32, 32, 3), "width": 1.4}, (1, 1, 1792)),
    )
    # 64 x 64: with one position per channel a normalization's input has gradient 0
    trained = (({"input_shape": (64, 64, 3), "attention": "coord"}, 8),)
    constant = ("attention/reduce/bias", "project_bn/beta")
    mixed = {"attention": "coord"}
    another = ({}, "16 layers: block_10_attention")
    refused = (
        ({"width": 0}, "width must be a number > 0; received 0"),
        ({"width": "wide"}, "width must be.*received 'wide'"),
        ({"stem_stride": 4}, "stem_stride must be 1 or 2; received 4"),
        ({"attention_position": "after_stage"}, "position must be.*'after_stage'"),
    )

    def test_trainable_weights(self, small):
        # 52 convolutions and normalizations, 16 blocks, the classifier
        assert len(small.trainable_weights) == 52 * 3 + 16 * 8 + 2


@pytest.mark.parametrize(
    ("width", "plain", "coord"),
    [
        (1.0, TestMobileNetV2.parameters["MobileNetV2"], 3_950_648),
        (0.75, 2_636_424, 2_891_631),
        (0.5, 1_968_680, 2_095_568),
    ],
)
def test_parameter_counts(width, plain, coord):
    assert trainable(models.MobileNetV2(width=width)) == plain
    assert trainable(models.MobileNetV2(width=width, attention="coord")) == coord


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(32, 32), (24 * 0.75, 24), (16 * 0.35, 8), (24 * 0.35, 8), (96 * 1.4, 136)],
)
def test_channels_are_multiples_of_8_and_lose_10_percent_at_most(channels, expected):
    assert mobilenet_v2.divisible(channels) == expected
    assert expected >= 0.9 * channels


@pytest.mark.parametrize("attention", [None, "aw"])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_feature_levels_of_other_blocks_and_small_images(attention, stem_stride):
    model = small_mobilenet_v2(attention=attention, stem_stride=stem_stride)
    assert models.feature_levels(model) == {
        stride * stem_stride // 2: name
        for stride, name in TestMobileNetV2.levels.items()
    }


def test_initial_weights_are_the_authors():
    model = models.MobileNetV2((32, 32, 3), 1000, attention="coord")
    deviations = {
        "stem_conv": np.sqrt(2 / (9 * 32)),
        "block_1_project_conv": np.sqrt(2 / 16),
        "block_2_depthwise_conv": np.sqrt(2 / (9 * 96)),
        "block_17_depthwise_conv": np.sqrt(2 / (9 * 960)),
        "head_conv": np.sqrt(2 / 1280),
        "classifier": 0.01,
    }
    check_initial_weights(model, deviations)
    attention = model.get_layer("block_17_attention")
    assert np.std(attention.reduce.kernel) == pytest.approx(np.sqrt(2 / 30), rel=0.02)


def test_drop_path_falls_linearly_and_needs_a_sum():
    with_sum = [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]
    model = small_mobilenet_v2(drop_path=0.32)
    assert drop_rates(model) == pytest.approx(
        {f"block_{u}_drop_path": 0.32 * (u - 1) / 16 for u in with_sum}
    )
    check_dropped_samples(model.get_layer("block_16_drop_path"), (2, 2, 8))

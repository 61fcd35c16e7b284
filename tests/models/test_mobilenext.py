"""MobileNeXt: what all builders do; exact counts, structure, initial weights."""

import numpy as np
import pytest
from support.builder_suite import BuilderSuite, check_initial_weights, drop_rates
from support.small_mobilenext import narrow_mobilenext
from support.small_networks import SMALL, trainable

from keras_attention import models
from keras_attention.models import _building, mobilenext

# Channels of each unit's input, waist and output, width 1.0: mnext.py of the authors.
CHANNELS = (
    [(32, 16, 96), (96, 32, 144), (144, 32, 192)]
    + [(192, 32, 192)] * 2
    + [(192, 48, 288)]
    + [(288, 48, 288)] * 2
    + [(288, 64, 384)]
    + [(384, 64, 384)] * 3
    + [(384, 96, 576)]
    + [(576, 96, 576)] * 3
    + [(576, 160, 960)]
    + [(960, 160, 960)] * 2
    + [(960, 208, 1280)]
)
NO_FIRST, NO_LAST = (3, 6, 9, 13, 17), (9, 17)
WITH_SUM = [4, 5, 7, 8, 10, 11, 12, 14, 15, 16, 18, 19]


def count(channels, stem, classes):
    """Trainable parameters of units (input, waist, output): the definition."""
    total = 27 * stem + 2 * stem
    for unit, (inputs, waist, outputs) in enumerate(channels, 1):
        if unit not in NO_FIRST:
            total += 9 * inputs + 2 * inputs
        total += inputs * waist + 2 * waist + waist * outputs + 2 * outputs
        if unit not in NO_LAST:
            total += 9 * outputs + 2 * outputs
    return total + (channels[-1][2] + 1) * classes


def coord(reduction, channels):
    waist = max(8, channels // reduction)
    return 3 * channels * waist + 3 * waist + 2 * channels


def squeeze(reduction, channels):
    waist = channels // reduction
    return 2 * channels * waist + waist + channels


@pytest.mark.parametrize(
    ("name", "reduction", "of_block", "expected"),
    [
        (None, None, lambda reduction, channels: 0, 3_535_416),
        ("coord", 24, coord, 4_108_336),
        ("coord", 32, coord, 3_971_626),
        ("se", 24, squeeze, 3_913_557),
    ],
)
def test_parameter_counts(name, reduction, of_block, expected, monkeypatch):
    monkeypatch.setattr(_building, "normal", lambda mode: "zeros")  # saves time
    # behind each first depthwise convolution: as wide as the unit's input
    wide = [c for n, (c, _, _) in enumerate(CHANNELS, 1) if n not in NO_FIRST]
    assert len(wide) == 15
    blocks = sum(of_block(reduction, channels) for channels in wide)
    assert count(CHANNELS, 32, 1000) + blocks == expected
    attention = {"name": name, "reduction": reduction} if name else None
    assert trainable(models.MobileNeXt(attention=attention)) == expected


# Of the stem and the stages, then the waists of the first and the other units of each
# stage; by the authors' rules: multiples of 8 and of 16, 10 % lost at most.
WIDTHS = {
    0.35: (
        (16, 32, 48, 64, 104, 136, 200, 336, 1280),
        [(8,), (16,), (16, 16), (32, 32), (32, 32), (32, 32), (64, 56), (208,)],
    ),
    0.5: (
        (16, 48, 72, 96, 144, 192, 288, 480, 1280),
        [(8,), (16,), (16, 16), (32, 24), (32, 32), (48, 48), (80, 80), (208,)],
    ),
    0.75: (
        (24, 72, 112, 144, 216, 288, 432, 720, 1280),
        [(12,), (32,), (32, 24), (48, 36), (48, 48), (80, 72), (128, 120), (208,)],
    ),
    1.4: (
        (48, 136, 200, 272, 400, 536, 808, 1344, 1792),
        [(24,), (32,), (48, 48), (64, 64), (96, 96), (128, 128), (224, 224), (304,)],
    ),
}


@pytest.mark.parametrize("width", WIDTHS)
def test_channels_at_other_widths(width, monkeypatch):
    monkeypatch.setattr(_building, "normal", lambda mode: "zeros")
    (stem, *stages), waists = WIDTHS[width]
    channels, inputs = [], stem
    for outputs, waist, units in zip(
        stages, waists, (1, 1, 3, 3, 4, 4, 3, 1), strict=True
    ):
        channels.append((inputs, waist[0], outputs))
        channels += [(outputs, waist[-1], outputs)] * (units - 1)
        inputs = outputs
    units = mobilenext.units_of(width)
    assert [(unit.reduced, unit.channels) for unit in units] == [
        (waist, outputs) for _, waist, outputs in channels
    ]
    if width != 0.35:
        return
    model = models.MobileNeXt((32, 32, 3), 10, width=width)
    assert model.get_layer("stem_conv").filters == stem
    for unit, expected in enumerate(channels, 1):
        reduce = model.get_layer(f"block_{unit}_reduce_conv")
        expand = model.get_layer(f"block_{unit}_expand_conv")
        found = (reduce.input.shape[-1], reduce.filters, expand.filters)
        assert found == expected, unit
    assert trainable(model) == count(channels, stem, 10)


class TestMobileNeXt(BuilderSuite):
    build = staticmethod(narrow_mobilenext)
    arguments = {"attention": "coord"}
    parameters = {"MobileNeXt": 3_535_416}
    module = mobilenext
    name = "mobilenext"
    last, features = "block_6_depthwise_2_bn", (8, 12, 48)
    levels = {2: "stem_relu", 4: "block_1_depthwise_2_bn", 8: last}
    sizes = (
        ({"input_shape": (32, 32, 1), "stem_stride": 1}, (8, 8, 48)),
        ({"input_shape": (47, 33, 1)}, (6, 5, 48)),
        ({"input_shape": (1, 1, 1)}, (1, 1, 48)),
    )
    trained = (({"attention": "coord"}, 8),)
    # Units 2 and 4 begin with a 1x1 convolution.
    constant = (
        *("attention/reduce/bias", "reduce_bn/beta"),
        *("block_1_depthwise_2_bn/beta", "block_3_depthwise_2_bn/beta"),
    )
    mixed = {"attention": "coord"}
    another = ({}, "4 layers: block_1_attention")
    refused = (
        ({"width": 0}, "width must be a number > 0; received 0"),
        ({"width": "wide"}, "width must be.*received 'wide'"),
        ({"stem_stride": 4}, "stem_stride must be 1 or 2; received 4"),
        (
            {"weights": "imagenet"},
            "no public file for weights='imagenet' of MobileNeXt",
        ),
        ({"attention_position": "after_stage"}, "position must be.*'after_stage'"),
    )

    def test_trainable_weights(self, small):
        # The stem, six units of 4, 3 or 2 convolutions with normalizations, four blocks
        # and the classifier.
        assert len(small.trainable_weights) == 3 + 3 * (4 * 4 + 3 + 2) + 4 * 8 + 2

    def test_sums_are_of_the_wide_ends(self, small):
        for unit in (3, 5):
            inputs = small.get_layer(f"block_{unit}_add").input
            before = small.get_layer(f"block_{unit}_depthwise_1_conv").input
            branch = small.get_layer(f"block_{unit}_depthwise_2_bn").output
            assert inputs[0] is before and inputs[1] is branch


@pytest.fixture(scope="module")
def whole():
    """A network of all units; not to be changed."""
    size = SMALL | {"input_shape": (64, 96, 3)}
    return models.MobileNeXt(**size, attention="se", drop_path=0.38, include_top=False)


class TestUnits:
    def test_depthwise_convolutions_and_sums(self, whole):
        names = {layer.name for layer in whole.layers}

        def units_with(end):
            return [n for n in range(1, 21) if f"block_{n}_{end}" in names]

        first = [n for n in range(1, 21) if n not in NO_FIRST]
        assert units_with("depthwise_1_conv") == units_with("depthwise_1_bn") == first
        assert units_with("depthwise_1_relu") == units_with("attention") == first
        last = [n for n in range(1, 21) if n not in NO_LAST]
        assert units_with("depthwise_2_conv") == units_with("depthwise_2_bn") == last
        assert units_with("add") == WITH_SUM
        for end in ("reduce_conv", "reduce_bn", "expand_conv", "expand_relu"):
            assert units_with(end) == list(range(1, 21))
        assert not units_with("reduce_relu") and not units_with("depthwise_2_relu")

    def test_strides_are_in_the_last_depthwise_convolutions(self, whole):
        strides = {
            layer.name
            for layer in whole.layers
            if getattr(layer, "strides", (1, 1)) == (2, 2)
        }
        assert strides == {"stem_conv"} | {
            f"block_{unit}_depthwise_2_conv" for unit in (1, 3, 6, 13)
        }

    def test_feature_levels(self, whole):
        levels = models.feature_levels(whole)
        assert levels == {
            2: "stem_relu",
            4: "block_2_depthwise_2_bn",
            8: "block_5_add",
            16: "block_12_add",
            32: "block_20_depthwise_2_bn",
        }
        for stride, name in levels.items():
            shape = whole.get_layer(name).output.shape
            assert shape[1:3] == (64 // stride, 96 // stride)

    def test_feature_levels_of_blocks_and_small_images(self):
        model = narrow_mobilenext(
            stem_stride=1, attention="se", attention_position="after_sum"
        )
        assert models.feature_levels(model) == {
            1: "stem_relu",
            2: "block_1_attention",
            4: "block_6_attention",
        }

    def test_drop_path_falls_linearly_and_needs_a_sum(self, whole):
        assert drop_rates(whole) == pytest.approx(
            {f"block_{u}_drop_path": 0.38 * (u - 1) / 19 for u in WITH_SUM}
        )
        dropped = whole.get_layer("block_4_drop_path")
        assert dropped.input is whole.get_layer("block_4_depthwise_2_bn").output
        assert dropped.noise_shape == (None, 1, 1, 1)


def test_initial_weights_are_the_authors():
    stages = ((2, 96, 1, 2), (6, 192, 1, 1))
    deviations = {
        "stem_conv": np.sqrt(2 / (9 * 32)),
        "block_2_reduce_conv": np.sqrt(2 / 32),
        "block_2_expand_conv": np.sqrt(2 / 192),
        "block_2_depthwise_1_conv": np.sqrt(2 / (9 * 96)),
        "block_2_depthwise_2_conv": np.sqrt(2 / (9 * 192)),
        "classifier": 0.01,
    }
    check_initial_weights(narrow_mobilenext(stages, classes=100), deviations)

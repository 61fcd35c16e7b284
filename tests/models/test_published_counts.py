"""Exact parameter counts that follow from the papers' definitions.

The table of presets states what its networks count (`test_presets.py` builds them);
here its numbers are compared with those of the papers' arithmetic. Networks that are no
presets are built.
"""

import pytest
from support.small_networks import trainable

from keras_attention import models
from keras_attention.models import mobilenet_v2

PRESETS = {
    "mobilenet_v2_coord": 3_950_648,
    "mobilenet_v2_075_coord": 2_891_631,
    "mobilenet_v2_050_coord": 2_095_568,
    "mobilenet_v2_se": 3_888_208,
    "mobilenet_v2_075_se": 2_855_386,
    "mobilenet_v2_050_se": 2_067_086,
    "resnet50_aw": 25_722_240,
    "resnet50_se": 28_088_024,
    "resnet50_cbam": 28_089_624,
    "resnet50_eca": 25_557_112,
    "resnet50_sa": 25_557_740,
    "resnet50_sge": 25_559_080,
    "resnet50_simam": 25_557_032,  # no parameters: ResNet-50's own
    "resnet50_triplet": 25_561_832,
    "resnet50_gc": 28_078_773,
    "resnet50_bam": 25_915_099,
    "resnet50_cifar_ema": 23_903_620,
    "resnet101_cifar_ema": 43_072_004,
    "resnet50_cifar_coord": 25_623_084,
    "resnet101_cifar_coord": 46_322_828,
}

# In millions, as far as the arithmetic is stated.
ROUNDED = {
    "mobilenet_v2_ema": "3.541",
    "mobilenext_coord": "4.108",
    "mobilenext_se": "3.914",
    "resnet50_a2": "32.91",
    "resnet101_aw": "44.86",
    "resnet50_aw_se": "28.25",
    "resnet50_aw_cbam": "28.25",
    "sknet50": "27.5",
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    assert models.presets()[name].parameters == PRESETS[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_presets(name):
    digits = len(ROUNDED[name].partition(".")[2])
    millions = models.presets()[name].parameters / 1e6
    assert f"{millions:.{digits}f}" == ROUNDED[name]


# What the blocks of the double attention net add, without biases: 2 C^2 each.
def test_double_attention():
    added = models.presets()["resnet50_a2"].parameters - 25_557_032
    weights = 2 * (2 * 512**2 + 3 * 1024**2)
    biases = 5 * (2 * 512 + 3 * 1024) // 2
    assert (weights, added) == (7_340_032, weights + biases)


@pytest.mark.parametrize(
    ("builder", "attention", "count"),
    [
        ("MobileNetV2", {"name": "coord", "reduction": 24}, 4_086_776),
        ("MobileNetV2", {"name": "coord", "reduction": 16}, 4_366_850),
        ("MobileNetV2", {"name": "se", "reduction": 12}, 4.264),
    ],
)
def test_other_networks(builder, attention, count, monkeypatch):
    monkeypatch.setattr(mobilenet_v2, "normal", lambda mode: "zeros")  # saves time
    found = trainable(getattr(models, builder)(attention=attention))
    # exact, or in millions
    assert found == count if isinstance(count, int) else round(found / 1e6, 3) == count

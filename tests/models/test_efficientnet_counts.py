"""EfficientNets: exact parameter counts, and the outputs of keras.applications."""

import math
import re

import keras
import pytest
from support.comparing import difference
from support.small_networks import images, randomize, trainable

from keras_attention import models
from keras_attention.models import efficientnet
from keras_attention.weights import imagenet

# B0 to B7: keras.applications, whose totals hold 7 numbers of its Normalization layer;
# Lite: rwightman/pytorch-image-models.
PUBLISHED = {
    "EfficientNetB0": (5_288_548, 5_330_571 - 7),
    "EfficientNetB1": (7_794_184, 7_856_239 - 7),
    "EfficientNetB2": (9_109_994, 9_177_569 - 7),
    "EfficientNetB3": (12_233_232, 12_320_535 - 7),
    "EfficientNetB4": (19_341_616, 19_466_823 - 7),
    "EfficientNetB5": (30_389_784, 30_562_527 - 7),
    "EfficientNetB6": (43_040_704, 43_265_143 - 7),
    "EfficientNetB7": (66_347_960, 66_658_687 - 7),
    "EfficientNetLite0": (4_652_008, None),
    "EfficientNetLite1": (5_416_680, None),
    "EfficientNetLite2": (6_092_072, None),
    "EfficientNetLite3": (8_197_096, None),
    "EfficientNetLite4": (13_006_568, None),
}
# Width, depth, resolution and dropout of the official code.
OFFICIAL = {
    "B": "1 1 224 .2|1 1.1 240 .2|1.1 1.2 260 .3|1.2 1.4 300 .3|1.4 1.8 380 .4"
    "|1.6 2.2 456 .4|1.8 2.6 528 .5|2 3.1 600 .5",
    "Lite": "1 1 224 .2|1 1.1 240 .2|1.1 1.2 260 .3|1.2 1.4 280 .3|1.4 1.8 300 .3",
}
BLOCKS = (
    "r1_k3_s11_e1_i32_o16 r2_k3_s22_e6_i16_o24 r2_k5_s22_e6_i24_o40 "
    "r3_k3_s22_e6_i40_o80 r3_k5_s11_e6_i80_o112 r4_k5_s22_e6_i112_o192 "
    "r1_k3_s11_e6_i192_o320"
).split()


def official(name):
    """Returns (width, depth, resolution, dropout) of a network."""
    kind, number = re.fullmatch(r"EfficientNet(B|Lite)(\d)", name).groups()
    return [float(x) for x in OFFICIAL[kind].split("|")[int(number)].split()]


def counted(name):
    """Returns (trainable, all) numbers of a network, from the official strings."""
    width, depth, *_ = official(name)
    lite = "Lite" in name

    def rounded(channels, fixed=False):
        exact = channels * (1 if fixed else width)
        nearest = max(8, 8 * math.floor(exact / 8 + 0.5))
        return nearest + 8 if nearest < 0.9 * exact else nearest

    head = rounded(1280, lite)
    kernels, norms, inputs = 27 * rounded(32, lite), rounded(32, lite), None
    for number, block in enumerate(BLOCKS):
        r, k, _, e, i, o = (int(x) for x in re.findall(r"[rkseio](\d+)", block))
        fixed = lite and number in (0, 6)
        # the first unit's input is the stem's output, which Lite does not scale
        inputs, outputs = rounded(i, lite and number == 0), rounded(o)
        for _ in range(r if fixed else math.ceil(round(r * depth, 9))):
            inner = inputs * e
            kernels += inner * k * k + inner * outputs
            norms += inner + outputs
            if e > 1:
                kernels, norms = kernels + inputs * inner, norms + inner
            if not lite:
                squeezed = int(inputs * 0.25)
                kernels += 2 * inner * squeezed + squeezed + inner
            inputs = outputs
    kernels += inputs * head + (head + 1) * 1000
    norms += head
    return kernels + 2 * norms, kernels + 4 * norms


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts(name, monkeypatch):
    monkeypatch.setattr(efficientnet, "normal", lambda mode: "zeros")  # saves time
    model = getattr(models, name)()
    published = PUBLISHED[name]
    assert counted(name)[0] == published[0]
    assert counted(name)[1] == (published[1] or counted(name)[1])
    assert (trainable(model), model.count_params()) == counted(name)
    if "Lite" in name:
        assert model.get_layer("stem_conv").filters == 32
        assert model.get_layer("head_conv").filters == 1280
    file = imagenet.FILES[name]
    assert file.parameters == published[0]
    assert file.attention == (None if "Lite" in name else "se")
    size = int(official(name)[2])
    assert model.input_shape == (None, size, size, 3)
    assert model.get_layer("head_dropout").rate == official(name)[3]


@pytest.mark.parametrize(
    ("attention", "count"),
    # without "se" B0 is Lite0; with "coord" the published 5.4 M
    [(None, 4_652_008), ("coord", 5_381_804)],
)
def test_parameter_counts_with_other_attention(attention, count, monkeypatch):
    monkeypatch.setattr(efficientnet, "normal", lambda mode: "zeros")
    assert trainable(models.EfficientNetB0(attention=attention)) == count


class TestKerasApplications:
    ROLES = {
        "expand_conv": ["expand_conv"],
        "expand_bn": ["expand_bn"],
        "depthwise_conv": ["dwconv"],
        "depthwise_bn": ["bn"],
        "attention": ["se_reduce", "se_expand"],
        "project_conv": ["project_conv"],
        "project_bn": ["project_bn"],
    }

    def theirs(self, name):
        if match := re.fullmatch(r"stage_(\d)_unit_(\d+)_(\w+)", name):
            unit = f"block{match[1]}{chr(96 + int(match[2]))}"
            return [f"{unit}_{role}" for role in self.ROLES[match[3]]]
        return [name.replace("head", "top")]

    def test_is_the_same_network(self):
        """At even and odd sizes, of which TensorFlow pads one side or both."""
        name, shape = "EfficientNetB0", (33, 38, 3)
        ours = getattr(models, name)(shape, include_top=False)
        randomize(ours)
        other = getattr(keras.applications, name)(
            include_top=False, weights=None, input_shape=shape
        )
        copied = 0
        for layer in ours.layers:
            if weights := layer.get_weights():
                for layer_name in self.theirs(layer.name):
                    target = other.get_layer(layer_name)
                    part = weights[: len(target.weights)]
                    weights = weights[len(part) :]
                    target.set_weights(part)
                    copied += sum(array.size for array in part)
                assert not weights
        assert copied == other.count_params() - 7
        x = images(2, *shape)
        # it divides by 255; single-precision runs of such a net differ by up to 1e-4
        assert difference(ours(x), other(255 * x)) <= 1e-4

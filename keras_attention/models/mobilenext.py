"""MobileNeXt: sandglass units, whose shortcuts join their wide ends.

Zhou, Hou, Chen, Feng and Yan, ECCV 2020, arXiv 2007.02269; official code:
zhoudaquan/rethinking_bottleneck_design, which leaves out depthwise convolutions of the
paper's table where channels change.
"""

import dataclasses
import math

import keras

from keras_attention.models import _building
from keras_attention.models._attention import Attention
from keras_attention.models._building import divisible
from keras_attention.models.mobilenet_v2 import conv_bn_relu6

# Reduction t, channels c, units n and stride s of the first unit: table 2 of the paper.
STAGES = (
    (2, 96, 1, 2),
    (6, 144, 1, 1),
    (6, 192, 3, 2),
    (6, 288, 3, 2),
    (6, 384, 4, 1),
    (6, 576, 4, 2),
    (6, 960, 3, 1),
    (6, 1280, 1, 1),
)
STEM_CHANNELS, LAST_CHANNELS = 32, 1280
POSITIONS = (
    "replace_spatial",
    "after_depthwise",
    "after_expand",
    "after_project",
    "after_sum",
)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A sandglass unit.

    Attributes:
        reduced: Number of channels at its waist.
        channels: Number of channels at its end.
        stride: Of its last depthwise convolution.
        first: Whether it has the depthwise convolution before the waist.
        last: Whether it has the one behind the waist.
        residual: Whether its input is added.
    """

    reduced: int
    channels: int
    stride: int
    first: bool
    last: bool
    residual: bool


def MobileNeXt(
    input_shape=(224, 224, 3),
    classes=1000,
    *,
    width=1.0,
    attention=None,
    attention_position=None,
    include_top=True,
    stem_stride=2,
    dropout=0.2,
    drop_path=0.0,
    classifier_activation=None,
    weights=None,
    name=None,
):
    """Returns MobileNeXt as a functional Keras model.

    A unit is: depthwise 3x3, reducing 1x1, expanding 1x1, depthwise 3x3. As in the
    official code, of the 20 units 5 lack the first depthwise convolution, those that
    change the channels in a stage of several units (3, 6, 9, 13 and 17), and two of
    these, without a stride, the second one, too (9 and 17).
    The input stores its range, (-1, 127/128): byte b of a photo is fed as b / 128 - 1.

    Args:
        input_shape: (H, W, C) of the images; H and W may be None.
        classes: Number of classes.
        width: Factor for the channels, rounded to multiples of 8. The last unit has
            1280 channels at least.
        attention: None, a registry name, {"name": ..., **arguments}, a Layer subclass,
            a callable Site -> Layer, or a list of these.
        attention_position: "replace_spatial" (in place of the first depthwise
            convolution, for blocks that are one), "after_depthwise" (behind its ReLU6;
            15 units have these two), "after_expand" (behind the ReLU6 of the expanding
            1x1), "after_project" (the end of the branch, before the sum) or "after_sum"
            (the unit's output, also where no sum is); None is the block's own place,
            see `models/placement.py`.
        include_top: False leaves out pooling and classifier: the model's output is the
            last unit's map.
        stem_stride: Stride of the first convolution: 2, or 1 for small images.
        dropout: Rate of the dropout before the classifier.
        drop_path: Stochastic depth: rate for the last unit, falling linearly to 0 at
            the first; concerns the units with a residual sum.
        classifier_activation: E.g. "softmax"; None for logits.
        weights: Path of a .keras or .weights.h5 file of the same network, or None.
            (Keras ignores layers that only a .weights.h5 file has.)
        name: Name of the model.

    Returns:
        A `keras.Model`, (N, H, W, C) -> (N, classes) in float32, or (N, H / 32, W / 32,
        last channels) with include_top=False (a size is rounded up at each halving).

    Raises:
        ValueError: An argument is not one of those above.

    Reference: https://arxiv.org/abs/2007.02269
    """
    _building.check(input_shape, classes, dropout, drop_path, weights)
    ok = _building.is_number(width) and width > 0
    _building.require(ok, "width", "a number > 0", width)
    _building.require(stem_stride in (1, 2), "stem_stride", "1 or 2", stem_stride)
    attend = Attention(
        attention, attention_position, backbone="mobilenext", positions=POSITIONS
    )
    inputs, x = _building.image(input_shape, weights, "MobileNeXt")
    x = conv_bn_relu6(x, divisible(STEM_CHANNELS * width), 3, stem_stride, "stem")
    units = units_of(width)
    for number, unit in enumerate(units, 1):
        drop = drop_path * (number - 1) / (len(units) - 1)
        x = _sandglass(x, number, unit, drop, attend)
    if include_top:
        initializer = keras.initializers.RandomNormal(stddev=0.01)
        x = _building.classifier(
            x, classes, classifier_activation, dropout, initializer
        )
    model = keras.Model(inputs, x, name=name or "mobilenext")
    _building.load_weights(model, weights, "MobileNeXt")
    return model


def units_of(width):
    """Returns the network's units, in order."""
    units = []
    inputs = divisible(STEM_CHANNELS * width)
    for reduction, channels, count, stride in STAGES:
        factor = max(1.0, width) if channels == LAST_CHANNELS else width
        channels = divisible(channels * factor)
        for number in range(count):
            reduced = inputs // reduction
            if reduced < channels / 6:
                reduced = divisible(math.ceil(channels / 6), 16)
            first = count == 1 or number > 0
            step = 1 if number > 0 else stride
            last = first or step > 1
            units.append(Unit(reduced, channels, step, first, last, number > 0))
            inputs = channels
    return units


def _sandglass(inputs, number, unit, drop, attend):
    """Returns a unit's output: depthwise 3x3, reduce, expand, depthwise 3x3, add."""
    prefix = f"block_{number}"

    def place(x, position):
        return attend(x, position, unit=number, prefix=prefix)

    def replace(x, padded, conv):
        return attend.replace(x, padded, conv, unit=number, prefix=prefix)

    x = inputs
    if unit.first:
        x = conv_bn_relu6(x, None, 3, 1, f"{prefix}_depthwise_1", replace=replace)
        x = place(x, "after_depthwise")
    x = conv_bn_relu6(x, unit.reduced, 1, 1, f"{prefix}_reduce", activation=False)
    x = conv_bn_relu6(x, unit.channels, 1, 1, f"{prefix}_expand")
    x = place(x, "after_expand")
    if unit.last:
        name = f"{prefix}_depthwise_2"
        x = conv_bn_relu6(x, None, 3, unit.stride, name, activation=False)
    x = place(x, "after_project")
    if unit.residual:
        x = _building.residual_sum(inputs, x, drop, prefix)
    return place(x, "after_sum")

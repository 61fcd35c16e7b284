"""ResNet and ResNeXt: residual units, plain or with a bottleneck.

He, Zhang, Ren and Sun, CVPR 2016, arXiv 1512.03385; Xie, Girshick, Dollar, Tu and He,
CVPR 2017, arXiv 1611.05431. As in torchvision, a bottleneck's stride is in its 3x3
convolution. The CIFAR stem is that of the networks that attention papers compare
(Jongchan/attention-module).
"""

import dataclasses

import keras
from keras import layers

from keras_attention.layers._common import TORCH_INITIALIZER
from keras_attention.layers._grouped_conv import GroupedConv2D
from keras_attention.models import _building
from keras_attention.models._attention import Attention


@dataclasses.dataclass(frozen=True)
class Family:
    """What makes the difference between these networks.

    Attributes:
        units: Number of units in each of the four stages.
        expansion: Output channels by the stage's channels: 4 with a bottleneck, 1 for
            units of two 3x3 convolutions.
        groups: Of a bottleneck's 3x3 convolution.
        widening: Channels inside a bottleneck by the stage's channels.
    """

    units: tuple[int, int, int, int]
    expansion: int = 4
    groups: int = 1
    widening: int = 1


# Tables 1 of both papers.
FAMILIES = {
    "ResNet18": Family((2, 2, 2, 2), expansion=1),
    "ResNet34": Family((3, 4, 6, 3), expansion=1),
    "ResNet50": Family((3, 4, 6, 3)),
    "ResNet101": Family((3, 4, 23, 3)),
    "ResNet152": Family((3, 8, 36, 3)),
    "ResNeXt50": Family((3, 4, 6, 3), groups=32, widening=2),  # 32x4d
}
STEM_CHANNELS, STAGE_CHANNELS = 64, (64, 128, 256, 512)
STEMS = ("imagenet", "cifar")
POSITIONS = (
    "replace_spatial",
    "after_spatial",
    "after_project",
    "after_sum",
    "after_stage",
)

_DOCSTRING = """Returns {name} as a functional Keras model.

    Stages of {units} units, each {unit}.
    The input stores its range, (-1, 127/128): byte b of a photo is fed as b / 128 - 1.

    Args:
        input_shape: (H, W, C) of the images; H and W may be None.
        classes: Number of classes.
        attention: None, a registry name, {{"name": ..., **arguments}}, a Layer
            subclass, a callable Site -> Layer, or a list of these.
        attention_position: "replace_spatial" (in place of a unit's last 3x3
            convolution, for blocks that are one), "after_spatial" (behind that
            convolution's normalization and ReLU), "after_project" (behind the last
            normalization of the branch, before the sum), "after_sum" (the unit's
            output, behind the ReLU) or "after_stage", in every unit or stage; None is
            the block's own place and its own units, see `models/placement.py`. A unit
            of two 3x3 convolutions has no ReLU behind its last one, and ends there:
            "after_spatial" is "after_project".
        include_top: False leaves out pooling and classifier: the model's output is the
            last stage's map.
        stem: "imagenet" (7x7 convolution and 3x3 max pooling, strides 2) or "cifar"
            (3x3 convolution, stride 1).
        dropout: Rate of the dropout before the classifier.
        drop_path: Stochastic depth: rate for the last unit, falling linearly to 0 at
            the first.
        classifier_activation: E.g. "softmax"; None for logits.
        weights: Path of a .keras or .weights.h5 file of the same network (Keras ignores
            layers that only a .weights.h5 file has), "imagenet" for torchvision's, see
            `keras_attention.weights.imagenet`, or None.
        name: Name of the model.

    Returns:
        A `keras.Model`, (N, H, W, C) -> (N, classes) in float32, or with
        include_top=False (N, H / 32, W / 32, {channels}), H / 8 and W / 8 behind the
        CIFAR stem (a size is rounded up at each halving).

    Raises:
        OSError: The file for "imagenet" can't be downloaded.
        ValueError: An argument is not one of those above.

    Reference: https://arxiv.org/abs/{paper}
    """


def _builder(title):
    """Returns the builder of one family."""

    def build(
        input_shape=(224, 224, 3),
        classes=1000,
        *,
        attention=None,
        attention_position=None,
        include_top=True,
        stem="imagenet",
        dropout=0.0,
        drop_path=0.0,
        classifier_activation=None,
        weights=None,
        name=None,
    ):
        _building.check(input_shape, classes, dropout, drop_path, weights)
        _building.require(stem in STEMS, "stem", f"one of {STEMS}", stem)
        attend = Attention(
            attention, attention_position, backbone="resnet", positions=POSITIONS
        )
        inputs, x = _building.image(input_shape, weights, title)
        family = FAMILIES[title]

        def unit(x, drop, where):
            return _unit(x, family, drop, attend, where)

        x = stages(_stem(x, stem), family.units, drop_path, attend, unit)
        if include_top:
            x = _building.classifier(
                x, classes, classifier_activation, dropout, TORCH_INITIALIZER
            )
        model = keras.Model(inputs, x, name=name or title.lower())
        _building.load_weights(model, weights, title)
        return model

    family = FAMILIES[title]
    grouped = f", the 3x3 in {family.groups} groups" if family.groups > 1 else ""
    bottleneck = family.expansion > 1
    build.__name__ = build.__qualname__ = title
    build.__doc__ = _DOCSTRING.format(
        name=title,
        units=", ".join(map(str, family.units)),
        unit=f"1x1, 3x3, 1x1{grouped}" if bottleneck else "two 3x3 convolutions",
        channels=STAGE_CHANNELS[-1] * family.expansion,
        paper="1611.05431" if grouped else "1512.03385",
    )
    return build


ResNet18, ResNet34, ResNet50, ResNet101, ResNet152, ResNeXt50 = map(_builder, FAMILIES)


def _stem(x, stem):
    """Returns the first convolution's map, behind the max pooling if there is one."""
    if stem == "cifar":
        return conv_bn_relu(x, STEM_CHANNELS, 3, 1, "stem_{}")
    x = conv_bn_relu(x, STEM_CHANNELS, 7, 2, "stem_{}")
    # Zeros do for minus infinity: behind the ReLU nothing is smaller.
    x, padding = _building.padded(x, 3, 2, "stem_pool_pad")
    return layers.MaxPooling2D(3, 2, padding=padding, name="stem_pool")(x)


def stages(x, units, drop_path, attend, make_unit):
    """Returns the last stage's map.

    Args:
        x: The stem's map.
        units: Number of units in each stage.
        drop_path: Stochastic depth's rate for the last unit.
        attend: The network's `Attention`.
        make_unit: Returns a unit's output, given its input, its rate, and `stage`,
            `unit` and `units` of a `Site`.
    """
    last, done = sum(units) - 1, 0
    for stage, count in enumerate(units, 1):
        for unit in range(1, count + 1):
            where = {"stage": stage, "unit": unit, "units": count}
            x = make_unit(x, drop_path * done / last, where)
            done += 1
        x = attend(x, "after_stage", prefix=f"stage_{stage}", **where)
    return x


def _unit(inputs, family, drop, attend, where):
    """Returns a unit's output: the sum of a shortcut and two or three convolutions."""
    prefix = f"stage_{where['stage']}_unit_{where['unit']}"
    stride = 2 if where["stage"] > 1 and where["unit"] == 1 else 1
    channels = STAGE_CHANNELS[where["stage"] - 1]
    outputs = channels * family.expansion

    def place(x, position):
        return attend(x, position, prefix=prefix, **where)

    def replace(x, padded, conv):
        return attend.replace(x, padded, conv, prefix=prefix, **where)

    def conv(x, number, filters, kernel_size, stride, **options):
        name = f"{prefix}_{{}}_{number}"
        return conv_bn_relu(x, filters, kernel_size, stride, name, **options)

    if family.expansion > 1:
        inner = channels * family.widening
        x = conv(inputs, 1, inner, 1, 1)
        x = conv(x, 2, inner, 3, stride, groups=family.groups, replace=replace)
        x = place(x, "after_spatial")
        x = conv(x, 3, outputs, 1, 1, relu=False)
    else:
        x = conv(inputs, 1, channels, 3, stride)
        x = conv(x, 2, outputs, 3, 1, relu=False, replace=replace)
        x = place(x, "after_spatial")
    x = place(x, "after_project")
    shortcut = inputs
    if stride > 1 or inputs.shape[-1] != outputs:
        name = f"{prefix}_shortcut_{{}}"
        shortcut = conv_bn_relu(inputs, outputs, 1, stride, name, relu=False)
    x = _building.residual_sum(shortcut, x, drop, prefix)
    return place(layers.ReLU(name=f"{prefix}_relu")(x), "after_sum")


def conv_bn_relu(
    x, filters, kernel_size, stride, name, *, groups=1, relu=True, replace=None
):
    """Returns convolution, batch normalization and ReLU, of images or of video.

    `name` has {} for what a layer is. `replace`, given x, the convolution's input and
    its arguments as a `Conv2D` (`Conv3D`), returns what stands in its place, or None.
    """
    unpadded = x
    x, padding = _building.padded(x, kernel_size, stride, name.format("pad"))
    options = {
        "filters": filters,
        "kernel_size": kernel_size,
        "strides": stride,
        "padding": padding,
        "groups": groups,
        "use_bias": False,
    }
    y = replace(unpadded, x, options) if replace else None
    if y is None:
        kind = layers.Conv3D if len(x.shape) == 5 else layers.Conv2D
        kind = GroupedConv2D if groups > 1 else kind
        initializer = _building.normal("fan_out")
        y = kind(**options, kernel_initializer=initializer, name=name.format("conv"))(x)
    y = _building.batch_norm(y, name.format("bn"))
    return layers.ReLU(name=name.format("relu"))(y) if relu else y

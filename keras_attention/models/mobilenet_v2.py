"""MobileNetV2: inverted residuals and linear bottlenecks.

Sandler, Howard, Zhu, Zhmoginov and Chen, CVPR 2018, arXiv 1801.04381; with the padding,
epsilon and initial weights of the networks that attention papers compare
(d-li14/mobilenetv2.pytorch, houqb/CoordAttention).
"""

import keras
from keras import layers

from keras_attention.models import _building
from keras_attention.models._attention import Attention
from keras_attention.models._building import divisible, normal

# Expansion t, channels c, units n and stride s of the first unit: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
POSITIONS = (
    "after_expand",
    "replace_spatial",
    "after_depthwise",
    "after_project",
    "after_sum",
)


def MobileNetV2(
    input_shape=(224, 224, 3),
    classes=1000,
    *,
    width=1.0,
    attention=None,
    attention_position=None,
    include_top=True,
    stem_stride=2,
    dropout=0.1,
    drop_path=0.0,
    classifier_activation=None,
    weights=None,
    name=None,
):
    """Returns MobileNetV2 as a functional Keras model.

    The input stores its range, (-1, 127/128): byte b of a photo is fed as b / 128 - 1.

    Args:
        input_shape: (H, W, C) of the images; H and W may be None.
        classes: Number of classes.
        width: Factor for the channels, rounded to multiples of 8. The head has 1280
            channels at least.
        attention: None, a registry name, {"name": ..., **arguments}, a Layer subclass,
            a callable Site -> Layer, or a list of these. Blocks go into the 16 units
            that expand.
        attention_position: "after_expand", "replace_spatial" (in place of the depthwise
            convolution, for blocks that are one), "after_depthwise", "after_project" or
            "after_sum" (the unit's output, also where no sum is); None is the block's
            own place, see `models/placement.py`.
        include_top: False leaves out pooling and classifier: the model's output is the
            head's map.
        stem_stride: Stride of the first convolution: 2, or 1 for small images.
        dropout: Rate of the dropout before the classifier.
        drop_path: Stochastic depth: rate for the last unit, falling linearly to 0 at
            the first; concerns the units with a residual sum.
        classifier_activation: E.g. "softmax"; None for logits.
        weights: Path of a .keras or .weights.h5 file of the same network (Keras ignores
            layers that only a .weights.h5 file has), "imagenet" for torchvision's, see
            `keras_attention.weights.imagenet`, or None.
        name: Name of the model.

    Returns:
        A `keras.Model`, (N, H, W, C) -> (N, classes) in float32, or (N, H / 32, W / 32,
        head channels) with include_top=False (a size is rounded up at each halving).

    Raises:
        OSError: The file for "imagenet" can't be downloaded.
        ValueError: An argument is not one of those above.

    Reference: https://arxiv.org/abs/1801.04381
    """
    _building.check(input_shape, classes, dropout, drop_path, weights)
    ok = _building.is_number(width) and width > 0
    _building.require(ok, "width", "a number > 0", width)
    _building.require(stem_stride in (1, 2), "stem_stride", "1 or 2", stem_stride)
    attend = Attention(
        attention, attention_position, backbone="mobilenet_v2", positions=POSITIONS
    )
    inputs, x = _building.image(input_shape, weights, "MobileNetV2")
    x = conv_bn_relu6(x, divisible(STEM_CHANNELS * width), 3, stem_stride, "stem")
    units = _units(width)
    for unit, (expansion, channels, stride) in enumerate(units, 1):
        drop = drop_path * (unit - 1) / (len(units) - 1)
        x = _inverted_residual(x, unit, expansion, channels, stride, drop, attend)
    x = conv_bn_relu6(x, divisible(HEAD_CHANNELS * max(1.0, width)), 1, 1, "head")
    if include_top:
        initializer = keras.initializers.RandomNormal(stddev=0.01)
        x = _building.classifier(
            x, classes, classifier_activation, dropout, initializer
        )
    model = keras.Model(inputs, x, name=name or "mobilenet_v2")
    _building.load_weights(model, weights, "MobileNetV2")
    return model


def _units(width):
    """Returns (expansion, channels, stride) of each unit."""
    return [
        (expansion, divisible(channels * width), stride if first else 1)
        for expansion, channels, count, stride in STAGES
        for first in [True] + [False] * (count - 1)
    ]


def _inverted_residual(inputs, unit, expansion, channels, stride, drop, attend):
    """Returns a unit's output: expand, depthwise 3x3, project, add."""
    prefix = f"block_{unit}"

    def place(x, position):
        if expansion == 1:
            return x
        return attend(x, position, unit=unit, prefix=prefix)

    x = inputs
    if expansion > 1:
        x = conv_bn_relu6(x, inputs.shape[-1] * expansion, 1, 1, f"{prefix}_expand")
        x = place(x, "after_expand")

    def replace(x, padded, conv):
        return attend.replace(x, padded, conv, unit=unit, prefix=prefix)

    spatial = replace if expansion > 1 else None
    x = conv_bn_relu6(x, None, 3, stride, f"{prefix}_depthwise", replace=spatial)
    x = place(x, "after_depthwise")
    x = conv_bn_relu6(x, channels, 1, 1, f"{prefix}_project", activation=False)
    x = place(x, "after_project")
    if stride == 1 and inputs.shape[-1] == channels:
        x = _building.residual_sum(inputs, x, drop, prefix)
    return place(x, "after_sum")


def conv_bn_relu6(
    x, channels, kernel_size, stride, name, activation=True, replace=None
):
    """Returns convolution, batch normalization and ReLU6; channels=None: depthwise.

    `replace`, given x, the convolution's input and its arguments as a `Conv2D`, returns
    what stands in its place, or None.
    """
    unpadded = x
    x, padding = _building.padded(x, kernel_size, stride, f"{name}_pad")
    options = {"strides": stride, "padding": padding, "use_bias": False}
    # N(0, sqrt(2 / (k * k * out))); a depthwise kernel's outputs are its `fan_in`.
    if channels is not None:
        options |= {"kernel_initializer": normal("fan_out"), "name": f"{name}_conv"}
        x = layers.Conv2D(channels, kernel_size, **options)(x)
    else:
        width = x.shape[-1]
        conv = {"filters": width, "kernel_size": kernel_size, "groups": width} | options
        replaced = replace(unpadded, x, conv) if replace else None
        if replaced is None:
            options["depthwise_initializer"] = normal("fan_in")
            options["name"] = f"{name}_conv"
            replaced = layers.DepthwiseConv2D(kernel_size, **options)(x)
        x = replaced
    x = _building.batch_norm(x, f"{name}_bn")
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activation else x

"""EfficientNet and EfficientNet-Lite: inverted residuals, scaled in three directions.

Tan and Le, ICML 2019, arXiv 1905.11946; official code: tensorflow/tpu,
models/official/efficientnet and its folder lite. The Lite networks have no
squeeze-and-excitation and ReLU6 for swish, and their stem, their head and the depth of
their first and last stage stay as they are when the network grows.
"""

import dataclasses
import math

import keras
from keras import layers

from keras_attention.models import _building
from keras_attention.models._attention import Attention
from keras_attention.models._building import divisible, normal

# Expansion t, kernel k, channels c, units n and stride s of the first unit: table 1.
STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
POSITIONS = (
    "after_expand",
    "replace_spatial",
    "after_depthwise",
    "after_project",
    "after_sum",
)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What makes the difference between these networks.

    Attributes:
        width: Factor for the channels, rounded to multiples of 8.
        depth: Factor for the number of units of a stage, rounded up.
        resolution: Height and width of the images.
        dropout: Rate of the dropout before the classifier.
        lite: Whether this is a Lite network.
    """

    width: float
    depth: float
    resolution: int
    dropout: float
    lite: bool = False


# efficientnet_builder.py and lite/efficientnet_lite_builder.py of the official code.
# (timm evaluates Lite3 and Lite4 at 300 and 380.)
SCALINGS = {
    "EfficientNetB0": Scaling(1.0, 1.0, 224, 0.2),
    "EfficientNetB1": Scaling(1.0, 1.1, 240, 0.2),
    "EfficientNetB2": Scaling(1.1, 1.2, 260, 0.3),
    "EfficientNetB3": Scaling(1.2, 1.4, 300, 0.3),
    "EfficientNetB4": Scaling(1.4, 1.8, 380, 0.4),
    "EfficientNetB5": Scaling(1.6, 2.2, 456, 0.4),
    "EfficientNetB6": Scaling(1.8, 2.6, 528, 0.5),
    "EfficientNetB7": Scaling(2.0, 3.1, 600, 0.5),
    "EfficientNetLite0": Scaling(1.0, 1.0, 224, 0.2, lite=True),
    "EfficientNetLite1": Scaling(1.0, 1.1, 240, 0.2, lite=True),
    "EfficientNetLite2": Scaling(1.1, 1.2, 260, 0.3, lite=True),
    "EfficientNetLite3": Scaling(1.2, 1.4, 280, 0.3, lite=True),
    "EfficientNetLite4": Scaling(1.4, 1.8, 300, 0.3, lite=True),
}

_DOCSTRING = """Returns {name} as a functional Keras model.

    Stages of {units} units, activation {activation}; {squeeze}.
    The input stores its range, (-1, 127/128): byte b of a photo is fed as b / 128 - 1.

    Args:
        input_shape: (H, W, C) of the images; H and W may be None.
        classes: Number of classes.
        attention: None, a registry name, {{"name": ..., **arguments}}, a Layer
            subclass, a callable Site -> Layer, or a list of these, in every unit.
            "se" is the paper's squeeze-and-excitation: swish, and a bottleneck of a
            quarter of the unit's input channels. Another block takes its place; None
            is the network without any.
        attention_position: "after_expand" (in units that expand: all but those of the
            first stage), "replace_spatial" (in place of the depthwise convolution, for
            blocks that are one), "after_depthwise", "after_project" or "after_sum"
            (the unit's output, also where no sum is); None is the block's own place,
            see `models/placement.py`.
        include_top: False leaves out pooling and classifier: the model's output is the
            head's map.
        stem_stride: Stride of the first convolution: 2, or 1 for small images.
        dropout: Rate of the dropout before the classifier; the default is the official
            code's.
        drop_path: Stochastic depth: rate for the last unit, falling linearly to 0 at
            the first; concerns the units with a residual sum. The official code trains
            with 0.2.
        classifier_activation: E.g. "softmax"; None for logits.
        weights: Path of a .keras or .weights.h5 file of the same network (Keras ignores
            layers that only a .weights.h5 file has), "imagenet" for the authors', as
            timm has them, see `keras_attention.weights.imagenet`, or None.
        name: Name of the model.

    Returns:
        A `keras.Model`, (N, H, W, C) -> (N, classes) in float32, or (N, H / 32, W / 32,
        {channels}) with include_top=False (a size is rounded up at each halving).

    Raises:
        OSError: The file for "imagenet" can't be downloaded.
        ValueError: An argument is not one of those above.

    Reference: https://arxiv.org/abs/1905.11946
    """


def _builder(title):
    """Returns the builder of one network."""
    scaling = SCALINGS[title]

    def build(
        input_shape=(scaling.resolution, scaling.resolution, 3),
        classes=1000,
        *,
        attention=None if scaling.lite else "se",
        attention_position=None,
        include_top=True,
        stem_stride=2,
        dropout=scaling.dropout,
        drop_path=0.0,
        classifier_activation=None,
        weights=None,
        name=None,
    ):
        _building.check(input_shape, classes, dropout, drop_path, weights)
        _building.require(stem_stride in (1, 2), "stem_stride", "1 or 2", stem_stride)
        attend = Attention(
            attention, attention_position, backbone="efficientnet", positions=POSITIONS
        )
        inputs, x = _building.image(input_shape, weights, title)
        x = _features(x, SCALINGS[title], stem_stride, drop_path, attend)
        if include_top:
            # U(-1 / sqrt(classes), 1 / sqrt(classes))
            initializer = keras.initializers.VarianceScaling(
                1 / 3, "fan_out", "uniform"
            )
            x = _building.classifier(
                x, classes, classifier_activation, dropout, initializer
            )
        model = keras.Model(inputs, x, name=name or title.lower())
        _building.load_weights(model, weights, title)
        return model

    build.__name__ = build.__qualname__ = title
    build.__doc__ = _DOCSTRING.format(
        name=title,
        units=", ".join(str(units) for *_, units, _ in stages(scaling)),
        activation="ReLU6" if scaling.lite else "swish",
        squeeze="no squeeze-and-excitation"
        if scaling.lite
        else "squeeze-and-excitation in every unit",
        channels=_ends(scaling)[1],
    )
    return build


def stages(scaling):
    """Returns (expansion, kernel size, channels, units, stride) of each stage."""
    rows = []
    for stage, (expansion, kernel, channels, units, stride) in enumerate(STAGES):
        if not (scaling.lite and stage in (0, len(STAGES) - 1)):
            units = math.ceil(units * scaling.depth)
        rows.append(
            (expansion, kernel, divisible(channels * scaling.width), units, stride)
        )
    return rows


def _ends(scaling):
    """Returns the channels of stem and head."""
    factor = 1.0 if scaling.lite else scaling.width
    return divisible(STEM_CHANNELS * factor), divisible(HEAD_CHANNELS * factor)


(
    EfficientNetB0,
    EfficientNetB1,
    EfficientNetB2,
    EfficientNetB3,
    EfficientNetB4,
    EfficientNetB5,
    EfficientNetB6,
    EfficientNetB7,
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
) = map(_builder, SCALINGS)


def _features(x, scaling, stem_stride, drop_path, attend):
    """Returns the head's map."""
    activation = "relu6" if scaling.lite else "swish"
    stem, head = _ends(scaling)
    x = _conv(x, stem, 3, stem_stride, "stem", activation)
    rows = stages(scaling)
    last = sum(units for *_, units, _ in rows) - 1
    done = 0
    for stage, (expansion, kernel, channels, units, stride) in enumerate(rows, 1):
        for unit in range(1, units + 1):
            x = _unit(
                x,
                expansion,
                channels,
                (kernel, stride if unit == 1 else 1),
                activation,
                drop_path * done / last,
                attend,
                {"stage": stage, "unit": unit, "units": units},
            )
            done += 1
    return _conv(x, head, 1, 1, "head", activation)


def _unit(inputs, expansion, channels, spatial, activation, drop, attend, where):
    """Returns a unit's output: expand, depthwise k x k, attend, project, add."""
    prefix = f"stage_{where['stage']}_unit_{where['unit']}"
    where = {"prefix": prefix, "inputs": inputs.shape[-1], **where}
    kernel, stride = spatial

    def replace(x, conv):
        return attend.replace(x, x, conv, **where)

    x = inputs
    if expansion > 1:
        width = inputs.shape[-1] * expansion
        x = _conv(x, width, 1, 1, f"{prefix}_expand", activation)
        x = attend(x, "after_expand", **where)
    name = f"{prefix}_depthwise"
    x = _conv(x, None, kernel, stride, name, activation, replace)
    x = attend(x, "after_depthwise", **where)
    x = _conv(x, channels, 1, 1, f"{prefix}_project", None)
    x = attend(x, "after_project", **where)
    if stride == 1 and inputs.shape[-1] == channels:
        x = _building.residual_sum(inputs, x, drop, prefix)
    return attend(x, "after_sum", **where)


def _conv(x, channels, kernel_size, stride, name, activation, replace=None):
    """Returns convolution, batch normalization, activation; channels=None: depthwise.

    `replace`, given the convolution's input and its arguments as a `Conv2D`, returns
    what stands in its place, or None.
    """
    # TensorFlow's "same": with stride 2, even sizes are padded less before than behind.
    options = {"strides": stride, "padding": "same", "use_bias": False}
    # N(0, sqrt(2 / (k * k * out))), with out = 1 for a depthwise kernel.
    initializer = normal("fan_out")
    if channels is not None:
        options |= {"kernel_initializer": initializer, "name": f"{name}_conv"}
        x = layers.Conv2D(channels, kernel_size, **options)(x)
    else:
        width = x.shape[-1]
        conv = {"filters": width, "kernel_size": kernel_size, "groups": width} | options
        replaced = replace(x, conv)
        if replaced is None:
            options |= {"depthwise_initializer": initializer, "name": f"{name}_conv"}
            replaced = layers.DepthwiseConv2D(kernel_size, **options)(x)
        x = replaced
    x = layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)
    if activation is None:
        return x
    if activation == "relu6":
        return layers.ReLU(6.0, name=f"{name}_act")(x)
    return layers.Activation(activation, name=f"{name}_act")(x)

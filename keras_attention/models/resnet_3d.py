"""ResNets of video: the networks in which double attention is studied.

Chen, Kalantidis, Li, Yan and Feng, NeurIPS 2018, arXiv 1810.11579: small ResNets of 26
and 29 layers see clips of 16x112x112 there, and one of 50 layers clips of 8x224x224.
Neither code of the authors nor the paper's table of these networks was found, so they
are put together from networks that are known:

- ResNet50_3D: stem, units and kernels of 3 frames as in
  facebookresearch/video-nonlocal-net (I3D, 8 frames). The stride that halves the frames
  is in the first unit of stage 2, as in facebookresearch/GloRe, by the same first
  author; the former pools in front of that unit.
- ResNet26_3D and ResNet29_3D: the stem's kernel and width of GloRe, and the frames
  halved in the first unit of stage 1 as in cypw/PyTorch-MFNet, again by that author.
  Half of ResNet-50's channels, 3x3x3 kernels, no pooling in the stem, two units in each
  stage and a third one in stage 3 are this project's choice.
"""

import dataclasses

import keras
from keras import layers

from keras_attention.layers._common import TORCH_INITIALIZER
from keras_attention.models import _building
from keras_attention.models._attention import Attention
from keras_attention.models.resnet import POSITIONS, conv_bn_relu, stages


@dataclasses.dataclass(frozen=True)
class Layout:
    """What makes the difference between these networks.

    Attributes:
        clip: (T, H, W, C) of the paper's clips.
        units: Number of units in each of the four stages.
        channels: Of each stage inside its units; outputs have four times as many.
        stem: Channels of the first convolution.
        stem_kernel: Its size, (time, height, width).
        pool: Whether the stem ends with 3x3 max pooling, stride 2.
        halved: The stage in whose first unit the frames are halved.
        first: Frames that a unit's first convolution sees: of each stage a pattern,
            repeated over its units.
        spatial: Frames that a unit's 3x3 convolution sees.
    """

    clip: tuple[int, int, int, int]
    units: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    stem: int
    stem_kernel: tuple[int, int, int]
    pool: bool
    halved: int
    first: tuple[tuple[int, ...], ...]
    spatial: int


_SMALL = Layout(
    clip=(16, 112, 112, 3),
    units=(2, 2, 2, 2),
    channels=(32, 64, 128, 256),
    stem=32,
    stem_kernel=(3, 5, 5),
    pool=False,
    halved=1,
    first=((1,), (1,), (1,), (1,)),
    spatial=3,
)
LAYOUTS = {
    "ResNet26_3D": _SMALL,
    "ResNet29_3D": dataclasses.replace(_SMALL, units=(2, 2, 3, 2)),
    "ResNet50_3D": Layout(
        clip=(8, 224, 224, 3),
        units=(3, 4, 6, 3),
        channels=(64, 128, 256, 512),
        stem=64,
        stem_kernel=(5, 7, 7),
        pool=True,
        halved=2,
        first=((3,), (3, 1), (3, 1), (1, 3)),
        spatial=1,
    ),
}
EXPANSION = 4

_DOCSTRING = """Returns {name} as a functional Keras model of video.

    Stages of {units} bottleneck units; see the module's text for what of it is the
    paper's. The input stores its range, (-1, 127/128): byte b of a frame is fed as
    b / 128 - 1. Video has five axes, and no int8 files: blocks that take them are a2,
    eca, gc, nl, se and simam.

    Args:
        input_shape: (T, H, W, C) of the clips; T, H and W may be None.
        classes: Number of classes; Kinetics has 400.
        attention: None, a registry name, {{"name": ..., **arguments}}, a Layer
            subclass, a callable Site -> Layer, or a list of these.
        attention_position: "replace_spatial" (in place of a unit's 3x3 convolution, for
            a callable that returns one), "after_spatial" (behind that convolution's
            normalization and ReLU), "after_project" (behind the last normalization of
            the branch, before the sum), "after_sum" (the unit's output, behind the
            ReLU) or "after_stage", in every unit or stage; None is the block's own
            place and its own units, see `models/placement.py`: a2 and nl stand behind
            {spread}.
        include_top: False leaves out pooling and classifier: the model's output is the
            last stage's map.
        dropout: Rate of the dropout before the classifier.
        drop_path: Stochastic depth: rate for the last unit, falling linearly to 0 at
            the first.
        classifier_activation: E.g. "softmax"; None for logits.
        weights: Path of a .keras or .weights.h5 file of the same network, or None.
            (Keras ignores layers that only a .weights.h5 file has.)
        name: Name of the model.

    Returns:
        A `keras.Model`, (N, T, H, W, C) -> (N, classes) in float32, or with
        include_top=False (N, T / 2, H / {stride}, W / {stride}, {outputs}) (a size is
        rounded up at each halving).

    Raises:
        ValueError: An argument is not one of those above, or a block takes no video.

    Reference: https://arxiv.org/abs/1810.11579
    """


def _builder(title):
    """Returns the builder of one layout."""

    def build(
        input_shape=LAYOUTS[title].clip,
        classes=400,
        *,
        attention=None,
        attention_position=None,
        include_top=True,
        dropout=0.5,
        drop_path=0.0,
        classifier_activation=None,
        weights=None,
        name=None,
    ):
        _building.check(input_shape, classes, dropout, drop_path, weights, axes="THWC")
        attend = Attention(
            attention, attention_position, backbone="resnet_3d", positions=POSITIONS
        )
        layout = LAYOUTS[title]
        inputs, x = _building.image(input_shape, weights, title)

        def unit(x, drop, where):
            return _unit(x, layout, drop, attend, where)

        x = stages(_stem(x, layout), layout.units, drop_path, attend, unit)
        if include_top:
            x = _building.classifier(
                x, classes, classifier_activation, dropout, TORCH_INITIALIZER
            )
        model = keras.Model(inputs, x, name=name or title.lower())
        _building.load_weights(model, weights, title)
        return model

    layout = LAYOUTS[title]
    build.__name__ = build.__qualname__ = title
    build.__doc__ = _DOCSTRING.format(
        name=title,
        units=", ".join(map(str, layout.units)),
        spread="units 2 and 4 of stage 2 and units 2, 4 and 6 of stage 3"
        if title == "ResNet50_3D"
        else "unit 2 of stage 2 and unit 2 of stage 3",
        stride=32 if layout.pool else 16,
        outputs=EXPANSION * layout.channels[-1],
    )
    return build


ResNet26_3D, ResNet29_3D, ResNet50_3D = map(_builder, LAYOUTS)


def _stem(x, layout):
    """Returns the first convolution's map, behind the max pooling if there is one."""
    x = conv_bn_relu(x, layout.stem, layout.stem_kernel, (1, 2, 2), "stem_{}")
    if not layout.pool:
        return x
    # Zeros do for minus infinity: behind the ReLU nothing is smaller.
    size, strides = (1, 3, 3), (1, 2, 2)
    x, padding = _building.padded(x, size, strides, "stem_pool_pad")
    return layers.MaxPooling3D(size, strides, padding=padding, name="stem_pool")(x)


def _unit(inputs, layout, drop, attend, where):
    """Returns a unit's output: the sum of a shortcut and three convolutions."""
    stage, unit = where["stage"], where["unit"]
    prefix = f"stage_{stage}_unit_{unit}"
    channels = layout.channels[stage - 1]
    outputs = EXPANSION * channels
    frames = 2 if stage == layout.halved and unit == 1 else 1
    size = 2 if stage > 1 and unit == 1 else 1
    strides = (frames, size, size)
    pattern = layout.first[stage - 1]
    first = pattern[(unit - 1) % len(pattern)]

    def place(x, position):
        return attend(x, position, prefix=prefix, **where)

    def replace(x, padded, conv):
        return attend.replace(x, padded, conv, prefix=prefix, **where)

    def conv(x, number, filters, kernel_size, strides=(1, 1, 1), **options):
        name = f"{prefix}_{{}}_{number}"
        return conv_bn_relu(x, filters, kernel_size, strides, name, **options)

    x = conv(inputs, 1, channels, (first, 1, 1))
    x = conv(x, 2, channels, (layout.spatial, 3, 3), strides, replace=replace)
    x = place(x, "after_spatial")
    x = conv(x, 3, outputs, (1, 1, 1), relu=False)
    x = place(x, "after_project")
    shortcut = inputs
    if max(strides) > 1 or inputs.shape[-1] != outputs:
        name = f"{prefix}_shortcut_{{}}"
        shortcut = conv_bn_relu(inputs, outputs, (1, 1, 1), strides, name, relu=False)
    x = _building.residual_sum(shortcut, x, drop, prefix)
    return place(layers.ReLU(name=f"{prefix}_relu")(x), "after_sum")

"""The networks of the builders as they are by default: one table of a page.

    python benchmarks/builders.py [--write docs/models.md]

Every one is built, which takes a minute, and its parameters and multiply-adds counted.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _page
from presets import million

from keras_attention import models
from keras_attention.models import efficientnet, resnet, resnet_3d
from keras_attention.weights import imagenet

BUILDERS = (
    *("MobileNetV2", "MobileNeXt"),
    *efficientnet.SCALINGS,
    *resnet.FAMILIES,
    *resnet_3d.LAYOUTS,
)
# What a builder has arguments for beyond those that all have.
VARIANTS = {
    "MobileNetV2": "`width` 0.35 to 1.4",
    "MobileNeXt": "`width` 0.35 to 1.4",
    "ResNet18": '`stem` "imagenet" or "cifar", as the rest',
}
# Published top-1 in percent, and where. All others are those of the public weights.
PUBLISHED = {
    "MobileNetV2": (72.19, "d-li14/mobilenetv2.pytorch"),
    "MobileNeXt": (74.02, "zhoudaquan/rethinking_bottleneck_design"),
}
# Where timm's size is not the official code's.
TIMM_SIZES = {"EfficientNetLite3": 300, "EfficientNetLite4": 380}


def published(name):
    """Returns the published top-1 and its source, as the table has them."""
    if name in PUBLISHED:
        top1, source = PUBLISHED[name]
    elif name in imagenet.FILES:
        top1 = imagenet.FILES[name].top1
        source = "timm" if name in efficientnet.SCALINGS else "torchvision"
    else:
        return "-", "none found"
    if name in TIMM_SIZES:
        source += f", at {TIMM_SIZES[name]}"
    return f"{top1:.2f}", source


def row(name):
    """Returns a builder's row of the table; builds its network."""
    model = getattr(models, name)()
    *frames, height, width, _ = model.input_shape[1:]
    if height != width:
        raise ValueError(f"{name} is of {height} x {width} pixels")
    size = " x ".join(map(str, (*frames, height)))
    parameters = sum(weight.numpy().size for weight in model.trainable_weights)
    adds = models.count_multiply_adds(model).total
    builder = f"`{name}`"
    if name in VARIANTS:
        builder += f" ({VARIANTS[name]})"
    return builder, size, f"{parameters:,}", million(adds), *published(name)


def builder_lines():
    """Returns the table; builds every network."""
    head = (
        *("builder", "size", "parameters", "multiply-adds (M)"),
        *("published top-1 (%)", "source"),
    )
    return _page.table(head, map(row, BUILDERS))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", help="the page to put the table into")
    arguments = parser.parse_args()
    lines = builder_lines()
    if arguments.write:
        _page.put(arguments.write, "builders", lines)
    else:
        print(*lines, sep="\n")


if __name__ == "__main__":
    main()

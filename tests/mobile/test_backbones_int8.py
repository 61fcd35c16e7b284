"""Attention blocks inside of every backbone, as int8 files: whole, and as good.

The networks are the builders' own with fewer units and channels, on live random
weights. Their classifiers are fitted to the images: deep random features tell images
apart by chance, and a random classifier would look at what rounding changes most.
"""

import keras
import numpy as np
import pytest
from support.comparing import relative_error
from support.mobile_nets import images, randomize, scaled, settle
from support.small_efficientnets import narrow_efficientnet
from support.small_mobilenext import narrow_mobilenext
from support.small_networks import narrow_resnet

from keras_attention import mobile, models
from keras_attention.mobile import litert
from keras_attention.models import mobilenet_v2

PHOTOS = scaled(images(192, 32))
TRAINING, OTHERS = PHOTOS[:128], PHOTOS[128:]
LABELS = PHOTOS.mean((1, 2)).argmax(-1)  # which of three colours prevails
CLASSES = 3

# The four papers' blocks, on maps of 16, 16, 8 and 8 pixels.
PAPERS = {
    "block_2_depthwise_relu": "coord",
    "block_3_depthwise_relu": "ema",
    "block_5_depthwise_relu": "a2",
    "block_6_depthwise_conv": "aw",
}
STAGES = ((1, 16, 1, 1), (6, 16, 2, 2), (6, 24, 2, 2), (6, 32, 1, 1))


def mobilenet_v2_with_the_papers_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet_v2, "STAGES", STAGES)
        model = models.MobileNetV2((32, 32, 3), CLASSES, stem_stride=1)
    for place, block in PAPERS.items():
        model = models.insert(model, block, at=place)
    return model


def resnet_18_with_sk():
    options = {"units": (2, 2, 2, 2), "channels": (16, 24, 32, 48), "stem": "cifar"}
    model = narrow_resnet("ResNet18", classes=CLASSES, **options)
    return models.insert(model, "sk", at="stage_2_unit_2_conv_1")


def efficientnet_lite0_with_cbam():
    build = "EfficientNetLite0"
    return narrow_efficientnet(build, classes=CLASSES, attention="cbam")


def mobilenext_with_triplet():
    return narrow_mobilenext(classes=CLASSES, attention="triplet")


# Blocks of each network, by name.
NETWORKS = {
    mobilenet_v2_with_the_papers_blocks: [f"{name}_attention" for name in PAPERS],
    resnet_18_with_sk: ["stage_2_unit_2_conv_1_attention"],
    efficientnet_lite0_with_cbam: ["stage_2_unit_2_attention"],
    mobilenext_with_triplet: ["block_3_attention"],
}


def fit_classifier(model, data, labels):
    """Gives the last layer the weights of a ridge regression on its inputs."""
    layer = model.get_layer("classifier")
    features = np.asarray(keras.Model(model.input, layer.input)(data))
    mean = features.mean(0)
    features = features - mean
    gram = features.T @ features
    gram += 3 * np.trace(gram) / len(gram) * np.eye(len(gram))
    targets = np.eye(CLASSES)[labels] - 1 / CLASSES
    kernel = np.linalg.solve(gram, features.T @ targets)
    layer.set_weights([kernel, -mean @ kernel])


def without(model, name):
    """Returns the model with Identity in the place of a block."""

    def clone(layer):
        if layer.name == name:
            return keras.layers.Identity(name=name)
        return type(layer).from_config(layer.get_config())

    plain = keras.models.clone_model(model, clone_function=clone)
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return plain


@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_int8(make, tmp_path):
    model = make()
    settle(randomize(model), TRAINING[:64])
    fit_classifier(model, TRAINING, LABELS[:128])
    for block in NETWORKS[make]:
        change = relative_error(without(model, block)(OTHERS), model(OTHERS))
        assert change >= 0.05, block  # the block is live

    quantized = mobile.quantize(model, TRAINING[:32])
    path = mobile.convert(quantized, tmp_path / "net.tflite").path
    file = litert.File(path)
    assert set(file.dtypes) == {"int8", "int32"}
    assert file.custom == [] and file.max_rank <= 4
    agrees(path, quantized)


def agrees(path, quantized):
    """Checks the classes of 64 images; those that lie a step apart are nobody's."""
    logits = np.asarray(quantized(OTHERS))
    answers = logits.argmax(1)
    assert np.bincount(answers, minlength=CLASSES).min() >= 5  # it tells images apart
    runner = litert.Runner(path)
    same = runner(OTHERS)[0].argmax(1) == answers
    second, first = np.sort(logits, axis=1)[:, -2:].T
    clear = first - second > 1.001 * runner.outputs[0].scale
    print(
        f"argmax agreement: {same.sum()} of {same.size} images, "
        f"{same[clear].sum()} of the {clear.sum()} whose margin exceeds a step"
    )
    assert clear.sum() >= 50
    assert same[clear].mean() >= 0.95

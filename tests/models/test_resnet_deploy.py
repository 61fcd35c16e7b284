"""ResNets on the way to a phone: they deploy and become int8 files."""

import keras
import numpy as np
import pytest
from support.comparing import relative_error
from support.mobile_nets import images, scaled, settle
from support.small_networks import narrow_resnet, randomize

from keras_attention import mobile

IMAGES = scaled(images(64, 32))
NETWORKS = {
    "ResNet18": ({"name": "bam", "reduction": 4}, "after_stage", "cifar"),
    "ResNeXt50": ({"name": "cbam", "reduction": 4}, "after_project", "imagenet"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    """A live network; without its blocks it gives something else."""
    attention, position, stem = NETWORKS[request.param]
    options = {"attention_position": position, "stem": stem}
    options |= {"channels": (16, 24, 32, 48)}
    model = narrow_resnet(request.param, attention=attention, **options)
    randomize(model)
    settle(model, IMAGES)
    bias = model.get_layer("classifier").bias  # of logits that differ by image
    bias.assign(bias - keras.ops.mean(model(IMAGES), 0))
    plain = narrow_resnet(request.param, attention=identity, **options)
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    assert relative_error(plain(IMAGES), model(IMAGES)) >= 0.05
    return model


def identity(site):
    return keras.layers.Identity(name=site.name)


def test_deploys(model):
    deployed = mobile.deploy(model)
    assert relative_error(deployed(IMAGES), model(IMAGES)) <= 1e-5
    for layer in deployed.layers[1:]:  # behind the image input, which is ours
        assert type(layer).__module__.startswith("keras.")
        assert not isinstance(layer, keras.layers.BatchNormalization)


def test_becomes_an_int8_file(model, tmp_path):
    quantized = mobile.quantize(model, IMAGES[:32])
    report = mobile.convert(quantized, tmp_path / "net.tflite")
    assert set(report.dtypes) == {"int8", "int32"}
    labels = np.asarray(model(IMAGES)).argmax(-1)
    assert len(np.unique(labels)) == 5
    result = mobile.verify(report.path, against=quantized, data=(IMAGES, labels))
    print(result)
    # of 64; nets on random weights amplify single steps, and some logits are equal
    assert result.argmax_agreement >= 0.85

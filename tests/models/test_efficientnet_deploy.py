"""EfficientNets on the way to a phone: they deploy and become int8 files."""

import keras
import numpy as np
import pytest
from support.comparing import relative_error
from support.mobile_nets import images, scaled, settle
from support.small_efficientnets import narrow_efficientnet
from support.small_networks import randomize

from keras_attention import mobile
from keras_attention.mobile.litert import File

IMAGES = scaled(images(64, 32))
BUILDERS = ["EfficientNetB0", "EfficientNetLite0"]


@pytest.fixture(scope="module", params=BUILDERS)
def model(request):
    """A live network; B0 has its squeeze-and-excitation, which matters."""
    model = narrow_efficientnet(request.param)
    randomize(model)
    settle(model, IMAGES)
    bias = model.get_layer("classifier").bias  # of logits that differ by image
    bias.assign(bias - keras.ops.mean(model(IMAGES), 0))
    if request.param == "EfficientNetB0":
        plain = narrow_efficientnet(attention=None)
        for layer in plain.layers:
            if layer.weights:
                layer.set_weights(model.get_layer(layer.name).get_weights())
        assert relative_error(plain(IMAGES), model(IMAGES)) >= 0.05
    return model


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
    operators = File(report.path).operators
    # TensorFlow's padding is part of the convolutions; swish is a lookup and a product
    assert "PAD" not in operators and "HARD_SWISH" not in operators
    # 4 units: 3 expand; beside them stem and head; with se 4 x (gate, bottleneck)
    swishes, units = 3 + 4 + 2, 4
    lite = model.name == "efficientnetlite0"
    gates = 0 if lite else swishes + 2 * units
    assert operators.get("LOGISTIC", 0) == gates
    assert operators.get("MUL", 0) == gates
    labels = np.asarray(model(IMAGES)).argmax(-1)
    assert len(np.unique(labels)) == 5
    result = mobile.verify(report.path, against=quantized, data=(IMAGES, labels))
    print(result)
    # of 64; nets on random weights amplify single steps, and some logits are equal
    assert result.argmax_agreement >= 0.85

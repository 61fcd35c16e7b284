"""Every block in MobileNetV2, trained, as an int8 file."""

import keras
import numpy as np
import pytest
from support.comparing import relative_error
from support.mobile_nets import images, scaled

import keras_attention
from keras_attention import AWConv2D, mobile, models
from keras_attention.models import placement

PHOTOS = scaled(images(192, 96))
TRAINING, VALIDATION = PHOTOS[:128], PHOTOS[128:]
LABELS = PHOTOS.mean((1, 2)).argmax(-1)  # which of three colours prevails
UNITS = (2, 4, 7, 11, 14, 17)  # the first of every width: all maps and strides


def network(name, bypassed=False):
    """MobileNetV2 at 96 px with a block in six units, or with what it is without it."""

    def make(site):
        if site.unit in UNITS and not bypassed:
            fitted = placement.fitted(name, site)
            return keras_attention.get(name, **fitted, name=site.name)
        if site.conv is None:
            return keras.layers.Identity(name=site.name)
        options = {key: site.conv[key] for key in ("strides", "padding", "use_bias")}
        return keras.layers.DepthwiseConv2D(3, **options, name=site.name)

    position = placement.position_of("mobilenet_v2", name)
    options = {"attention": make, "attention_position": position}
    return models.MobileNetV2((96, 96, 3), 3, width=0.35, **options)


@pytest.fixture(scope="module", params=["ema", "a2", "aw"])
def trained(request):
    """A net that was trained a little, and the same net without attention.

    A deep net with random weights amplifies single steps until its argmax is a matter
    of chance. After some training it knows what it looks for.
    """
    keras.utils.set_random_seed(0)
    model = network(request.param)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(4e-3, 128)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    model.fit(TRAINING, LABELS[:128], batch_size=8, epochs=8, verbose=0)
    plain = network(request.param, bypassed=True)
    for layer in plain.layers:
        given = model.get_layer(layer.name).get_weights()
        if isinstance(model.get_layer(layer.name), AWConv2D):
            given = [1.5 * np.swapaxes(given[0], 2, 3)]  # all gates half open
        if layer.weights:
            layer.set_weights(given)
    return model, plain


def test_all_int8_and_agrees(trained, tmp_path):
    model, plain = trained
    logits = model.predict(VALIDATION, verbose=0)
    change = relative_error(plain.predict(VALIDATION, verbose=0), logits)
    assert change >= 0.05
    quantized = mobile.quantize(model, TRAINING[:32])
    report = mobile.convert(quantized, tmp_path / "net.tflite")
    assert set(report.dtypes) <= {"int8", "int32"}
    data = (VALIDATION, LABELS[128:])
    result = mobile.verify(report.path, against=quantized, data=data)
    print(result)
    assert result.keras_accuracy >= 0.45  # a third by guessing, +- 0.06
    # of 64; deep nets amplify single steps, and some logits are nearly equal
    assert result.argmax_agreement >= 0.85

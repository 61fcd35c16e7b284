"""Every block in MobileNetV2, trained, as an int8 file."""

import keras
import numpy as np
import pytest
from support.mobile_nets import images, scaled

from keras_attention import mobile, models

PHOTOS = scaled(images(192, 96))
TRAINING, VALIDATION = PHOTOS[:128], PHOTOS[128:]


@pytest.fixture(scope="module", params=["ema", "a2", "aw"])
def trained(request):
    """MobileNetV2 at 96 px, trained on which of three colours prevails.

    A deep net with random weights amplifies single steps until its argmax is a matter
    of chance. With a hundred steps of training it knows what it looks for.
    """
    keras.utils.set_random_seed(0)
    model = models.MobileNetV2((96, 96, 3), 3, width=0.35, attention=request.param)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
    labels = TRAINING.mean((1, 2)).argmax(-1)
    model.fit(TRAINING, labels, batch_size=8, epochs=7, verbose=0)
    return model


def test_all_int8_and_agrees(trained, tmp_path):
    quantized = mobile.quantize(trained, TRAINING[:32])
    report = mobile.convert(quantized, tmp_path / "net.tflite")
    assert set(report.dtypes) <= {"int8", "int32"}
    result = mobile.verify(report.path, against=quantized, data=VALIDATION)
    (output,) = result.outputs
    print(f"agreement {output.argmax_agreement}, steps {output.mean_difference}")
    # of 64; deep nets amplify single steps, and some logits are nearly equal
    assert output.argmax_agreement >= 0.9
    # not the same for all
    classes = quantized.predict(VALIDATION, verbose=0).argmax(-1)
    assert np.unique(classes).size >= 2

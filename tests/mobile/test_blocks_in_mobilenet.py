"""Every block in MobileNetV2, trained a little, as an int8 file."""

import keras
import numpy as np
import pytest
from support.mobile_nets import images, randomize, scaled, settle

from keras_attention import mobile, models

PHOTOS = scaled(images(64, 96))


@pytest.fixture(scope="module", params=["ema", "a2", "aw"])
def trained(request):
    """MobileNetV2 at 96 px, a few steps on which of two colours prevails."""
    keras.utils.set_random_seed(0)
    model = models.MobileNetV2((96, 96, 3), 2, width=0.35, attention=request.param)
    randomize(model)
    model.compile(
        keras.optimizers.Adam(1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,  # tracing would take longer than a few steps
    )
    labels = (PHOTOS[..., 0] > PHOTOS[..., 2]).mean((1, 2)) > 0.5
    model.fit(PHOTOS, labels.astype("int32"), batch_size=16, epochs=1, verbose=0)
    # After few steps the moving statistics are still far from the data's, and one class
    # is ahead for all photos.
    settle(model, PHOTOS[:32])
    classifier = model.get_layer("classifier")
    logits = model.predict(PHOTOS, verbose=0)
    classifier.bias.assign_sub(np.median(logits, axis=0))
    return model


def test_all_int8_and_alive(trained, tmp_path):
    quantized = mobile.quantize(trained, PHOTOS[:32])
    report = mobile.convert(quantized, tmp_path / "net.tflite")
    assert set(report.dtypes) <= {"int8", "int32"}
    result = mobile.verify(report.path, against=quantized, data=PHOTOS)
    (output,) = result.outputs
    # With random weights a deep network amplifies single steps: better than guessing
    # is all that this can ask for. Blocks alone are compared step by step.
    assert output.argmax_agreement > 0.5
    expected = quantized.predict(PHOTOS, verbose=0)
    assert np.isfinite(expected).all()
    assert np.unique(expected.argmax(-1)).size == 2  # not the same for all

"""Training to verified file, on the Pythons that `make test` does not run on."""

import keras
import numpy as np
import pytest

from keras_attention import mobile, models

pytestmark = pytest.mark.nightly


def _noisy_colours(samples, classes, rng):
    """Photos of one colour per class, byte b as b / 128 - 1, and their classes."""
    labels = np.arange(samples) % classes
    colours = rng.uniform(-0.8, 0.8, (classes, 1, 1, 3))[labels]
    images = colours + rng.normal(0, 0.3, (samples, 32, 32, 3))
    return np.round(images * 128).clip(-128, 127).astype("float32") / 128, labels


def _fit(model, data, learning_rate, epochs):
    # To 0, so that the moving statistics end where the weights do.
    steps = epochs * -(-len(data[0]) // 32)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(*data, batch_size=32, epochs=epochs, verbose=0)


def test_whole_path(tmp_path):
    data = images, _ = _noisy_colours(160, 4, np.random.default_rng(0))
    model = models.MobileNetV2(
        (32, 32, 3), 4, width=0.35, attention="coord", stem_stride=1, dropout=0.0
    )
    _fit(model, data, 2e-3, epochs=30)
    quantized = mobile.quantize(model, images)
    _fit(quantized, data, 1e-4, epochs=1)

    path = tmp_path / "quantized.keras"
    quantized.save(path)
    outputs = quantized.predict(images, verbose=0)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), outputs)

    print(mobile.convert(quantized, tmp_path / "model.tflite"))
    for name in "model.tflite", "model_uint8.tflite":
        assert mobile.check(tmp_path / name).ok
    report = mobile.verify(tmp_path / "model.tflite", against=quantized, data=data)
    print(report)
    # A signal lost on the way leaves 1/4 of the classes right. Measured: 0.98 to 0.99
    # for all three. 53 layers multiply differences of one rounding step to a few steps
    # of the logits, with attention and without, so near ties fall either way: 8 of 160.
    assert report.file_accuracy >= 0.9
    assert abs(report.file_accuracy - report.keras_accuracy) <= 0.05
    assert report.argmax_agreement >= 0.95

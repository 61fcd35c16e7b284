"""What the package does where Keras runs on JAX or PyTorch."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from support.comparing import features

import keras_attention
from keras_attention import mobile, models

CODE = """
import sys
import keras_attention, keras_attention.mobile, keras_attention.weights
assert "tensorflow" not in sys.modules
print(*keras_attention.names())
"""


def test_import_needs_no_tensorflow():
    assert importlib.util.find_spec("tensorflow") is None
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == keras_attention.names()


def test_mobile_says_that_it_needs_tensorflow(tmp_path):
    x = keras.Input((8, 8, 4))
    model = keras.Model(x, keras.layers.Conv2D(4, 3)(x))
    message = f"TensorFlow backend, not '{keras.backend.backend()}'"
    with pytest.raises(RuntimeError, match=message):
        mobile.convert(model, tmp_path / "model.tflite")
    with pytest.raises(RuntimeError, match=message):
        mobile.quantize(model, features(4, 8, 8, 4))


def test_mobilenet_with_attention():
    model = models.MobileNetV2((32, 32, 3), 4, width=0.35, attention="coord")
    y = model.predict(features(2, 32, 32, 3), verbose=0)
    assert y.shape == (2, 4)
    assert np.isfinite(y).all()

"""Video models, of rank 5: files of floats; int8 is refused with the reason."""

import keras
import numpy as np
import pytest
from support.comparing import CLOSE, difference, features
from support.mobile_nets import randomize

from keras_attention import DoubleAttention, mobile
from keras_attention.mobile import litert

DATA = features(4, 4, 8, 6, 3)


@pytest.fixture(scope="module")
def net():
    layers = keras.layers
    video = keras.Input((4, 8, 6, 3), name="video")
    x = layers.Conv3D(16, 3, padding="same", activation="relu", name="conv")(video)
    x = DoubleAttention(value_channels=8, attention_channels=6, name="block")(x)
    x = layers.GlobalAveragePooling3D(name="pool")(x)
    return randomize(
        keras.Model(video, layers.Dense(5, name="classifier")(x), name="video_net")
    )


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    # float16 kernels have 11 significant bits
    [("float32", CLOSE), ("float16", 5e-3)],
)
def test_converts_to_floats(net, precision, tolerance, tmp_path):
    report = mobile.convert(net, tmp_path / "net.tflite", precision=precision)
    assert report.precision == precision and report.uint8_path is None
    assert ("float16" in report.dtypes) == (precision == "float16")
    assert mobile.check(report.path).ok
    assert report.operators["CONV_3D"] == 1
    y = litert.Runner(report.path)(DATA)[0]
    assert difference(y, net(DATA)) <= tolerance
    bypassed = keras.Model(net.input, net.get_layer("block").input)
    change = net.get_layer("block")(bypassed(DATA)) - bypassed(DATA)
    assert np.linalg.norm(change) >= 0.05 * np.linalg.norm(bypassed(DATA))


def test_half_the_bytes_in_float16(tmp_path):
    x = keras.Input((4, 4, 64))
    net = randomize(keras.Model(x, keras.layers.Conv2D(64, 3)(x)))
    sizes = [
        mobile.convert(net, tmp_path / f"{precision}.tflite", precision=precision).bytes
        for precision in ("float16", "float32")
    ]
    assert sizes[0] <= 0.55 * sizes[1]


def test_int8_is_refused_with_the_reason(net, tmp_path):
    message = (
        r"Input 'video' of model 'video_net' has the shape \(None, 4, 8, 6, 3\). Video "
        "can't be quantized to int8: TFLite's CONV_3D has no integer kernel"
    )
    with pytest.raises(ValueError, match=message):
        mobile.quantize(net, DATA)
    with pytest.raises(ValueError, match=message):
        mobile.convert(net, tmp_path / "net.tflite", precision="int8", calibration=DATA)
    assert not list(tmp_path.iterdir())

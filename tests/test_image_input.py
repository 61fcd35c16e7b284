import json

import keras
import numpy as np
import pytest

from keras_attention import image_input
from keras_attention.image_input import ImageInput, input_range_of, make_input

BYTE_RANGE = (-1.0, 127 / 128)


def network(**arguments):
    x = make_input((6, 5, 3), **arguments)
    return keras.Model(x, keras.layers.Conv2D(2, 3)(x))


def test_default_range_is_that_of_bytes():
    photo = np.array([0, 128, 255], "uint8")
    assert (photo.astype("float32") / 128 - 1)[[0, 2]].tolist() == list(BYTE_RANGE)
    assert image_input.BYTE_RANGE == BYTE_RANGE
    assert input_range_of(network()) == BYTE_RANGE


def test_tensor_is_that_of_keras_input():
    x = make_input((6, None, 3), (0, 255), name="photo", batch_size=2)
    assert x.shape == (2, 6, None, 3)
    assert x.dtype == "float32"
    model = keras.Model(x, keras.layers.ReLU()(x))
    assert [layer.name for layer in model.layers][:1] == ["photo"]
    assert input_range_of(model) == (0.0, 255.0)
    y = model(np.full((2, 6, 4, 3), -1, "float32"))
    assert not np.any(y)


def test_config_round_trip():
    layer = ImageInput((6, 5, 3), (0, 1), name="photo")
    assert layer.get_config()["input_range"] == (0.0, 1.0)
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == "keras_attention>ImageInput"
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert type(again) is ImageInput
    assert again.get_config() == layer.get_config()
    assert again.input_range == (0.0, 1.0)


@pytest.mark.parametrize("rebuild", ["file", "config", "sequential file"])
def test_range_survives(rebuild, tmp_path):
    model = network(input_range=(0, 255))
    if rebuild == "sequential file":
        model = keras.Sequential(
            [make_input((6, 5, 3), (0, 255)), keras.layers.Conv2D(2, 3)]
        )
    if rebuild == "config":
        again = keras.Model.from_config(model.get_config())
        again.set_weights(model.get_weights())
    else:
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
    assert input_range_of(model) == input_range_of(again) == (0.0, 255.0)
    x = np.random.default_rng(0).uniform(0, 255, (2, 6, 5, 3)).astype("float32")
    np.testing.assert_array_equal(again(x), model(x))


def test_model_without_a_range():
    x = keras.Input((6, 5, 3))
    assert input_range_of(keras.Model(x, keras.layers.ReLU()(x))) is None
    assert input_range_of(keras.Sequential([x, keras.layers.ReLU()])) is None
    assert input_range_of(keras.Sequential([keras.layers.ReLU()])) is None


def test_several_inputs():
    images = [make_input((4, 4, 3), name=name) for name in ("left", "right")]
    vector = keras.Input((2,))
    y = keras.layers.Concatenate()(
        [keras.layers.Flatten()(x) for x in (*images, vector)]
    )
    assert input_range_of(keras.Model([*images, vector], y)) == BYTE_RANGE

    other = make_input((4, 4, 3), (0, 1), name="other")
    model = keras.Model([images[0], other], keras.layers.Add()([images[0], other]))
    with pytest.raises(ValueError, match=r"different ranges: left \(-1.0.*other \(0.0"):
        input_range_of(model)


@pytest.mark.parametrize(
    "value", [(1, 1), (1, 0), (0, float("inf")), (0, 1, 2), 3, None, ("a", "b")]
)
def test_refuses(value):
    with pytest.raises(ValueError, match="input_range must be two finite numbers"):
        make_input((4, 4, 3), value)

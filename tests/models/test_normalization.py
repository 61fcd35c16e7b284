"""Mean and standard deviation inside a network: exact, kept, and part of the file."""

import keras
import numpy as np
import pytest
from support.comparing import difference
from support.small_networks import SMALL, images, narrow_resnet, randomize

from keras_attention import mobile, models, weights
from keras_attention.image_input import input_range_of, make_input
from keras_attention.models import mobilenet_v2
from keras_attention.models.normalization import normalization
from keras_attention.weights.torch_state import torch_parameters

MEAN, STD = (0.485, 0.4, 0.3), (0.229, 0.5, 0.1)
BYTES = np.arange(256).reshape(1, 16, 16, 1).repeat(3, -1)


def wanted(photos):
    return ((photos / 255 - np.array(MEAN)) / np.array(STD)).astype("float32")


@pytest.fixture(scope="module", autouse=True)
def few_units():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet_v2, "STAGES", ((1, 16, 1, 1), (6, 24, 2, 2)))
        yield


@pytest.fixture(scope="module")
def plain(few_units):
    """A network of three units on random weights; not to be changed."""
    model = models.MobileNetV2(**SMALL, attention="coord")
    randomize(model)
    return model


@pytest.fixture(scope="module")
def wrapped(plain):
    return models.normalized(plain, MEAN, STD)


class TestLayer:
    @pytest.mark.parametrize("input_range", [(-1, 127 / 128), (0, 255), (0, 1)])
    def test_every_byte(self, input_range):
        low, high = input_range
        inputs = make_input((16, 16, 3), input_range)
        model = keras.Model(inputs, normalization(MEAN, STD, input_range)(inputs))
        x = (low + (high - low) * BYTES / 255).astype("float32")
        # the difference of byte and mean, at most 255, is rounded at 2**-24 of 255;
        # a byte's step is 1, so that is 4e-6 of the largest
        assert difference(model(x), wanted(BYTES)) < 4e-6
        assert not model.weights

    def test_in_half_precision_it_stays_single(self):
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            assert normalization(MEAN, STD).compute_dtype == "float32"
        finally:
            keras.config.set_dtype_policy(policy)


class TestNormalized:
    def test_takes_bytes_where_the_network_took_normalized_images(self, plain, wrapped):
        photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))
        expected = plain(wanted(photos))
        actual = wrapped((photos / 128 - 1).astype("float32"))
        # rounding of the normalization in float32; without it another answer
        assert difference(actual, expected) < 1e-5
        assert difference(wrapped(wanted(photos)), expected) > 0.02

    def test_leaves_the_given_model_alone(self, plain, wrapped):
        assert "normalization" not in {layer.name for layer in plain.layers}
        before = plain.get_layer("classifier").bias.numpy()
        wrapped.get_layer("classifier").bias.assign_add(np.ones(5))
        np.testing.assert_array_equal(plain.get_layer("classifier").bias, before)
        wrapped.get_layer("classifier").bias.assign(before)

    def test_is_still_a_network_of_its_builder(self, plain, wrapped):
        assert wrapped.name == plain.name
        assert input_range_of(wrapped) == (-1, 127 / 128)
        assert models.feature_levels(wrapped) == models.feature_levels(plain)
        level = wrapped.get_layer(models.feature_levels(wrapped)[4]).output
        assert keras.Model(wrapped.input, level)(images(1, 32, 32, 3)).shape[1] == 8
        state = {
            name: parameter.to_torch(parameter.variable.numpy())
            for name, parameter in torch_parameters(plain).items()
        }
        assert not weights.load_torch(wrapped, state).missing

    def test_save_and_load(self, wrapped, tmp_path):
        wrapped.save(tmp_path / "model.keras")
        x = images(2, 32, 32, 3)
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(x), wrapped(x))
        built = models.MobileNetV2(
            **SMALL, attention="coord", weights=tmp_path / "model.keras"
        )
        np.testing.assert_array_equal(built(x), wrapped(x))

    def test_deploy_makes_it_a_depthwise_convolution(self, wrapped):
        deployed = mobile.deploy(wrapped)
        first = deployed.layers[1]
        assert isinstance(first, keras.layers.DepthwiseConv2D)
        assert first.kernel_size == (1, 1)
        scale = 128 / 255 / np.array(STD)
        np.testing.assert_allclose(np.ravel(first.kernel), scale, rtol=1e-6)
        x = images(2, 32, 32, 3)
        # folded batch normalization rounds otherwise
        assert difference(deployed(x), wrapped(x)) < 1e-5

    def test_frozen_layers_and_other_networks(self):
        model = narrow_resnet("ResNet18", input_shape=(32, 32, 1), attention="se")
        randomize(model)
        model.get_layer("stem_conv").trainable = False
        model.get_layer("classifier").bias.trainable = False
        wrapped = models.normalized(model, [0.1307], [0.3081])
        trainable = [w.path for w in model.trainable_weights]
        assert [w.path for w in wrapped.trainable_weights] == trainable
        photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1))
        x = ((photos / 255 - 0.1307) / 0.3081).astype("float32")
        actual = wrapped((photos / 128 - 1).astype("float32"))
        assert difference(actual, model(x)) < 1e-5

    @pytest.mark.parametrize(
        ("mean", "std", "message"),
        [
            (0.5, STD, "mean must be 3 numbers; received 0.5"),
            (MEAN, (1, 1), r"std must be 3 positive numbers; received \(1, 1\)"),
            (MEAN, (1, 0, 1), "std must be 3 positive numbers"),
            ((0, np.nan, 0), STD, "mean must be 3 numbers"),
        ],
    )
    def test_refuses_numbers(self, plain, mean, std, message):
        with pytest.raises(ValueError, match=message):
            models.normalized(plain, mean, std)

    def test_refuses_models(self, wrapped):
        with pytest.raises(ValueError, match="has a layer 'normalization' already"):
            models.normalized(wrapped, MEAN, STD)
        inputs = keras.Input((8, 8, 3))
        other = keras.Model(inputs, keras.layers.ReLU()(inputs), name="other")
        with pytest.raises(ValueError, match="needs a network of a builder .*'other'"):
            models.normalized(other, MEAN, STD)

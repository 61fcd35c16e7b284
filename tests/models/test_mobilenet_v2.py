"""MobileNetV2: exact counts, inputs, weights, refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.small_networks import SMALL, images, randomize, trainable

from keras_attention import image_input, models
from keras_attention.models import mobilenet_v2


@pytest.mark.parametrize(
    ("width", "plain", "coord"),
    [
        (1.0, 3_504_872, 3_950_648),
        (0.75, 2_636_424, 2_891_631),
        (0.5, 1_968_680, 2_095_568),
    ],
)
def test_parameter_counts(width, plain, coord):
    assert trainable(models.MobileNetV2(width=width)) == plain
    assert trainable(models.MobileNetV2(width=width, attention="coord")) == coord


class TestInput:
    def test_range_is_stored(self, small, small_file):
        assert image_input.input_range_of(small) == (-1, 127 / 128)
        again = keras.models.load_model(small_file)
        assert image_input.input_range_of(again) == (-1, 127 / 128)
        x = images(2, 32, 32, 3)
        np.testing.assert_array_equal(again(x), small(x))

    @pytest.mark.parametrize(
        ("size", "stem_stride", "head"),
        [
            ((32, 32), 2, (1, 1)),
            ((32, 32), 1, (2, 2)),
            ((64, 96), 2, (2, 3)),
            ((47, 33), 2, (2, 2)),
            ((1, 1), 2, (1, 1)),
        ],
    )
    def test_sizes(self, size, stem_stride, head):
        model = models.MobileNetV2(
            (*size, 3), width=0.35, stem_stride=stem_stride, include_top=False
        )
        assert model.output_shape == (None, *head, 1280)

    def test_size_may_vary(self):
        arguments = SMALL | {"attention": "coord", "input_shape": (None, None, 3)}
        model = models.MobileNetV2(**arguments)
        fixed = models.MobileNetV2(**arguments | {"input_shape": (40, 36, 3)})
        randomize(model)
        fixed.set_weights(model.get_weights())
        x = images(2, 40, 36, 3)
        np.testing.assert_array_equal(model(x), fixed(x))
        assert model(images(1, 64, 48, 3)).shape == (1, 5)

    def test_grayscale(self):
        model = models.MobileNetV2((32, 32, 1), 5, width=0.35)
        assert model(images(2, 32, 32, 1)).shape == (2, 5)


class TestTraining:
    def test_initial_weights_are_the_authors(self):
        model = models.MobileNetV2((32, 32, 3), 1000, attention="coord")

        def deviation(name, expected):
            # at least 800 numbers: known to 2.5 %, four times that is allowed
            kernel = model.get_layer(name).kernel
            assert np.std(kernel) == pytest.approx(expected, rel=0.1), name

        deviation("stem_conv", np.sqrt(2 / (9 * 32)))
        deviation("block_1_project_conv", np.sqrt(2 / 16))
        deviation("block_2_depthwise_conv", np.sqrt(2 / (9 * 96)))
        deviation("block_17_depthwise_conv", np.sqrt(2 / (9 * 960)))
        deviation("head_conv", np.sqrt(2 / 1280))
        deviation("classifier", 0.01)
        assert not np.any(model.get_layer("classifier").bias)
        attention = model.get_layer("block_17_attention")
        assert np.std(attention.reduce.kernel) == pytest.approx(
            np.sqrt(2 / 30), rel=0.02
        )
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
                gamma, beta, mean, variance = layer.get_weights()
                assert (gamma == 1).all() and (variance == 1).all()
                assert not beta.any() and not mean.any()

    def test_every_weight_gets_a_gradient(self):
        # 64 x 64: with one position per channel a normalization's input has gradient 0
        model = models.MobileNetV2(
            **SMALL | {"input_shape": (64, 64, 3)}, attention="coord"
        )
        randomize(model)
        with tf.GradientTape() as tape:
            y = model(images(8, 64, 64, 3), training=True)
            loss = tf.reduce_sum(y * images(8, 5, seed=1))
        weights = model.trainable_weights
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        # 52 convolutions and normalizations, 16 blocks, the classifier
        assert len(weights) == 52 * 3 + 16 * 8 + 2
        largest = max(np.abs(gradient).max() for gradient in gradients)
        for weight, gradient in zip(weights, gradients, strict=True):
            size = np.abs(gradient).max()
            if weight.path.endswith(("attention/reduce/bias", "project_bn/beta")):
                # constants on their way, through linear layers, to normalizations
                assert size <= 1e-5 * largest
            else:
                assert size > 1e-6 * largest, weight.path

    def test_drop_path_falls_linearly_and_needs_a_sum(self):
        model = models.MobileNetV2(**SMALL, drop_path=0.32)
        rates = {
            layer.name: layer.rate
            for layer in model.layers
            if layer.name.endswith("drop_path")
        }
        with_sum = [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]
        assert rates == pytest.approx(
            {f"block_{u}_drop_path": 0.32 * (u - 1) / 16 for u in with_sum}
        )

    def test_drop_path_drops_whole_samples(self):
        model = models.MobileNetV2(**SMALL, drop_path=0.5)
        x = np.ones((64, 2, 2, 8), "float32")
        y = model.get_layer("block_16_drop_path")(x, training=True).numpy()
        scale = 1 / (1 - 0.5 * 15 / 16)
        kept = y[:, 0, 0, 0] > 0
        assert 0.3 < kept.mean() < 0.75  # 0.53 expected of 64 draws
        np.testing.assert_allclose(y[kept], scale, rtol=1e-6)
        assert not y[~kept].any()

    def test_mixed_precision_gives_float32_logits(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = models.MobileNetV2(**SMALL, attention="coord")
        finally:
            keras.config.set_dtype_policy("float32")
        assert model.get_layer("head_relu").compute_dtype == "bfloat16"
        y = model(images(2, 32, 32, 3), training=True)
        assert y.dtype == "float32"
        assert np.isfinite(y).all()


class TestTop:
    def test_logits_by_default(self, small):
        y = small(images(4, 32, 32, 3)).numpy()
        assert y.shape == (4, 5)
        assert (y < 0).any()

    def test_classifier_activation(self):
        model = models.MobileNetV2(**SMALL, classifier_activation="softmax")
        y = model(images(4, 32, 32, 3)).numpy()
        np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)

    def test_without_top(self, small):
        model = models.MobileNetV2(**SMALL, attention="coord", include_top=False)
        assert model.layers[-1].name == "head_relu"
        assert trainable(model) == trainable(small) - (1280 + 1) * 5

    def test_names(self):
        assert models.MobileNetV2(**SMALL).name == "mobilenet_v2"
        assert models.MobileNetV2(**SMALL, name="eyes").name == "eyes"


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(32, 32), (24 * 0.75, 24), (16 * 0.35, 8), (24 * 0.35, 8), (96 * 1.4, 136)],
)
def test_channels_are_multiples_of_8_and_lose_10_percent_at_most(channels, expected):
    assert mobilenet_v2.divisible(channels) == expected
    assert expected >= 0.9 * channels


def test_head_grows_with_widths_over_1():
    model = models.MobileNetV2((32, 32, 3), width=1.4, include_top=False)
    assert model.output_shape[-1] == 1792


def test_weights_from_a_weights_file(small, tmp_path):
    path = tmp_path / "small.weights.h5"
    small.save_weights(path)
    model = models.MobileNetV2(**SMALL, attention="coord", weights=path)
    x = images(2, 32, 32, 3)
    np.testing.assert_array_equal(model(x), small(x))


def test_weights_from_a_model_file_with_another_drop_path(small, small_file):
    arguments = {"drop_path": 0.2, "dropout": 0.0, "weights": str(small_file)}
    model = models.MobileNetV2(**SMALL, attention="coord", **arguments)
    x = images(2, 32, 32, 3)
    np.testing.assert_array_equal(model(x), small(x))


def test_weights_of_another_network(small_file):
    message = "same network; .*small.keras differs in 16 layers: block_10_attention"
    with pytest.raises(ValueError, match=message):
        models.MobileNetV2(**SMALL, weights=small_file)
    with pytest.raises(ValueError, match="classifier"):
        models.MobileNetV2(
            **SMALL | {"classes": 7}, attention="coord", weights=small_file
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (32, 32)}, r"input_shape must be \(H, W, C\).*\(32, 32\)"),
        ({"input_shape": (32, 32, None)}, "input_shape must be"),
        ({"input_shape": (0, 32, 3)}, "input_shape must be"),
        ({"input_shape": 32}, "input_shape must be.*received 32"),
        ({"classes": 0}, "classes must be a positive integer; received 0"),
        ({"classes": 2.5}, "classes must be a positive integer; received 2.5"),
        ({"width": 0}, "width must be.*received 0"),
        ({"width": "wide"}, "width must be.*received 'wide'"),
        ({"stem_stride": 4}, "stem_stride must be 1 or 2; received 4"),
        ({"dropout": 1.0}, r"dropout must be.*\[0, 1\); received 1.0"),
        ({"dropout": None}, r"dropout must be.*received None"),
        ({"drop_path": -0.1}, r"drop_path must be.*\[0, 1\); received -0.1"),
        ({"weights": "imagenett"}, "weights must be None or the path.*'imagenett'"),
        ({"weights": "no/such.keras"}, "weights must be None or.*'no/such.keras'"),
        ({"weights": 3}, "weights must be None or the path.*received 3"),
    ],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.MobileNetV2(**SMALL | arguments)


def test_refuses_channels_first():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="'channels_last'; received 'channels_f"):
            models.MobileNetV2(**SMALL)
    finally:
        keras.config.set_image_data_format("channels_last")

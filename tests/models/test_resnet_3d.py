"""ResNets of video: counts, kernels, inputs, weights, refusals."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.command_line import fails
from support.small_networks import images, randomize, trainable
from support.small_resnet_3d import CLIP, narrow_resnet_3d

from keras_attention import cli_inputs, image_input, models, weights
from keras_attention.models import _building, resnet_3d

BUILDERS = list(resnet_3d.LAYOUTS)


@pytest.fixture(scope="module")
def small():
    """A narrow network with attention on random weights; not to be changed."""
    model = narrow_resnet_3d(attention="a2")
    randomize(model)
    return model


@pytest.fixture(scope="module")
def small_file(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.keras"
    small.save(path)
    return path


# Frames that the first and the second convolution of each unit see.
I3D = [[(3, 1)] * 3, [(3, 1), (1, 1)] * 2, [(3, 1), (1, 1)] * 3]
I3D.append([(1, 1), (3, 1), (1, 1)])
SMALL = [[(1, 3)] * 2] * 4


def count(stem, width, units):
    """Trainable parameters: the definition, with 400 classes."""
    channels, frames, size = stem
    total = 3 * frames * size * size * channels + 2 * channels
    inputs = channels
    for stage, kernels in enumerate(units):
        inner = width * 2**stage
        outputs = 4 * inner
        for unit, (first, second) in enumerate(kernels):
            total += first * inputs * inner + 9 * second * inner**2 + inner * outputs
            total += 2 * (inner + inner + outputs)
            if unit == 0:
                total += inputs * outputs + 2 * outputs
            inputs = outputs
    return total + (inputs + 1) * 400


def double_attention(channels):
    """Four 1x1 convolutions with biases, half of the channels wide."""
    return 2 * channels**2 + 3 * channels // 2 + channels


STEMS = {"ResNet50_3D": (64, 5, 7)} | dict.fromkeys(BUILDERS[:2], (32, 3, 5))
UNITS = {
    "ResNet26_3D": SMALL,
    "ResNet29_3D": SMALL[:2] + [SMALL[2] + SMALL[2][:1]] + SMALL[3:],
    "ResNet50_3D": I3D,
}


@pytest.fixture(scope="module", params=BUILDERS)
def whole(request):
    """A network of the paper's size with double attention."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_building, "normal", lambda mode: "zeros")  # saves time
        return getattr(models, request.param)(attention="a2", name=request.param)


class TestLayouts:
    def test_parameter_counts(self, whole):
        plain = {
            "ResNet26_3D": 7_042_544,
            "ResNet29_3D": 7_617_520,
            "ResNet50_3D": 28_043_472,
        }[whole.name]
        width = 64 if whole.name == "ResNet50_3D" else 32
        assert count(STEMS[whole.name], width, UNITS[whole.name]) == plain
        wide = [512] * 2 + [1024] * 3 if width == 64 else [256, 512]
        blocks = sum(map(double_attention, wide))
        assert trainable(whole) == plain + blocks

    def test_kernels_and_strides(self, whole):
        halved = 2 if whole.name == "ResNet50_3D" else 1
        for stage, kernels in enumerate(UNITS[whole.name], 1):
            for unit, (first, second) in enumerate(kernels, 1):
                prefix = f"stage_{stage}_unit_{unit}"
                conv_1, conv_2, conv_3 = (
                    whole.get_layer(f"{prefix}_conv_{number}") for number in (1, 2, 3)
                )
                assert conv_1.kernel_size == (first, 1, 1)
                assert conv_2.kernel_size == (second, 3, 3)
                assert conv_3.kernel_size == (1, 1, 1)
                assert conv_1.strides == conv_3.strides == (1, 1, 1)
                size = 2 if stage > 1 and unit == 1 else 1
                frames = 2 if stage == halved and unit == 1 else 1
                assert conv_2.strides == (frames, size, size)
        shortcuts = [x.name for x in whole.layers if "shortcut_conv" in x.name]
        assert shortcuts == [f"stage_{s}_unit_1_shortcut_conv" for s in (1, 2, 3, 4)]

    def test_maps(self, whole):
        deep = whole.name == "ResNet50_3D"
        frames = (8, 4, 4, 4) if deep else (8, 8, 8, 8)
        width = 256 if deep else 128
        for stage, kernels in enumerate(UNITS[whole.name], 1):
            last = whole.get_layer(f"stage_{stage}_unit_{len(kernels)}_relu")
            side, channels = 112 >> stage, width << stage - 1
            assert last.output.shape[1:] == (frames[stage - 1], side, side, channels)
        assert whole.input_shape[1:] == (
            (8, 224, 224, 3) if deep else (16, 112, 112, 3)
        )
        assert whole.output_shape == (None, 400)

    def test_feature_levels(self, whole):
        deep = whole.name == "ResNet50_3D"
        levels = models.feature_levels(whole)
        assert list(levels) == ([4, 8, 16, 32] if deep else [2, 4, 8, 16])
        height = whole.input_shape[2]
        for stride, name in levels.items():
            assert name.startswith("stage_")
            shape = whole.get_layer(name).output.shape
            assert shape[2:4] == (height // stride, height // stride)

    def test_double_attention_behind_units(self, whole):
        blocks = [x for x in whole.layers if x.name.endswith("_attention")]
        five = [(2, 2), (2, 4), (3, 2), (3, 4), (3, 6)]
        places = five if whole.name == "ResNet50_3D" else [(2, 2), (3, 2)]
        prefixes = [f"stage_{stage}_unit_{unit}" for stage, unit in places]
        assert [x.name for x in blocks] == [f"{p}_attention" for p in prefixes]
        for prefix, block in zip(prefixes, blocks, strict=True):
            assert block.input is whole.get_layer(f"{prefix}_relu").output

    @pytest.mark.parametrize("name", BUILDERS[1:])
    def test_builders_say_what_they_are(self, name):
        build = getattr(models, name)
        assert build.__name__ == name and build.__module__ == resnet_3d.__name__
        first = inspect.getdoc(build).splitlines()[0]
        assert first == f"Returns {name} as a functional Keras model of video."
        assert "{" not in build.__doc__.replace('{"name": ..., **arguments}', "")
        assert narrow_resnet_3d(name).name == name.lower()
        assert narrow_resnet_3d(name, name="eyes").name == "eyes"


class TestInput:
    def test_range_is_stored(self, small, small_file):
        assert image_input.input_range_of(small) == (-1, 127 / 128)
        again = keras.models.load_model(small_file)
        assert image_input.input_range_of(again) == (-1, 127 / 128)
        x = images(2, *CLIP)
        np.testing.assert_array_equal(again(x), small(x))
        assert models.feature_levels(again) == models.feature_levels(small)

    @pytest.mark.parametrize(
        ("name", "size", "last"),
        [
            ("ResNet26_3D", (5, 47, 33), (3, 3, 3)),
            ("ResNet50_3D", (5, 47, 33), (3, 2, 2)),
            ("ResNet50_3D", (1, 1, 1), (1, 1, 1)),
            ("ResNet50_3D", (None, None, None), (None, None, None)),
        ],
    )
    def test_sizes(self, name, size, last):
        model = narrow_resnet_3d(name, input_shape=(*size, 3), include_top=False)
        assert model.output_shape == (None, *last, 64)
        assert model.layers[-1].name == "stage_4_unit_1_relu"

    def test_size_may_vary(self, small):
        model = narrow_resnet_3d(attention="a2", input_shape=(None, None, None, 3))
        model.set_weights(small.get_weights())
        x = images(2, *CLIP)
        np.testing.assert_array_equal(model(x), small(x))
        assert model(images(1, 2, 24, 40, 3)).shape == (1, 5)

    def test_is_of_five_axes(self, small):
        with pytest.raises(ValueError, match="expected shape|incompatible"):
            small(images(2, 32, 32, 3))


class TestTraining:
    def test_every_weight_gets_a_gradient(self):
        # 64 px: with one position per channel normalizations have gradient 0
        attention = {"name": "se", "reduction": 2}  # some of its ReLUs stay alive
        model = narrow_resnet_3d(
            "ResNet50_3D", input_shape=(4, 64, 64, 3), attention=attention
        )
        randomize(model)
        with tf.GradientTape() as tape:
            y = model(images(4, 4, 64, 64, 3), training=True)
            loss = tf.reduce_sum(y * images(4, 5, seed=1))
        variables = model.trainable_weights
        gradients = tape.gradient(loss, [weight.value for weight in variables])
        largest = max(np.abs(gradient).max() for gradient in gradients)
        for weight, gradient in zip(variables, gradients, strict=True):
            assert np.abs(gradient).max() > 1e-6 * largest, weight.path

    def test_initial_weights(self):
        model = narrow_resnet_3d("ResNet50_3D", channels=(32, 8, 12, 64))

        def deviation(name, expected):
            # at least 4096 numbers: known to 1.1 %, four times that is allowed
            kernel = model.get_layer(name).kernel
            assert np.std(kernel) == pytest.approx(expected, rel=0.045), name

        deviation("stem_conv", np.sqrt(2 / (5 * 49 * 8)))
        deviation("stage_1_unit_2_conv_1", np.sqrt(2 / (3 * 32)))
        deviation("stage_4_unit_1_conv_2", np.sqrt(2 / (9 * 64)))
        norm = model.get_layer("stem_bn")
        assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)

    def test_drop_path_drops_whole_clips(self):
        model = narrow_resnet_3d(drop_path=0.5)
        rates = {
            layer.name: layer.rate
            for layer in model.layers
            if layer.name.endswith("drop_path")
        }
        prefixes = ["1_unit_2", "2_unit_1", "2_unit_2", "3_unit_1", "4_unit_1"]
        assert rates == pytest.approx(
            {f"stage_{p}_drop_path": 0.1 * n for n, p in enumerate(prefixes, 1)}
        )
        layer = model.get_layer("stage_4_unit_1_drop_path")
        y = layer(np.ones((64, 2, 2, 2, 8), "float32"), training=True).numpy()
        kept = y[:, 0, 0, 0, 0] > 0
        assert 0.3 < kept.mean() < 0.7  # half of 64 draws
        np.testing.assert_allclose(y[kept], 2, rtol=1e-6)
        assert not y[~kept].any()

    def test_mixed_precision_gives_float32_logits(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = narrow_resnet_3d(attention="nl")
        finally:
            keras.config.set_dtype_policy("float32")
        assert model.get_layer("stage_4_unit_1_relu").compute_dtype == "bfloat16"
        y = model(images(2, *CLIP), training=True)
        assert y.dtype == "float32"
        assert np.isfinite(y).all()

    def test_top(self, small):
        assert small.get_layer("head_dropout").rate == 0.5
        model = narrow_resnet_3d(classifier_activation="softmax", dropout=0.3)
        y = model(images(2, *CLIP)).numpy()
        np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)
        assert model.get_layer("head_dropout").rate == 0.3
        features = narrow_resnet_3d(attention="a2", include_top=False)
        assert trainable(features) == trainable(small) - (64 + 1) * 5


class TestWeights:
    def test_from_files(self, small, small_file, tmp_path):
        path = tmp_path / "small.weights.h5"
        small.save_weights(path)
        x = images(2, *CLIP)
        for file, drop_path in ((path, 0.0), (small_file, 0.2)):
            model = narrow_resnet_3d(attention="a2", drop_path=drop_path, weights=file)
            np.testing.assert_array_equal(model(x), small(x))
        message = "same network; .*small.keras differs in 1 layers: stage_2_unit_2_att"
        with pytest.raises(ValueError, match=message):
            narrow_resnet_3d(weights=small_file)

    def test_names_are_those_of_resnets(self, small):
        """The kernels have three axes more than two."""
        parameters = weights.torch_state.torch_parameters(small)
        state = {
            name: parameter.to_torch(parameter.variable.numpy())
            for name, parameter in parameters.items()
        }
        assert state["conv1.weight"].shape == (8, 3, 3, 5, 5)
        assert state["layer1.0.conv2.weight"].shape == (4, 4, 3, 3, 3)
        assert state["layer2.1.a2.convA.weight"].shape == (16, 32, 1, 1)
        model = narrow_resnet_3d(attention="a2")
        weights.load_torch(model, state)
        x = images(2, *CLIP)
        np.testing.assert_array_equal(model(x), small(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"input_shape": (32, 32, 3)},
            r"must be \(T, H, W, C\) with positive sizes; rec",
        ),
        ({"input_shape": (4, 32, 32, None)}, r"must be \(T, H, W, C\)"),
        ({"input_shape": (0, 32, 32, 3)}, r"must be \(T, H, W, C\)"),
        ({"classes": 0}, "classes must be a positive integer; received 0"),
        ({"dropout": 1.0}, r"dropout must be.*\[0, 1\); received 1.0"),
        ({"drop_path": -0.1}, r"drop_path must be.*\[0, 1\); received -0.1"),
        ({"weights": "no/such.keras"}, "weights must be None or.*'no/such.keras'"),
        (
            {"weights": "imagenet"},
            "no public file for weights='imagenet' of ResNet26_3D",
        ),
        ({"attention": "cord"}, "unknown attention name 'cord'.*did you mean 'coord'"),
        ({"attention_position": "after_expand"}, "position must be.*'after_expand'"),
    ],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.ResNet26_3D(**arguments)


def test_on_the_command_line(tmp_path):
    known = cli_inputs.backbones()
    assert [known[name] for name in BUILDERS] == [
        getattr(models, name) for name in BUILDERS
    ]
    assert cli_inputs.summary(models.ResNet50_3D).startswith("ResNets of video: ")
    options = ("--out", tmp_path, "--attention", "a2", "--model", "resnet26_3d")
    message = fails("train", *options)
    assert "input_shape must be (T, H, W, C) with positive sizes" in message
    assert "received (32, 32, 3)" in message

"""ResNets of video: what all builders do; counts, kernels, names, command line."""

import numpy as np
import pytest
from support.builder_suite import (
    BuilderSuite,
    check_dropped_samples,
    check_initial_weights,
    drop_rates,
)
from support.command_line import fails
from support.small_networks import images, trainable
from support.small_resnet_3d import CLIP, narrow_resnet_3d

from keras_attention import cli_inputs, models, weights
from keras_attention.models import _building, resnet_3d

BUILDERS = list(resnet_3d.LAYOUTS)


class TestResNet3D(BuilderSuite):
    build = staticmethod(narrow_resnet_3d)
    arguments = {"attention": "a2"}
    image, odd_image = CLIP, (3, 40, 36, 3)
    parameters = {
        "ResNet26_3D": 7_042_544,
        "ResNet29_3D": 7_617_520,
        "ResNet50_3D": 28_043_472,
    }
    module = resnet_3d
    kind = "functional Keras model of video"
    name = "resnet26_3d"
    last, features = "stage_4_unit_1_relu", (2, 4, 6, 64)
    levels = {
        2: "stage_1_unit_2_relu",
        4: "stage_2_unit_2_attention",
        8: "stage_3_unit_1_relu",
        16: "stage_4_unit_1_relu",
    }
    dropout = 0.5
    sizes = (
        ({"input_shape": (5, 47, 33, 3)}, (3, 3, 3, 64)),
        ({"build": "ResNet50_3D", "input_shape": (5, 47, 33, 3)}, (3, 2, 2, 64)),
        ({"build": "ResNet50_3D", "input_shape": (1, 1, 1, 3)}, (1, 1, 1, 64)),
        (
            {"build": "ResNet50_3D", "input_shape": (None, None, None, 3)},
            (None, None, None, 64),
        ),
    )
    trained = (
        (
            {
                "build": "ResNet50_3D",
                # 64 px: with one position per channel normalizations have gradient 0
                "input_shape": (4, 64, 64, 3),
                # some of its ReLUs stay alive
                "attention": {"name": "se", "reduction": 2},
            },
            4,
        ),
    )
    mixed = {"attention": "nl"}
    another = ({}, "1 layers: stage_2_unit_2_att")
    refused = (
        (
            {"input_shape": (32, 32, 3)},
            r"must be \(T, H, W, C\) with positive sizes; rec",
        ),
        ({"weights": "imagenet"}, r"no public file for weights='imagenet' of ResNet\d"),
        ({"attention_position": "after_expand"}, "position must be.*'after_expand'"),
    )

    def test_name_is_the_builders(self, builder):
        assert narrow_resnet_3d(builder).name == builder.lower()

    def test_is_of_five_axes(self, small):
        with pytest.raises(ValueError, match="expected shape|incompatible"):
            small(images(2, 32, 32, 3))

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
        plain = TestResNet3D.parameters[whole.name]
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


def test_initial_weights():
    model = narrow_resnet_3d("ResNet50_3D", channels=(32, 8, 12, 64))
    deviations = {
        "stem_conv": np.sqrt(2 / (5 * 49 * 8)),
        "stage_1_unit_2_conv_1": np.sqrt(2 / (3 * 32)),
        "stage_4_unit_1_conv_2": np.sqrt(2 / (9 * 64)),
    }
    check_initial_weights(model, deviations)


def test_drop_path_drops_whole_clips():
    model = narrow_resnet_3d(drop_path=0.5)
    prefixes = ["1_unit_2", "2_unit_1", "2_unit_2", "3_unit_1", "4_unit_1"]
    assert drop_rates(model) == pytest.approx(
        {f"stage_{p}_drop_path": 0.1 * n for n, p in enumerate(prefixes, 1)}
    )
    check_dropped_samples(model.get_layer("stage_4_unit_1_drop_path"), (2, 2, 2, 8))


def test_on_the_command_line(tmp_path):
    known = cli_inputs.backbones()
    assert [known[name] for name in BUILDERS] == [
        getattr(models, name) for name in BUILDERS
    ]
    assert cli_inputs.summary(models.ResNet50_3D).startswith("ResNets of video: ")
    options = ("--out", tmp_path, "--attention", "a2", "--model", "resnet26_3d")
    message = fails("train", *options)
    # recipes are of images
    assert "model.backbone must be one of EfficientNetB0, " in message
    assert "received 'ResNet26_3D'" in message

"""`models.insert` at presets: the units of known networks."""

import keras
import pytest
from keras import layers
from support.inserting import blocks, conv
from support.small_networks import SMALL, narrow_resnet

from keras_attention import (
    CoordAttention,
    SqueezeExcite,
    models,
    names,
)
from keras_attention.models import placement, sites


class TestPresetsEqualBuilders:
    """`insert` into a plain network makes what the builder makes with `attention`."""

    @staticmethod
    def signature(model):
        found = []
        for name, calls in blocks(model).items():
            config = model.get_layer(name).get_config() | {"name": None}
            for text in ("kernel_initializer", "bias_initializer"):
                config.pop(text, None)  # of a convolution: the replaced one's
            found.append((*calls, config))
        return sorted(found, key=str)

    def check(self, build, backbone, block):
        built = build(attention=block)
        inserted = models.insert(build(attention=None), block, at=backbone)
        assert self.signature(inserted) == self.signature(built) != []
        assert inserted.count_params() == built.count_params()
        assert inserted.output_shape == built.output_shape

    @pytest.mark.parametrize("block", names())
    def test_resnet(self, block):
        def build(attention):
            return narrow_resnet(
                units=(1, 2, 2, 2), channels=(8, 8, 8, 8), attention=attention
            )

        self.check(build, "resnet", block)

    @pytest.mark.parametrize("block", ["coord", "simam", "aw"])
    def test_resnet_of_two_convolutions(self, block):
        def build(attention):
            return narrow_resnet("ResNet18", attention=attention)

        self.check(build, "resnet", block)

    @pytest.mark.parametrize("block", ["eca", "aw"])
    def test_mobilenet_v2(self, block):
        def build(attention):
            return models.MobileNetV2(**SMALL, attention=attention)

        self.check(build, "mobilenet_v2", block)

    @pytest.mark.parametrize("block", ["coord", "aw"])
    def test_mobilenext(self, block):
        def build(attention):
            return models.MobileNeXt((32, 32, 3), 5, width=0.35, attention=attention)

        self.check(build, "mobilenext", block)

    @pytest.mark.parametrize("block", ["sk"])
    def test_efficientnet(self, block):
        def build(attention):
            return models.EfficientNetLite0((32, 32, 3), 5, attention=attention)

        self.check(build, "efficientnet", block)


class TestPresets:
    def test_each_place_of_the_placement_table_is_found(self):
        for backbone, patterns in sites.PATTERNS.items():
            assert set(placement.PLACEMENT[backbone].values()) <= patterns.keys()

    def test_keras_mobilenet_v2(self):
        found = self.find(keras.applications.MobileNetV2, "mobilenet_v2")
        for position, name in (
            ("after_depthwise", "block_{}_depthwise_relu"),
            ("after_project", "block_{}_project_BN"),
            ("replace_spatial", "block_{}_depthwise"),
        ):
            assert found(position) == {
                name.format(n): {"stage": None, "unit": n, "units": None}
                for n in range(1, 17)  # "expanded_conv" does not expand
            }

    @pytest.mark.parametrize(
        ("build", "project"), [("ResNet50", "3_bn"), ("ResNet50V2", "3_conv")]
    )
    def test_keras_resnet(self, build, project):
        found = self.find(getattr(keras.applications, build), "resnet")
        counts = (3, 4, 6, 3)
        every = [(c, u) for c in range(2, 6) for u in range(1, counts[c - 2] + 1)]
        for position, name in (
            ("after_project", project),
            ("after_spatial", "2_relu"),
            ("replace_spatial", "2_conv"),
            ("after_sum", "out"),
        ):
            assert found(position) == {
                f"conv{c}_block{u}_{name}": {
                    "stage": c - 1,
                    "unit": u,
                    "units": counts[c - 2],
                }
                for c, u in every
            }
        last = found("after_stage")
        assert list(last) == [f"conv{c}_block{counts[c - 2]}_out" for c in range(2, 6)]

    def test_keras_efficientnet(self):
        found = self.find(keras.applications.EfficientNetB0, "efficientnet")
        units = "1a 2a 2b 3a 3b 4a 4b 4c 5a 5b 5c 6a 6b 6c 6d 7a".split()
        behind = found("after_depthwise")
        assert list(behind) == [f"block{unit}_se_excite" for unit in units]
        assert behind["block4c_se_excite"] == {"stage": 4, "unit": 3, "units": 3}
        assert list(found("replace_spatial")) == [f"block{u}_dwconv" for u in units]

    def test_keras_efficientnet_v2(self):
        """Fused units have no depthwise convolution; those of stage 1 expand not."""
        found = self.find(keras.applications.EfficientNetV2B0, "efficientnet")
        fused = ["2a", "2b", "3a", "3b"]
        behind, replaced = found("after_depthwise"), found("replace_spatial")
        assert sorted(n for n in behind if "expand" in n) == [
            f"block{unit}_expand_activation" for unit in fused
        ]
        excited = [name for name in behind if name.endswith("_se_excite")]
        assert len(behind) == len(excited) + 4 and len(excited) == 3 + 5 + 8
        assert sorted(n for n in replaced if "dwconv2" not in n) == [
            "block1a_project_conv",
            *(f"block{unit}_expand_conv" for unit in fused),
        ]
        assert len(replaced) == 21

    @staticmethod
    def find(build, backbone):
        model = build(weights=None, input_shape=(32, 32, 3), include_top=False)
        layer_names = [layer.name for layer in model.layers]

        def found(position):
            result = sites.find(backbone, position, layer_names)
            return dict(sorted(result.items()))

        return found

    def test_own_squeeze_and_excitation_stays(self):
        model = models.EfficientNetB0((32, 32, 3), 5)
        result = models.insert(model, "coord", at="efficientnet")
        found = blocks(result)
        assert found["stage_2_unit_1_depthwise_act_attention"] == [
            ("stage_2_unit_1_attention", ["stage_2_unit_1_project_conv"])
        ]
        assert len(found) == 32
        assert {type(result.get_layer(n)) for n in found} == {
            SqueezeExcite,
            CoordAttention,
        }

    def test_selective_kernels_take_the_padding_over(self):
        base = keras.applications.MobileNetV2(
            (32, 32, 3), 0.35, weights=None, include_top=False
        )
        model = models.insert(base, "sk", at="mobilenet_v2")
        assert model.output_shape == base.output_shape
        (call,) = blocks(model)["block_1_depthwise_attention"]
        assert call == ("block_1_expand_relu", ["block_1_depthwise_BN"])
        assert model.get_layer("block_1_depthwise_attention").strides == 2
        gone = {layer.name for layer in base.layers} - {x.name for x in model.layers}
        pads = {f"block_{n}_pad" for n in (1, 3, 6, 13)}
        assert gone == pads | {f"block_{n}_depthwise" for n in range(1, 17)}

    def test_of_a_preset_selective_kernels_take_what_they_can(self):
        x = inputs = keras.Input((8, 8, 4))
        for name in ("block1a_project", "block1b_project", "block1c_expand"):
            x = conv(f"{name}_conv", 4 if "1b" in name else 8)(x)
            last = f"{name[:7]}_project_bn"
            x = layers.BatchNormalization(name=last)(x)
        model = keras.Model(inputs, x)
        with pytest.raises(ValueError, match="'sk' can't take.*'block1a_project_conv'"):
            models.insert(model, "sk", at="block1a_project_conv")
        with pytest.raises(ValueError, match="matches no Conv2D or DepthwiseConv2D"):
            models.insert(model, "sk", at="efficientnet")

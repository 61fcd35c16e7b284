"""ResNets load the authors' weights by name and give the authors' logits."""

import json
import re

import keras
import numpy as np
import pytest
from support.comparing import relative_error
from support.small_networks import images, narrow_resnet, randomize

from keras_attention import CBAM, models, weights

NETWORKS = [
    "resnet18",
    "resnet50",
    "resnext50",
    "resnet50_cifar_cbam",
    "resnet50_cifar_bam",
    "resnet50_eca",
]


class TestGoldenNetworks:
    # two single-precision runs of such a net differ by up to 1e-4
    TOLERANCE = 5e-4

    @pytest.mark.parametrize("name", NETWORKS)
    def test_logits_and_units(self, name, golden, state_dict):
        file = golden(f"networks/{name}")
        arguments = json.loads(str(file["config_json"]))
        build = getattr(models, arguments.pop("builder"))
        arguments.pop("source")
        if title := arguments.pop("preset", None):
            presets = {preset.title: preset for preset in models.presets().values()}
            arguments |= presets[title].arguments
        model = build(**arguments)
        state = state_dict(file)
        report = weights.load_torch(model, state)
        assert set(report.loaded) == set(state)
        assert len(report.loaded) == len(model.weights)

        def layer_of(theirs):
            if match := re.fullmatch(r"pooled/layer(\d)\.(\d+)", theirs):
                return f"stage_{match[1]}_unit_{int(match[2]) + 1}_relu"
            if match := re.fullmatch(r"pooled/bam(\d)", theirs):
                return f"stage_{match[1]}_attention"
            return None

        names = {theirs: layer_of(theirs) for theirs in file}
        outputs = {
            theirs: model.get_layer(ours).output
            for theirs, ours in names.items()
            if ours
        }
        # all units, and what stands behind stages
        assert len(outputs) == (8 if name == "resnet18" else 16) + 3 * ("_bam" in name)
        found = keras.Model(model.input, outputs | {"logits": model.output})(file["x"])
        for theirs in [*outputs, "logits"]:
            y = found[theirs].numpy()
            y = y if theirs == "logits" else y.mean((1, 2))
            assert relative_error(y, file[theirs]) <= self.TOLERANCE, theirs


@pytest.fixture(scope="class")
def narrow():
    """A ResNet of one unit per stage with CBAM; not to be changed."""
    return narrow_resnet(units=(1, 1, 1, 1), attention="cbam", name="narrow")


class TestNames:
    @pytest.fixture
    def model(self, narrow):
        model = keras.models.clone_model(narrow)
        randomize(model)
        return model

    @pytest.fixture
    def state(self, narrow):
        randomize(narrow, seed=1)
        parameters = weights.torch_state.torch_parameters(narrow)
        return {
            name: parameter.to_torch(parameter.variable.numpy())
            for name, parameter in parameters.items()
        }

    def test_are_the_authors(self, state):
        modules = {name.rsplit(".", 1)[0] for name in state}
        unit = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}
        unit |= {"downsample.0", "downsample.1", "cbam.ChannelGate.mlp.1"}
        unit |= {"cbam.ChannelGate.mlp.3", "cbam.SpatialGate.spatial.conv"}
        unit |= {"cbam.SpatialGate.spatial.bn"}
        units = {f"layer{stage}.0.{own}" for stage in range(1, 5) for own in unit}
        assert modules == units | {"conv1", "bn1", "fc"}
        assert state["conv1.weight"].shape == (64, 3, 7, 7)
        assert state["fc.weight"].shape == (5, 64)

    def test_a_round_trip_gives_the_same_network(self, model, narrow, state):
        x = images(2, 32, 32, 3)
        assert np.abs(model(x) - narrow(x)).max() > 0.1
        weights.load_torch(model, state | {"bn1.num_batches_tracked": np.array(3)})
        np.testing.assert_array_equal(model(x), narrow(x))

    def test_missing_and_unexpected_names(self, model, state):
        before = model.get_weights()
        given = {name: x for name, x in state.items() if not name.startswith("layer3")}
        given["layer9.0.conv1.weight"] = state["conv1.weight"]
        message = (
            r"does not fit model 'narrow': missing \['layer3.0.conv1.weight', "
            r".*\] and \d\d more, unexpected \['layer9.0.conv1.weight'\]"
        )
        with pytest.raises(ValueError, match=message):
            weights.load_torch(model, given)
        assert all(map(np.array_equal, before, model.get_weights()))
        report = weights.load_torch(model, given, strict=False)
        assert all(name.startswith("layer3.0.") for name in report.missing)
        assert len(report.missing) == 4 * 5 + 9
        assert report.unexpected == ("layer9.0.conv1.weight",)
        bias = model.get_layer("classifier").bias
        np.testing.assert_array_equal(bias, state["fc.bias"])

    @pytest.mark.parametrize("strict", [False, True])
    def test_refuses_shapes_and_changes_nothing(self, model, state, strict):
        before = model.get_weights()
        state["fc.weight"] = np.zeros((1000, 64))
        message = r"'fc.weight' has the shape \(1000, 64\), but model 'narrow' needs"
        with pytest.raises(ValueError, match=message):
            weights.load_torch(model, state, strict=strict)
        assert all(map(np.array_equal, before, model.get_weights()))

    @pytest.mark.parametrize(
        ("attention", "theirs"),
        [
            ("se", "layer1.0.se.fc1.weight"),
            ("gc", "layer2.0.context_block.conv_mask.weight"),
            ("triplet", "layer4.1.triplet_attention.cw.conv.conv.weight"),
            ("bam", "bam3.channel_att.gate_c.gate_c_fc_0.weight"),
            ("aw", "layer1.1.conv2.pw1.weight"),
            ("sk", "layer1.1.conv2.attn.bn.weight"),
            (["se", "cbam"], "layer1.0.cbam.ChannelGate.mlp.1.weight"),
            (type("Mine", (CBAM,), {}), "layer1.0.cbam.ChannelGate.mlp.1.weight"),
        ],
    )
    def test_of_blocks(self, attention, theirs):
        model = models.ResNet18((32, 32, 3), 5, attention=attention)
        names = weights.torch_state.torch_parameters(model)
        assert theirs in names
        assert len(names) == len(model.weights)
        assert ("layer1.1.conv2.weight" in names) == (attention != "sk")

    @pytest.mark.parametrize(
        ("model", "layer"),
        [
            (
                lambda: models.MobileNetV2((32, 32, 3), attention=["se", "se"]),
                "block_2_attention_2",
            ),
            (
                lambda: models.ResNet18((32, 32, 3), attention=["se", "se"]),
                "stage_1_unit_1_attention_2",
            ),
            (
                lambda: models.ResNet18(
                    (32, 32, 3),
                    attention=lambda site: keras.layers.Conv2D(
                        site.channels, 1, name=site.name
                    ),
                ),
                r"stage_1_unit_1_attention' \(Conv2D\)",
            ),
        ],
    )
    def test_refuses_layers_without_a_name(self, model, layer):
        with pytest.raises(TypeError, match=f"knows the blocks .* with layer '{layer}"):
            weights.load_torch(model(), {})

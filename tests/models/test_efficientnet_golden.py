"""EfficientNets load the authors' weights by name and give the authors' logits."""

import json
import re

import keras
import numpy as np
import pytest
from support.comparing import difference
from support.small_efficientnets import UNITS, narrow_efficientnet
from support.small_networks import images, randomize

from keras_attention import CBAM, models, weights
from keras_attention.weights.torch_state import torch_parameters


class TestGoldenNetworks:
    # two single-precision runs of such a net differ by up to 1e-4
    TOLERANCE = 5e-4

    @pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
    def test_logits_and_stages(self, name, golden, state_dict):
        file = golden(f"networks/{name}")
        arguments = json.loads(str(file["config_json"]))
        arguments.pop("source")
        model = getattr(models, arguments.pop("builder"))(**arguments)
        state = state_dict(file)
        report = weights.load_torch(model, state)
        assert set(report.loaded) == set(state)
        assert len(report.loaded) == len(model.weights)
        ends = {}  # the last layer of each stage
        for layer in model.layers:
            if match := re.match(r"stage_(\d)", layer.name):
                ends[f"pooled/blocks.{int(match[1]) - 1}"] = layer.output
        assert set(ends) == {x for x in file if x.startswith("pooled/")}
        assert len(ends) == 7
        found = keras.Model(model.input, ends | {"logits": model.output})(file["x"])
        for theirs in [*ends, "logits"]:
            y = found[theirs].numpy()
            y = y if theirs == "logits" else y.mean((1, 2))
            assert difference(y, file[theirs]) <= self.TOLERANCE, theirs


@pytest.fixture(scope="module")
def narrow():
    """A narrow network on random weights; not to be changed."""
    model = narrow_efficientnet(name="narrow")
    randomize(model, seed=1)
    return model


def timm(model):
    """Returns a network's weights by timm's names."""
    return {
        name: parameter.to_torch(parameter.variable.numpy())
        for name, parameter in torch_parameters(model).items()
    }


def lukemelas(name):
    """Returns what efficientnet_pytorch calls a parameter of timm's in `narrow`."""
    ends = {
        "conv_stem": "_conv_stem",
        "bn1": "_bn0",
        "conv_head": "_conv_head",
        "bn2": "_bn1",
        "classifier": "_fc",
    }
    match = re.fullmatch(r"blocks\.(\d)\.(\d)\.(.*)\.(\w+)", name)
    if match is None:
        module, part = name.split(".")
        return f"{ends[module]}.{part}"
    number = UNITS.index((int(match[1]) + 1, int(match[2]) + 1))
    plain = number == 0
    own = {
        "conv_pw": "_project_conv" if plain else "_expand_conv",
        "bn1": "_bn1" if plain else "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn2" if plain else "_bn1",
        "se.conv_reduce": "_se_reduce",
        "se.conv_expand": "_se_expand",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }[match[3]]
    return f"_blocks.{number}.{own}.{match[4]}"


class TestNames:
    @pytest.fixture
    def model(self, narrow):
        model = keras.models.clone_model(narrow)
        randomize(model)
        return model

    @pytest.fixture
    def state(self, narrow):
        return timm(narrow)

    def test_are_timms(self, state):
        modules = {name.rsplit(".", 1)[0] for name in state}
        plain = {"conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2"}
        names = {f"blocks.0.0.{own}" for own in plain}
        names |= {
            f"blocks.{stage - 1}.{unit - 1}.{own}"
            for stage, unit in UNITS[1:]
            for own in plain | {"conv_pwl", "bn3"}
        }
        names |= {"conv_stem", "bn1", "conv_head", "bn2", "classifier"}
        assert modules == names
        assert state["blocks.1.0.se.conv_reduce.weight"].shape == (2, 32, 1, 1)
        assert state["blocks.1.0.conv_dw.weight"].shape == (32, 1, 5, 5)

    @pytest.mark.parametrize("rename", [str, lukemelas])
    def test_a_round_trip_gives_the_same_network(self, model, narrow, state, rename):
        x = images(2, 32, 32, 3)
        assert np.abs(model(x) - narrow(x)).max() > 0.1
        given = {rename(name): array for name, array in state.items()}
        assert len(given) == len(state)
        assert set(torch_parameters(model, given)) == set(given)
        counter = {f"{rename('bn1.weight')[:-7]}.num_batches_tracked": np.array(3)}
        report = weights.load_torch(model, given | counter)
        assert report.missing == report.unexpected == ()
        np.testing.assert_array_equal(model(x), narrow(x))

    @pytest.mark.parametrize(
        ("rename", "missing", "count"),
        [
            (str, r"blocks\.2\.0\.conv_pw\.weight", "11"),
            (lukemelas, r"_blocks\.3\._expand_conv\.weight", "11"),
        ],
    )
    def test_messages_use_the_names_of_the_file(
        self, model, state, rename, missing, count
    ):
        before = model.get_weights()
        given = {
            rename(name): array
            for name, array in state.items()
            if not name.startswith("blocks.2.")
        }
        given["extra.weight"] = state["bn1.weight"]
        message = (
            rf"does not fit model 'narrow': missing \['{missing}', .*\] and {count} "
            r"more, unexpected \['extra.weight'\]"
        )
        with pytest.raises(ValueError, match=message):
            weights.load_torch(model, given)
        assert all(map(np.array_equal, before, model.get_weights()))

    @pytest.mark.parametrize("strict", [False, True])
    def test_refuses_shapes_and_changes_nothing(self, model, state, strict):
        before = model.get_weights()
        state["classifier.weight"] = np.zeros((1000, 48))
        message = r"'classifier.weight' has the shape \(1000, 48\), but model 'narrow'"
        with pytest.raises(ValueError, match=message):
            weights.load_torch(model, state, strict=strict)
        assert all(map(np.array_equal, before, model.get_weights()))

    @pytest.mark.parametrize(
        ("attention", "theirs"),
        [
            (None, "blocks.1.1.conv_pwl.weight"),
            ("coord", "blocks.0.0.se.conv1.weight"),
            ("eca", "blocks.2.0.se.conv.weight"),
            ("aw", "blocks.1.1.conv_dw.pw1.weight"),
            ("sk", "blocks.1.1.conv_dw.attn.bn.weight"),
            (["aw", "se"], "blocks.1.1.se.conv_reduce.weight"),
            (type("Mine", (CBAM,), {}), "blocks.1.0.se.ChannelGate.mlp.1.weight"),
        ],
    )
    @pytest.mark.parametrize("build", ["EfficientNetB0", "EfficientNetLite0"])
    def test_of_blocks(self, build, attention, theirs):
        model = narrow_efficientnet(build, attention=attention)
        names = torch_parameters(model)
        assert theirs in names
        assert len(names) == len(model.weights)

    def test_without_top(self, narrow, state):
        model = narrow_efficientnet(include_top=False)
        report = weights.load_torch(model, state, strict=False)
        assert report.missing == ()
        assert report.unexpected == ("classifier.weight", "classifier.bias")

    @pytest.mark.parametrize(
        ("attention", "layer"),
        [
            (["se", "se"], "stage_1_unit_1_attention_2"),
            (
                lambda site: keras.layers.Conv2D(site.channels, 1, name=site.name),
                r"stage_1_unit_1_attention' \(Conv2D\)",
            ),
        ],
    )
    def test_refuses_layers_without_a_name(self, attention, layer):
        model = narrow_efficientnet(attention=attention)
        with pytest.raises(TypeError, match=f"knows the blocks .* with layer '{layer}"):
            weights.load_torch(model, {})

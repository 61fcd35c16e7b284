"""MobileNeXt loads the authors' weights by name and gives the authors' logits."""

import keras
import numpy as np
import pytest
from support.comparing import difference
from support.small_mobilenext import narrow_mobilenext
from support.small_networks import images, randomize

from keras_attention import models, weights

# Two single-precision runs of such a net differ by up to 1e-4.
TOLERANCE = 5e-4


def end_of(model, unit):
    """Returns the name of a unit's last layer."""
    names = {layer.name for layer in model.layers}
    ends = (f"block_{unit}_{end}" for end in ("add", "depthwise_2_bn", "expand_relu"))
    return next(name for name in ends if name in names)


def test_authors_network(golden, state_dict):
    file = golden("networks/mobilenext")
    state = state_dict(file)
    model = models.MobileNeXt((64, 64, 3), 10)
    report = weights.load_torch(model, state)
    assert set(report.loaded) == set(state)
    assert len(report.loaded) == len(model.weights)
    ends = {f"pooled/features.{n}": end_of(model, n) for n in range(1, 21)}
    ends["pooled/features.0"] = "stem_relu"
    assert set(ends) == {name for name in file if name.startswith("pooled/")}
    outputs = {theirs: model.get_layer(ours).output for theirs, ours in ends.items()}
    found = keras.Model(model.input, outputs | {"logits": model.output})(file["x"])
    for theirs in outputs:
        pooled = found[theirs].numpy().mean((1, 2))
        assert difference(pooled, file[theirs]) <= TOLERANCE, theirs
    assert difference(found["logits"], file["logits"]) <= TOLERANCE


def torch_state(model):
    parameters = weights.torch_state.torch_parameters(model)
    return {
        name: parameter.to_torch(parameter.variable.numpy())
        for name, parameter in parameters.items()
    }


@pytest.fixture(scope="module")
def plain():
    """A network on random weights; not to be changed."""
    model = narrow_mobilenext(width=1.4)
    randomize(model)
    return model


class TestNames:
    @pytest.mark.parametrize(
        ("attention", "theirs"),
        [
            ("coord", "features.1.coord.conv1.weight"),
            ("sk", "features.3.conv.0.paths.1.conv.weight"),
            (["aw", "se"], "features.1.conv.0.pw1.weight, features.6.se.fc2.bias"),
        ],
    )
    def test_a_round_trip_gives_the_same_network(self, attention, theirs):
        source, model = (narrow_mobilenext(attention=attention) for _ in range(2))
        randomize(source)
        x = images(2, 32, 32, 3)
        assert np.abs(model(x) - source(x)).max() > 0.1
        state = torch_state(source)
        assert set(theirs.split(", ")) <= set(state)
        assert ("features.1.conv.0.weight" in state) == (attention != "sk")
        report = weights.load_torch(model, state)
        assert len(report.loaded) == len(model.weights)
        np.testing.assert_array_equal(model(x), source(x))

    def test_of_another_width_and_without_top(self, plain):
        state = torch_state(plain)
        shapes = {name: x.shape for name, x in state.items() if x.ndim > 1}
        assert shapes["features.0.0.weight"] == (48, 3, 3, 3)
        assert shapes["features.1.conv.0.weight"] == (48, 1, 3, 3)
        assert shapes["features.1.conv.3.weight"] == (24, 48, 1, 1)
        assert shapes["features.2.conv.5.weight"] == (48, 1, 3, 3)
        assert shapes["features.4.conv.2.weight"] == (56, 16, 1, 1)
        assert shapes["classifier.1.weight"] == (5, 64)
        # Stem, units and classifier: 4, 3 or 2 convolutions; normalizations have four.
        convs = 1 + 4 * 4 + 3 + 2
        assert len(shapes) == convs + 1
        assert len(state) == convs * 5 + 2
        model = narrow_mobilenext(width=1.4, include_top=False)
        report = weights.load_torch(model, state, strict=False)
        assert report.unexpected == ("classifier.1.weight", "classifier.1.bias")
        assert report.missing == ()
        x = images(2, 32, 32, 3)
        pooled = keras.Model(plain.input, plain.get_layer("head_pool").output)(x)
        np.testing.assert_allclose(model(x).numpy().mean((1, 2)), pooled, rtol=1e-5)

    @pytest.mark.parametrize(
        ("attention", "layer"),
        [
            (["se", "se"], "block_1_attention_2"),
            (
                lambda site: keras.layers.Conv2D(site.channels, 1, name=site.name),
                r"block_1_attention' \(Conv2D\)",
            ),
        ],
    )
    def test_refuses_layers_without_a_name(self, attention, layer):
        with pytest.raises(TypeError, match=f"knows the blocks .* with layer '{layer}"):
            weights.load_torch(narrow_mobilenext(attention=attention), {})

    def test_refuses_other_names(self, plain):
        before = plain.get_weights()
        state = torch_state(plain)
        state["features.2.conv.8.weight"] = state.pop("features.2.conv.5.weight")
        message = (
            r"does not fit model 'mobilenext': missing \['features.2.conv.5.weight'\], "
            r"unexpected \['features.2.conv.8.weight'\]"
        )
        with pytest.raises(ValueError, match=message):
            weights.load_torch(plain, state)
        assert all(map(np.array_equal, before, plain.get_weights()))

"""Where EfficientNets put attention blocks: positions, units, what fits there."""

import keras
import pytest
from support.small_efficientnets import UNITS, narrow_efficientnet
from support.small_networks import images

from keras_attention import SqueezeExcite, names, registry
from keras_attention.layers._grouped_conv import GroupedConv2D
from keras_attention.models import efficientnet, placement

POSITIONS = efficientnet.POSITIONS
PREFIXES = [f"stage_{stage}_unit_{unit}" for stage, unit in UNITS]


def placed(model):
    """Returns the names of the units that blocks are in, e.g. "stage_2_unit_1"."""
    return [
        layer.name.removesuffix("_attention")
        for layer in model.layers
        if layer.name.endswith("_attention")
    ]


def test_se_stands_between_depthwise_convolution_and_projection():
    model = narrow_efficientnet()
    assert placed(model) == PREFIXES
    for prefix in PREFIXES:
        block = model.get_layer(f"{prefix}_attention")
        assert type(block) is SqueezeExcite
        assert block.input is model.get_layer(f"{prefix}_depthwise_act").output
        assert model.get_layer(f"{prefix}_project_conv").input is block.output
    assert placed(narrow_efficientnet(attention=None)) == []
    assert placed(narrow_efficientnet("EfficientNetLite0")) == []


@pytest.mark.parametrize("position", [p for p in POSITIONS if p[:5] == "after"])
def test_positions(position):
    sites = []

    def identity(site):
        sites.append(site)
        return keras.layers.Identity(name=site.name)

    model = narrow_efficientnet(attention=identity, attention_position=position)
    units = UNITS[1:] if position == "after_expand" else UNITS  # 1 does not expand
    assert [(site.stage, site.unit) for site in sites] == units
    assert [site.units for site in sites] == [1 + (s == 2) for s, _ in units]
    present = {layer.name for layer in model.layers}
    for site in sites:
        prefix = f"stage_{site.stage}_unit_{site.unit}"
        assert site.name == f"{prefix}_attention"
        assert (site.backbone, site.position) == ("efficientnet", position)
        project = f"{prefix}_project_bn"
        before = {
            "after_expand": f"{prefix}_expand_act",
            "after_depthwise": f"{prefix}_depthwise_act",
            "after_project": project,
            "after_sum": f"{prefix}_add" if f"{prefix}_add" in present else project,
        }[position]
        layer = model.get_layer(site.name)
        assert layer.input is model.get_layer(before).output
        assert site.shape == layer.output.shape and site.conv is None
        widened = 4 * site.inputs if site.stage > 1 else site.inputs
        if position in ("after_expand", "after_depthwise"):
            assert site.channels == widened
    if position == "after_project":  # inside the branch, before the sum
        add = model.get_layer("stage_2_unit_2_add")
        assert model.get_layer("stage_2_unit_2_attention").output in add.input


@pytest.mark.parametrize(
    ("position", "width"),
    [("after_expand", 4), ("after_depthwise", 4), ("after_project", 4)],
)
def test_se_squeezes_to_a_quarter_of_the_units_input(position, width):
    model = narrow_efficientnet(attention_position=position)
    # 16 channels in, 64 inside and 24 out
    assert model.get_layer("stage_3_unit_1_attention").reduce.filters == width
    given = narrow_efficientnet(attention={"name": "se", "reduction": 8})
    block = given.get_layer("stage_3_unit_1_attention")
    assert block.reduce.filters == 8
    assert keras.activations.serialize(block.activation) == "silu"


def test_a_callable_takes_the_place_of_the_depthwise_convolution():
    sites = []

    def make(site):
        sites.append(site)
        return GroupedConv2D(**site.conv, name=site.name)

    model = narrow_efficientnet(attention=make, attention_position="replace_spatial")
    plain = narrow_efficientnet(attention=None)
    assert model.count_params() == plain.count_params()
    assert "stage_2_unit_1_depthwise_conv" not in {x.name for x in model.layers}
    for site in sites:
        prefix = f"stage_{site.stage}_unit_{site.unit}"
        conv = plain.get_layer(f"{prefix}_depthwise_conv")
        assert site.conv == {
            "filters": site.channels,
            "kernel_size": conv.kernel_size[0],
            "strides": conv.strides[0],
            "padding": "same",
            "groups": site.channels,
            "use_bias": False,
        }
        layer = model.get_layer(f"{prefix}_attention")
        assert layer.output.shape == conv.output.shape
        assert model.get_layer(f"{prefix}_depthwise_bn").input is layer.output


@pytest.mark.parametrize("name", names())
def test_every_block_has_its_place_in_every_unit(name):
    model = narrow_efficientnet("EfficientNetLite0", attention=name)
    assert placed(model) == PREFIXES
    for prefix in PREFIXES:
        block = model.get_layer(f"{prefix}_attention")
        assert type(block) is registry.class_of(name)
        if name in placement.REPLACING:
            behind = model.get_layer(f"{prefix}_depthwise_bn")
            assert behind.input is block.output
        else:
            assert block.input is model.get_layer(f"{prefix}_depthwise_act").output


def test_blocks_of_a_list_are_numbered():
    model = narrow_efficientnet(attention=["aw", "se"])
    layers = {layer.name: type(layer).__name__ for layer in model.layers}
    assert layers["stage_2_unit_1_attention_1"] == "AWConv2D"
    assert layers["stage_2_unit_1_attention_2"] == "SqueezeExcite"
    assert model(images(2, 32, 32, 3), training=True).shape == (2, 5)


def test_names_positions_and_blocks():
    table = placement.PLACEMENT["efficientnet"]
    assert set(table.values()) <= set(POSITIONS)
    assert set(table) - {None} <= set(names())


@pytest.mark.parametrize(
    ("attention", "position", "message"),
    [
        ("coord", "replace_spatial", "'coord' can not take the place"),
        ("aw", "after_project", "'aw' can only take the place.*after_project"),
        (["aw", "sk"], None, "only one block can take the place.*received 2"),
        (lambda site: None, None, "return a keras.layers.Layer.*None.*stage_1"),
    ],
)
def test_refuses_what_does_not_fit(attention, position, message):
    with pytest.raises(ValueError, match=message):
        narrow_efficientnet(attention=attention, attention_position=position)

"""Where ResNets put attention blocks: positions, units, stages."""

import keras
import pytest
from support.small_networks import images, narrow_resnet

from keras_attention import GlobalContext, models, names, registry
from keras_attention.layers._grouped_conv import GroupedConv2D
from keras_attention.models import placement, resnet

POSITIONS = resnet.POSITIONS
AFTER_UNITS = ("after_spatial", "after_project", "after_sum")


def placed(model):
    """Returns the names of the places that blocks are in, e.g. "stage_2_unit_1"."""
    return [
        layer.name.removesuffix("_attention")
        for layer in model.layers
        if layer.name.endswith("_attention")
    ]


def spied(build, position, **arguments):
    """Returns a network with a layer that does nothing at a position, and its sites."""
    sites = []

    def identity(site):
        sites.append(site)
        return keras.layers.Identity(name=site.name)

    arguments |= {"attention": identity, "attention_position": position}
    return narrow_resnet(build, **arguments), sites


class TestPositions:
    @pytest.mark.parametrize("position", AFTER_UNITS)
    @pytest.mark.parametrize(
        ("build", "before"),
        [
            ("ResNet50", ("relu_2", "bn_3", "relu")),
            ("ResNet18", ("bn_2", "bn_2", "relu")),
        ],
    )
    def test_in_units(self, build, before, position):
        model, sites = spied(build, position)
        units = [(1, 1, 2), (1, 2, 2), (2, 1, 1), (3, 1, 1), (4, 1, 1)]
        assert [(site.stage, site.unit, site.units) for site in sites] == units
        for site in sites:
            prefix = f"stage_{site.stage}_unit_{site.unit}"
            assert site.name == f"{prefix}_attention"
            assert (site.backbone, site.position) == ("resnet", position)
            layer = model.get_layer(site.name)
            role = before[AFTER_UNITS.index(position)]
            assert layer.input is model.get_layer(f"{prefix}_{role}").output
            assert site.shape == layer.output.shape and site.conv is None
            if position == "after_project":  # inside the branch, before the sum
                assert layer.output in model.get_layer(f"{prefix}_add").input

    def test_after_stages(self):
        model, sites = spied("ResNet50", "after_stage")
        assert [(site.stage, site.unit, site.units) for site in sites] == [
            (1, 2, 2), (2, 1, 1), (3, 1, 1), (4, 1, 1)
        ]  # fmt: skip
        for site in sites:
            assert site.name == f"stage_{site.stage}_attention"
            last = model.get_layer(f"stage_{site.stage}_unit_{site.unit}_relu")
            layer = model.get_layer(site.name)
            assert layer.input is last.output
            if site.stage < 4:
                behind = model.get_layer(f"stage_{site.stage + 1}_unit_1_conv_1")
                assert behind.input is layer.output

    @pytest.mark.parametrize(
        ("build", "strided", "groups"),
        [("ResNet50", True, 1), ("ResNeXt50", True, 2), ("ResNet18", False, 1)],
    )
    def test_a_callable_takes_the_place_of_the_last_3x3(self, build, strided, groups):
        sites = []

        def make(site):
            sites.append(site)
            return GroupedConv2D(**site.conv, name=site.name)

        model = narrow_resnet(
            build, attention=make, attention_position="replace_spatial"
        )
        plain = narrow_resnet(build)
        assert model.count_params() == plain.count_params()
        assert "stage_2_unit_1_conv_2" not in {layer.name for layer in model.layers}
        behind = model.get_layer("stage_2_unit_1_bn_2")
        assert behind.input is model.get_layer("stage_2_unit_1_attention").output
        assert sites[2].conv == {
            "filters": sites[2].channels,
            "kernel_size": 3,
            "strides": 2 if strided else 1,
            "padding": "valid" if strided else "same",  # behind symmetric padding
            "groups": groups,
            "use_bias": False,
        }
        assert model(images(2, 32, 32, 3)).shape == (2, 5)

    def test_blocks_of_a_list_are_numbered(self):
        model = narrow_resnet(attention=["aw", "se", "bam"])
        layers = {layer.name: type(layer).__name__ for layer in model.layers}
        assert layers["stage_2_unit_1_attention_1"] == "AWConv2D"
        assert layers["stage_2_unit_1_attention_2"] == "SqueezeExcite"
        assert layers["stage_2_attention_3"] == "BAM"


def units(*stages):
    """Returns the prefixes of units: `stages` are lists of their numbers."""
    return [
        f"stage_{stage}_unit_{unit}"
        for stage, numbers in enumerate(stages, 1)
        for unit in numbers
    ]


ALL = units(range(1, 4), range(1, 5), range(1, 7), range(1, 4))
FIVE = units([], [2, 4], [2, 4, 6], [])
PLACES = {
    "gc": ALL[3:],
    "nl": FIVE,
    "a2": FIVE,
    "sp": units([3], [4], [6], [1, 2, 3]),
    "bam": ["stage_1", "stage_2", "stage_3"],
}


class TestTable:
    @pytest.mark.parametrize("name", names())
    def test_every_block_has_its_units(self, name):
        """On maps of 8 to 1 positions a side; in ResNet-50, if not in all of them."""
        counts = (3, 4, 6, 3) if name in PLACES else (1, 2, 1, 1)
        model = narrow_resnet(units=counts, channels=(8, 12, 16, 24), attention=name)
        assert placed(model) == PLACES.get(name, units([1], [1, 2], [1], [1]))
        for layer in model.layers:
            if layer.name.endswith("_attention"):
                assert type(layer) is registry.class_of(name)
                if name in placement.REPLACING:
                    place = "_bn_2"
                else:
                    place = {"bam": "_relu", "simam": "_relu_2", "sp": "_relu_2"}
                    place = place.get(name, "_bn_3")
                prefix = layer.name.removesuffix("_attention")
                if name == "bam":
                    prefix += f"_unit_{(3, 4, 6)[int(prefix[-1]) - 1]}"
                other = model.get_layer(prefix + place)
                if name in placement.REPLACING:
                    assert other.input is layer.output
                else:
                    assert layer.input is other.output

    @pytest.mark.parametrize(
        ("build", "stages"),
        [
            ("ResNet101", ([], [2, 4], [7, 14, 21], [])),
            ("ResNet152", ([], [4, 8], [12, 24, 36], [])),
            ("ResNet18", ([], [2], [2], [])),
        ],
    )
    def test_non_local_blocks_are_spread_over_deep_stages(self, build, stages):
        sites = [
            models.Site("", "resnet", "", unit, (), stage=stage, units=count)
            for stage, count in enumerate(resnet.FAMILIES[build].units, 1)
            for unit in range(1, count + 1)
        ]
        assert [
            f"stage_{site.stage}_unit_{site.unit}"
            for site in sites
            if placement.is_place("nl", site)
        ] == units(*stages)

    def test_a_position_asked_for_means_every_unit(self):
        position = {"attention_position": "after_project"}
        for name in ("gc", "bam"):
            model = narrow_resnet(attention=name, **position)
            assert placed(model) == units([1, 2], [1], [1], [1])

    def test_a_class_goes_where_its_name_does(self):
        model = narrow_resnet(attention=GlobalContext)
        assert placed(model) == units([], [1], [1], [1])

    def test_names_positions_and_blocks(self):
        table = placement.PLACEMENT["resnet"]
        assert set(table.values()) <= set(POSITIONS)
        assert set(table) - {None} <= set(names())
        assert set(placement.UNITS) <= set(placement.PLACEMENT)
        assert set(placement.UNITS["resnet"]) <= set(names())

    def test_blocks_are_made_to_fit(self):
        model = models.ResNet18((32, 32, 3), 5, attention=["sa", "sk"])
        # half the channels of shuffle attention; the 3x3's of selective kernels
        for stage, most in ((1, 32), (2, 64), (3, 64), (4, 64)):
            shuffle = model.get_layer(f"stage_{stage}_unit_1_attention_1")
            assert shuffle.groups == most
            kernel = model.get_layer(f"stage_{stage}_unit_1_attention_2")
            assert kernel.groups == 32
        bottleneck = narrow_resnet(channels=(32, 48, 64, 96), attention="sk")
        first = bottleneck.get_layer("stage_2_unit_1_attention")
        assert (first.groups, first.strides) == (24, 2)

    @pytest.mark.parametrize(
        ("attention", "position", "message"),
        [
            ("coord", "replace_spatial", "'coord' can not take the place"),
            ("aw", "after_project", "'aw' can only take the place.*after_project"),
            (["aw", "sk"], None, "only one block can take the place.*received 2"),
            (lambda site: None, None, "return a keras.layers.Layer.*None.*stage_1"),
        ],
    )
    def test_refuses_what_does_not_fit(self, attention, position, message):
        with pytest.raises(ValueError, match=message):
            narrow_resnet(attention=attention, attention_position=position)

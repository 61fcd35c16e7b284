"""Where builders put attention blocks, and how these are named."""

import keras
import numpy as np
import pytest
from support.small_networks import SMALL, images

from keras_attention import (
    AWConv2D,
    CoordAttention,
    EfficientMultiScaleAttention,
    models,
    names,
    registry,
)
from keras_attention.models import _attention, mobilenet_v2, placement

POSITIONS = mobilenet_v2.POSITIONS


class TestAttention:
    def test_coord_stands_behind_each_depthwise_convolution(self, small):
        blocks = [x for x in small.layers if isinstance(x, CoordAttention)]
        assert [block.name for block in blocks] == [
            f"block_{unit}_attention" for unit in range(2, 18)
        ]
        for unit, block in enumerate(blocks, 2):
            before = small.get_layer(f"block_{unit}_depthwise_relu")
            behind = small.get_layer(f"block_{unit}_project_conv")
            assert block.input is before.output
            assert behind.input is block.output

    @pytest.mark.parametrize("position", [p for p in POSITIONS if p[:5] == "after"])
    def test_positions(self, position):
        sites = []

        def identity(site):
            sites.append(site)
            return keras.layers.Identity(name=site.name)

        model = models.MobileNetV2(
            **SMALL, attention=identity, attention_position=position
        )
        assert [site.unit for site in sites] == list(range(2, 18))
        assert {site.position for site in sites} == {position}
        assert {site.backbone for site in sites} == {"mobilenet_v2"}
        names = {layer.name for layer in model.layers}
        for site in sites:
            prefix = f"block_{site.unit}"
            project = f"{prefix}_project_bn"
            before = {
                "after_expand": f"{prefix}_expand_relu",
                "after_depthwise": f"{prefix}_depthwise_relu",
                "after_project": project,
                "after_sum": f"{prefix}_add" if f"{prefix}_add" in names else project,
            }[position]
            layer = model.get_layer(site.name)
            assert layer.input is model.get_layer(before).output
            assert site.shape == layer.output.shape
            assert site.channels == layer.output.shape[-1]
            assert site.conv is None
        if position == "after_project":  # inside the branch, not behind the sum
            add = model.get_layer("block_3_add")
            assert model.get_layer("block_3_attention").output in add.input

    @pytest.mark.parametrize("attention", ["aw", AWConv2D])
    def test_aw_takes_the_place_of_the_depthwise_convolution(self, attention):
        model = models.MobileNetV2(**SMALL, attention=attention)
        blocks = [x for x in model.layers if isinstance(x, AWConv2D)]
        assert [b.name for b in blocks] == [
            f"block_{n}_attention" for n in range(2, 18)
        ]
        names = {layer.name for layer in model.layers}
        assert {f"block_{n}_depthwise_conv" for n in range(1, 18)} & names == {
            "block_1_depthwise_conv"  # of the unit that does not expand
        }
        plain = models.MobileNetV2(**SMALL)
        for unit, block in enumerate(blocks, 2):
            conv = plain.get_layer(f"block_{unit}_depthwise_conv")
            assert block.output.shape == conv.output.shape
            assert block.groups == block.filters == conv.input.shape[-1]
            assert block.strides == conv.strides and block.padding == conv.padding
            assert not block.use_bias
            behind = model.get_layer(f"block_{unit}_depthwise_bn")
            assert behind.input is block.output
        model(images(2, 32, 32, 3), training=True)

    def test_a_callable_takes_the_place_of_the_depthwise_convolution(self):
        sites = []

        def make(site):
            sites.append(site)
            return keras.layers.Conv2D(**site.conv, name=site.name)

        model = models.MobileNetV2(
            **SMALL, attention=make, attention_position="replace_spatial"
        )
        plain = models.MobileNetV2(**SMALL)
        assert model.count_params() == plain.count_params()
        assert sites[0].conv == {
            "filters": sites[0].channels,
            "kernel_size": 3,
            "strides": 2,
            "padding": "valid",  # behind symmetric padding
            "groups": sites[0].channels,
            "use_bias": False,
        }

    def test_blocks_are_made_to_fit(self):
        model = models.MobileNetV2((32, 32, 3), 5, attention="ema")
        groups = {
            layer.output.shape[-1]: layer.groups
            for layer in model.layers
            if isinstance(layer, EfficientMultiScaleAttention)
        }
        assert groups == {96: 32, 144: 24, 192: 32, 384: 32, 576: 32, 960: 32}
        ema = {"name": "ema", "groups": 8}
        for value in (ema, lambda site: EfficientMultiScaleAttention(8)):
            model = models.MobileNetV2((32, 32, 3), 5, attention=value)
            found = {x.groups for x in model.layers if hasattr(x, "pointwise")}
            assert found == {8}

    @pytest.mark.parametrize("name", names())
    def test_every_block_fits_every_width(self, name):
        """In its own place, on maps of 32 to 1 positions a side."""
        model = models.MobileNetV2((32, 32, 3), 5, width=0.75, attention=name)
        blocks = [x for x in model.layers if x.name.endswith("_attention")]
        assert [type(x) for x in blocks] == [registry.class_of(name)] * 16
        plain = models.MobileNetV2((32, 32, 3), 5, width=0.75)
        shared = [x for x in plain.layers if not x.name.endswith(("_conv", "_pad"))]
        for layer in shared:
            assert model.get_layer(layer.name).output.shape == layer.output.shape

    @pytest.mark.parametrize(
        ("attention", "position", "message"),
        [
            ("coord", "replace_spatial", "'coord' can not take the place"),
            ("aw", "after_depthwise", "'aw' can only take the place.*after_depthwise"),
            (["aw", "aw"], None, "only one block can take the place.*received 2"),
            ({"name": "ema", "groups": 32}, None, "groups"),
        ],
    )
    def test_refuses_what_does_not_fit(self, attention, position, message):
        with pytest.raises(ValueError, match=message):
            models.MobileNetV2(
                (32, 32, 3), 5, attention=attention, attention_position=position
            )

    def test_every_way_to_name_a_block(self):
        class Gate(keras.layers.Layer):
            def call(self, x):
                return x

        def blocks(value):
            x = keras.Input((4, 4, 64))
            attention = _attention.Attention(
                value, None, backbone="mobilenet_v2", positions=POSITIONS
            )
            assert attention(x, "after_sum", unit=2, prefix="block_2") is x
            y = attention(x, "after_depthwise", unit=2, prefix="block_2")
            return [
                (layer.name, type(layer), getattr(layer, "reduction", None))
                for layer in keras.Model(x, y).layers[1:]
            ]

        coord = [("block_2_attention", CoordAttention, 32)]
        assert blocks(None) == blocks([]) == []
        assert blocks("coord") == blocks(["coord"]) == coord
        assert blocks({"name": "coord"}) == blocks(CoordAttention) == coord
        coord16 = [("block_2_attention", CoordAttention, 16)]
        assert blocks({"name": "coord", "reduction": 16}) == coord16
        assert blocks(lambda site: CoordAttention(16, name=site.name)) == coord16
        assert blocks([Gate, "coord"]) == [
            ("block_2_attention_1", Gate, None),
            ("block_2_attention_2", CoordAttention, 32),
        ]

    def test_live_attention_changes_the_logits(self, small):
        """Fixing the gates at 1/4, their initial product, changes the output."""
        plain = models.MobileNetV2(
            **SMALL, attention=lambda site: keras.layers.Rescaling(0.25, name=site.name)
        )
        for layer in plain.layers:
            if layer.weights:
                layer.set_weights(small.get_layer(layer.name).get_weights())
        x = images(8, 32, 32, 3)
        y = small(x).numpy()
        assert np.abs(plain(x) - y).max() >= 0.05 * np.abs(y).max()

    def test_placement_table_names_positions(self):
        assert set(placement.PLACEMENT["mobilenet_v2"].values()) <= set(POSITIONS)
        assert placement.position_of("mobilenet_v2", "coord") == "after_depthwise"
        assert placement.position_of("mobilenet_v2", None) == "after_depthwise"

    def test_table_decides_where_no_position_is_given(self, monkeypatch):
        table = {"mobilenet_v2": {None: "after_sum", "coord": "after_expand"}}
        monkeypatch.setattr(placement, "PLACEMENT", table)
        sites = []

        def spy(site):
            sites.append(site.position)
            return keras.layers.Identity()

        attention = ["coord", CoordAttention, keras.layers.Identity, spy]
        model = models.MobileNetV2(**SMALL, attention=attention)
        for number, before in enumerate(
            ("expand_relu", "attention_1", "project_bn"), 1
        ):
            layer = model.get_layer(f"block_2_attention_{number}")
            assert layer.input is model.get_layer(f"block_2_{before}").output
        assert sites == ["after_sum"] * 16

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("cord", "unknown attention name 'cord'.*did you mean 'coord'"),
            ({"reduction": 4}, "unknown attention name None"),
            (3, "attention must be None, a registry name.*received 3"),
            (CoordAttention(), "attention must be None.*<CoordAttention"),
            (["coord", None], "attention must be None.*received None"),
            (lambda site: None, "must return a keras.layers.Layer.*None.*block_2"),
            ({"name": "coord", "reduction": 0}, "reduction must be a positive"),
        ],
    )
    def test_refuses(self, value, message):
        with pytest.raises(ValueError, match=message):
            models.MobileNetV2(**SMALL, attention=value)

    def test_refuses_a_position(self):
        message = "attention_position must be.*after_expand.*received 'before'"
        with pytest.raises(ValueError, match=message):
            models.MobileNetV2(**SMALL, attention_position="before")

    def test_site_is_exported_for_annotations(self):
        assert models.Site is _attention.Site

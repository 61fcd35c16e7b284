"""Where MobileNeXt puts attention blocks, and its way to a phone with them."""

import keras
import numpy as np
import pytest
from support.comparing import relative_error
from support.mobile_nets import images as photos
from support.mobile_nets import scaled, settle
from support.small_mobilenext import NO_FIRST, STAGES, narrow_mobilenext
from support.small_networks import randomize

from keras_attention import AWConv2D, mobile, names, registry
from keras_attention.models import mobilenext, placement

ALL = list(range(1, 7))
WITH_FIRST = [unit for unit in ALL if unit not in NO_FIRST]
UNITS = {"after_depthwise": WITH_FIRST, "replace_spatial": WITH_FIRST}


def before(position, unit, names):
    """The name of the layer behind which a block stands, by the last that is there."""
    ends = {
        "after_depthwise": ("depthwise_1_relu",),
        "after_expand": ("expand_relu",),
        "after_project": ("depthwise_2_bn", "expand_relu"),
        "after_sum": ("add", "depthwise_2_bn", "expand_relu"),
    }[position]
    return next(n for end in ends if (n := f"block_{unit}_{end}") in names)


@pytest.fixture(scope="module")
def plain():
    """A network without attention; not to be changed."""
    return narrow_mobilenext()


class TestPositions:
    @pytest.mark.parametrize("position", mobilenext.POSITIONS)
    def test_positions(self, position, plain):
        sites = []

        def make(site):
            sites.append(site)
            if site.conv:
                return keras.layers.Conv2D(**site.conv, name=site.name)
            return keras.layers.Identity(name=site.name)

        model = narrow_mobilenext(attention=make, attention_position=position)
        assert model.count_params() == plain.count_params()
        assert [site.unit for site in sites] == UNITS.get(position, ALL)
        assert {site.position for site in sites} == {position}
        assert {site.backbone for site in sites} == {"mobilenext"}
        layers = {layer.name for layer in model.layers}
        for site in sites:
            layer = model.get_layer(site.name)
            assert site.name == f"block_{site.unit}_attention"
            if position == "replace_spatial":
                replaced = plain.get_layer(f"block_{site.unit}_depthwise_1_conv")
                assert site.conv == {
                    "filters": site.channels,
                    "kernel_size": 3,
                    "strides": 1,
                    "padding": "same",
                    "groups": site.channels,
                    "use_bias": False,
                }
                assert layer.input.shape == replaced.input.shape
                behind = model.get_layer(f"block_{site.unit}_depthwise_1_bn")
                assert behind.input is layer.output
                continue
            behind = before(position, site.unit, layers)
            assert layer.input is model.get_layer(behind).output
            assert site.shape == layer.output.shape and site.conv is None
        if position == "after_project":  # inside the branch, not behind the sum
            add = model.get_layer("block_3_add")
            assert model.get_layer("block_3_attention").output in add.input
        if position == "after_depthwise":  # before the reducing convolution
            reduce = model.get_layer("block_3_reduce_conv")
            assert reduce.input is model.get_layer("block_3_attention").output

    @pytest.mark.parametrize("name", names())
    def test_every_block_stands_behind_the_first_depthwise_convolution(self, name):
        """Or in its place; on maps of 8 and 2 positions a side."""
        model = narrow_mobilenext(STAGES[:2], input_shape=(16, 16, 3), attention=name)
        blocks = [x for x in model.layers if x.name.endswith("_attention")]
        assert [block.name for block in blocks] == [
            "block_1_attention",
            "block_3_attention",
        ]
        for unit, block in zip((1, 3), blocks, strict=True):
            assert type(block) is registry.class_of(name)
            assert block.output.shape == block.input.shape
            if name in placement.REPLACING:
                behind = model.get_layer(f"block_{unit}_depthwise_1_bn")
                assert behind.input is block.output
            else:
                relu = model.get_layer(f"block_{unit}_depthwise_1_relu")
                assert block.input is relu.output

    def test_aw_is_depthwise_like_what_it_replaces(self):
        model = narrow_mobilenext(STAGES[:2], attention=["aw", "coord"])
        blocks = [x for x in model.layers if isinstance(x, AWConv2D)]
        assert [x.name for x in blocks] == [f"block_{n}_attention_1" for n in (1, 3)]
        for block in blocks:
            assert block.groups == block.filters == block.input.shape[-1]
            assert block.strides == (1, 1) and not block.use_bias
        behind = model.get_layer("block_1_attention_2")
        assert behind.input is model.get_layer("block_1_depthwise_1_relu").output

    @pytest.mark.parametrize(
        ("attention", "position", "message"),
        [
            ("coord", "replace_spatial", "'coord' can not take the place"),
            ("aw", "after_depthwise", "'aw' can only take the place.*after_depthwise"),
            (["aw", "sk"], None, "only one block can take the place.*received 2"),
            ({"name": "ema", "groups": 7}, None, "groups must divide"),
            (
                lambda site: None,
                None,
                "must return a keras.layers.Layer.*None.*block_1",
            ),
        ],
    )
    def test_refuses_what_does_not_fit(self, attention, position, message):
        with pytest.raises(ValueError, match=message):
            narrow_mobilenext(attention=attention, attention_position=position)

    def test_placement_table_names_positions(self):
        table = placement.PLACEMENT["mobilenext"]
        assert set(table.values()) <= set(mobilenext.POSITIONS)
        assert set(table) - {None} <= set(names())


@pytest.fixture(scope="module")
def data():
    return scaled(photos(64, 32))


@pytest.fixture(scope="module")
def model(data):
    """A live network; without its blocks it gives something else."""
    model = narrow_mobilenext(attention={"name": "coord", "reduction": 4})
    randomize(model)
    settle(model, data)
    bias = model.get_layer("classifier").bias  # of logits that differ by image
    bias.assign(bias - keras.ops.mean(model(data), 0))
    plain = narrow_mobilenext(
        # 1/4: the product of two gates at 1/2
        attention=lambda site: keras.layers.Rescaling(0.25, name=site.name)
    )
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    assert relative_error(plain(data), model(data)) >= 0.05
    return model


class TestMobile:
    def test_deploys(self, model, data):
        deployed = mobile.deploy(model)
        assert relative_error(deployed(data), model(data)) <= 1e-5
        for layer in deployed.layers[1:]:  # behind the image input, which is ours
            assert type(layer).__module__.startswith("keras.")
            assert not isinstance(layer, keras.layers.BatchNormalization)

    def test_becomes_an_int8_file(self, model, data, tmp_path):
        quantized = mobile.quantize(model, data[:32])
        report = mobile.convert(quantized, tmp_path / "net.tflite")
        assert set(report.dtypes) == {"int8", "int32"}
        labels = np.asarray(model(data)).argmax(-1)
        assert len(np.unique(labels)) == 5
        result = mobile.verify(report.path, against=quantized, data=(data, labels))
        # of 64; nets on random weights amplify single steps, and some logits are equal
        assert result.argmax_agreement >= 0.85

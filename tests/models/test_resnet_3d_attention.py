"""Where ResNets of video put attention blocks, and which of them they take."""

import keras
import numpy as np
import pytest
from support.small_networks import images, randomize
from support.small_resnet_3d import CLIP, narrow_resnet_3d

from keras_attention import names, registry
from keras_attention.models import placement, resnet_3d

VIDEO = ("a2", "eca", "gc", "nl", "se", "simam")


@pytest.fixture(scope="module")
def plain():
    """A narrow network without attention; its weights are set where they matter."""
    return narrow_resnet_3d()


class TestAttention:
    @pytest.mark.parametrize("position", resnet_3d.POSITIONS)
    def test_positions(self, position, plain):
        sites = []

        def make(site):
            sites.append(site)
            if site.conv:
                return keras.layers.Conv3D(**site.conv, name=site.name)
            return keras.layers.Identity(name=site.name)

        model = narrow_resnet_3d(attention=make, attention_position=position)
        assert model.count_params() == plain.count_params()
        units = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (4, 1)]
        if position == "after_stage":
            units = [(1, 2), (2, 2), (3, 1), (4, 1)]
        assert [(site.stage, site.unit) for site in sites] == units
        role = {
            "after_spatial": "relu_2",
            "after_project": "bn_3",
            "after_sum": "relu",
            "after_stage": "relu",
        }.get(position)
        for site in sites:
            assert (site.backbone, site.position) == ("resnet_3d", position)
            assert len(site.shape) == 5
            prefix = f"stage_{site.stage}_unit_{site.unit}"
            layer = model.get_layer(site.name)
            if role:
                assert layer.input is model.get_layer(f"{prefix}_{role}").output
            else:
                behind = model.get_layer(f"{prefix}_bn_2")
                assert behind.input is layer.output
        if position == "replace_spatial":
            assert sites[0].conv == {
                "filters": 4,
                "kernel_size": (3, 3, 3),
                "strides": (2, 1, 1),
                "padding": "valid",  # behind symmetric padding
                "groups": 1,
                "use_bias": False,
            }
            assert sites[1].conv["padding"] == "same"
            assert model(images(2, *CLIP)).shape == (2, 5)

    @pytest.mark.parametrize("name", VIDEO)
    def test_blocks_of_video(self, name, plain):
        """In their own places; on random weights they change the logits."""
        model = narrow_resnet_3d(attention=name)
        blocks = [x for x in model.layers if x.name.endswith("_attention")]
        assert {type(x) for x in blocks} == {registry.class_of(name)}
        stages = {"a2": (2,), "nl": (2,), "gc": (2, 2, 3, 4)}
        expected = stages.get(name, (1, 1, 2, 2, 3, 4))
        assert tuple(int(x.name[6]) for x in blocks) == expected
        randomize(model)
        for layer in plain.layers:  # random weights, too
            if layer.weights:
                layer.set_weights(model.get_layer(layer.name).get_weights())
        x = images(4, *CLIP)
        y = model(x).numpy()
        assert np.abs(plain(x) - y).max() >= 0.05 * np.abs(y).max()

    @pytest.mark.parametrize("name", sorted(set(names()) - set(VIDEO)))
    def test_blocks_of_images(self, name):
        message = r"'stage_1_unit_1_attention' needs an input of rank 4 \(batch, two"
        if name in placement.REPLACING:
            message = f"attention '{name}' is a convolution of images.*_1_attention'"
        with pytest.raises(ValueError, match=message):
            narrow_resnet_3d(attention=name)

    def test_placement_table_names_positions_and_blocks(self):
        table = placement.PLACEMENT["resnet_3d"]
        assert set(table.values()) <= set(resnet_3d.POSITIONS)
        assert (set(table) - {None}) | set(placement.UNITS["resnet_3d"]) <= set(names())

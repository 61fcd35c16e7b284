"""Blocks in networks of `keras.applications`: all of the way to a phone.

All blocks, each in all units of its own, are in tests/nightly.
"""

import pytest
from support.keras_networks import NETWORKS, blocks, check_every_step, keras_network

from keras_attention import registry
from keras_attention.models import insert

BLOCKS = ("coord", "ema", "se", "aw")
# Each block in some units of its own, since it is nodes that take time in conversion;
# those of EfficientNetV2 with a fused one, those of MobileNetV2 and ResNet50 with one
# whose convolution has a stride.
SOME = {
    "mobilenet_v2": {
        "coord": "block_(2|13)_depthwise_relu",
        "ema": "block_(5|14)_depthwise_relu",
        "se": "block_(8|15)_depthwise_relu",
        "aw": "block_(6|16)_depthwise",
    },
    "resnet": {
        "coord": "conv[25]_block1_3_bn",
        "ema": "conv[35]_block2_3_bn",
        "se": "conv[45]_block3_3_bn",
        "aw": "conv[24]_block1_2_conv",
    },
    "efficientnet": {
        "coord": "block2b_expand_activation|block6b_se_excite",
        "ema": "block3a_expand_activation|block6c_se_excite",
        "se": "block3b_expand_activation|block5a_se_excite",
        "aw": "block2a_expand_conv|block6d_dwconv2",
    },
}


@pytest.mark.parametrize("preset", NETWORKS)
def test_from_training_to_int8(preset, tmp_path):
    """The four blocks in one network."""
    original = result = keras_network(preset)
    for block in BLOCKS:
        result = insert(result, block, at=SOME[preset][block], warm_start=True)
    kinds = [registry.name_of(type(layer)) for layer in blocks(result)]
    assert sorted(kinds) == sorted(2 * BLOCKS)
    check_every_step(result, original, tmp_path)

"""Every normalization of Keras as an int8 file, on inputs that are hard to hold."""

import pytest
from keras import layers, ops
from support.deploy_suite import inputs
from support.operation_files import measured

NORMALIZATIONS = {
    "batch": layers.BatchNormalization(),
    "layer": layers.LayerNormalization(),
    "layer, two axes": layers.LayerNormalization((2, 3)),
    "layer, all axes": layers.LayerNormalization((1, 2, 3), center=False),
    "layer, bare": layers.LayerNormalization(center=False, scale=False),
    "root mean square": layers.RMSNormalization(),
    "unit": layers.UnitNormalization(),
    "operation": lambda x: ops.normalize(x, axis=-1),
    "group": layers.GroupNormalization(4),
    "one group": layers.GroupNormalization(1),
    "instance": layers.GroupNormalization(-1),
    "sequence, group": lambda x: layers.GroupNormalization(4)(
        ops.reshape(x, (-1, 48, 16))
    ),
    "sequence, layer": lambda x: layers.LayerNormalization()(
        ops.reshape(x, (-1, 48, 16))
    ),
    "vector, layer": lambda x: layers.LayerNormalization()(ops.mean(x, axis=(1, 2))),
}


ALL = {"EXP", "LOG", "MAXIMUM", "MUL"}


@pytest.mark.parametrize("kind", ["normal", "dead", "weak"])
def test_file(kind, tmp_path):
    data = inputs((16, 8, 6, 16))[kind]
    for name, found in measured(NORMALIZATIONS, data, tmp_path).items():
        if name == "batch":
            assert found.operators == {"DEPTHWISE_CONV_2D"}
        else:
            assert ALL <= found.operators, name
        # As for the blocks that normalize: ten to twenty operations behind each other.
        assert found.file <= 4.1 and found.error <= 0.05, (name, found)

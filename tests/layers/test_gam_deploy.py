"""GAM: its mobile form, and the int8 files of it."""

import json

import keras
import numpy as np
import pytest
from reference import gam as reference
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import GAM, mobile
from keras_attention.layers._gam_mobile import ShuffledBlockDiagonal


class Block(Suite):
    layer_class = GAM
    channels = 16
    cases = ({}, {"reduction": 2, "channel_gate": None, "groups": 4})


class TestDeploy(Block, Deploy):
    @pytest.mark.parametrize("groups", [1, 4])
    def test_gates_are_live(self, groups):
        layer, weights = self.live((2, 8, 9, 16), groups=groups, name="gam")
        x = features(2, 8, 9, 16)
        model = deployed(layer, x.shape[1:])
        roles = ("channel", "spatial")
        gates = [model.get_layer(f"gam_gate_{role}").output for role in roles]
        gates = [np.asarray(gate) for gate in keras.Model(model.input, gates)(x)]
        for gate in gates:
            assert gate.std() >= 0.05 * gate.mean()
            # Over the map, too, not from channel to channel only.
            assert gate.std((1, 2)).mean() >= 0.05 * gate.mean()
        first = reference.channel_gates(x.astype("float64"), weights)
        assert difference(gates[0], first) <= CLOSE
        second = reference.spatial_gates(x * first, weights, groups=groups)
        assert difference(gates[1], second) <= CLOSE
        assert difference(x, model(x)) >= 0.05

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 16), groups=2, name="gam")
        layer.channel_reduce.trainable = layer.spatial_expand.trainable = False
        model = deployed(layer, (8, 8, 16))
        trained = {inner.name for inner in model.layers if inner.trainable_weights}
        assert trained == {"gam_channel_expand", "gam_spatial_reduce"}

    def test_groups_stay_apart_in_training(self):
        """Zeros between the groups, shuffled or not, under quantization too."""
        shape = (4, 6, 5, 16)
        layer, _ = live(GAM(groups=2, name="gam"), shape)
        x = features(*shape)
        quantized = mobile.quantize(deployed(layer, shape[1:]), x)
        quantized.compile("adam", "mse")
        kernels = {v.path: v for v in quantized.weights if v.name == "kernel"}
        (reduce,) = (v for k, v in kernels.items() if "spatial_reduce" in k)
        (expand,) = (v for k, v in kernels.items() if "spatial_expand" in k)
        before = np.asarray(reduce), np.asarray(expand)
        quantized.fit(x, features(*shape, seed=2), verbose=0)
        assert difference(reduce, before[0]) > 1e-4
        assert difference(expand, before[1]) > 1e-4
        inputs, outputs = np.ix_(range(16), range(4))
        apart = inputs // 8 != outputs // 2
        assert (np.asarray(reduce)[:, :, apart] == 0).all()
        assert (np.asarray(reduce)[:, :, ~apart] != 0).all()
        inputs, outputs = np.ix_(range(4), range(16))
        apart = inputs // 2 != outputs % 2  # dealt out in turn
        assert (np.asarray(expand)[:, :, apart] == 0).all()
        assert (np.asarray(expand)[:, :, ~apart] != 0).all()

    def test_constraint_is_restored(self):
        config = keras.constraints.serialize(ShuffledBlockDiagonal(3))
        again = keras.constraints.deserialize(json.loads(json.dumps(config)))
        assert type(again) is ShuffledBlockDiagonal and again.groups == 3


class TestInt8(Block, Int8):
    channels = 32
    kernels = 4
    steps = (4, 0.001)
    error = 0.03


class TestInt8WithoutChannelGate(TestInt8):
    int8_cases = ({"channel_gate": None},)
    # A product of features with features has a few large numbers, which set the steps:
    # rounding y alone costs 0.031 to 0.036, and u and the first factor 0.02 each.
    error = 0.06
    test_gradients_under_quantization = None  # as above


class TestInt8File:
    @pytest.mark.parametrize(
        ("arguments", "gates"), [({"groups": 4}, 2), ({"channel_gate": None}, 1)]
    )
    def test_operators(self, arguments, gates, tmp_path):
        layer, _ = live(GAM(**arguments), (1, 10, 12, 16))
        x = features(4, 10, 12, 16)
        *_, runner = int8_file(deployed(layer, x.shape[1:]), x, tmp_path / "g.tflite")
        assert dict(runner.file.operators) == {
            "CONV_2D": 4,
            "LOGISTIC": gates,
            "MUL": 2,
        }

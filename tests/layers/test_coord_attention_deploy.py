"""CoordAttention: its mobile form, its config and its files."""

import json

import keras
import numpy as np
import pytest
from reference import coord_attention as reference
from support.comparing import CLOSE, difference, features
from support.live_coord_attention import deployed, live_layer

from keras_attention import CoordAttention


class TestDeploy:
    @pytest.mark.parametrize("size", [(14, 9), (7, 7), (1, 1), (1, 8)])
    def test_equals_call_with_live_gates(self, size):
        layer, weights = live_layer(48, name="coord")
        x = features(4, *size, 48)
        model = deployed(layer, x.shape[1:])
        y = layer(x).numpy()
        assert difference(model(x), y) <= CLOSE
        assert difference(x, y) >= 0.05  # bypassing the block changes the output
        outputs = [model.get_layer(f"coord_gate_{axis}").output for axis in "hw"]
        gates = keras.Model(model.input, outputs)(x)
        for gate, expected in zip(gates, reference.gates(x, weights), strict=True):
            gate = gate.numpy()
            assert gate.std() >= 0.05 * np.abs(gate).mean()
            assert difference(gate.reshape(expected.shape), expected) <= CLOSE

    def test_on_relu_features_with_dead_and_weak_channels(self):
        layer, _ = live_layer(32)
        x = np.maximum(features(2, 10, 6, 32), 0) * np.linspace(0.05, 1, 32)
        x = x.astype("float32")
        x[..., 5] = 0
        assert difference(deployed(layer, x.shape[1:])(x), layer(x)) <= CLOSE

    @pytest.mark.parametrize("activation", ["relu", "silu", "relu6", "linear"])
    @pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
    def test_equals_call_for_other_activations(self, activation, gate):
        layer, _ = live_layer(16, activation=activation, gate=gate)
        x = features(2, 5, 8, 16)
        assert difference(deployed(layer, x.shape[1:])(x), layer(x)) <= CLOSE

    def test_layer_called_twice_is_deployed_once(self):
        layer, _ = live_layer(16, name="coord")
        x = keras.Input((6, 5, 16))
        function = layer.deploy()
        model = keras.Model(x, function(function(x) + 1.0))
        images = features(2, 6, 5, 16)
        assert difference(model(images), layer(layer(images) + 1.0)) <= CLOSE
        assert len(model.weights) == 6
        names = [layer.name for layer in model.layers if layer.weights]
        assert names == ["coord_reduce", "coord_expand_h", "coord_expand_w"]

    def test_holds_stock_convolutions_only(self):
        layer, _ = live_layer(16, name="coord")
        model = deployed(layer, (6, 5, 16))
        with_weights = [layer for layer in model.layers if layer.weights]
        assert {type(layer) for layer in with_weights} == {keras.layers.Conv2D}
        assert all(layer.dtype_policy.name == "float32" for layer in with_weights)
        assert all(type(op).__module__.startswith("keras.") for op in model.operations)
        kinds = [type(op).__name__ for op in model.operations]
        assert sorted(kinds) == sorted(
            ["InputLayer"]
            + ["Conv2D"] * 3
            + ["Mean", "Add", "Relu6", "Multiply", "Activation"] * 2
            + ["Multiply"] * 2
        )

    def test_leaves_the_layer_as_it_was(self):
        layer, _ = live_layer(16)
        before = layer.get_weights()
        deployed(layer, (6, 5, 16))
        assert all(map(np.array_equal, before, layer.get_weights()))

    def test_inherits_trainable(self):
        layer, _ = live_layer(16, name="coord")
        layer.expand_h.trainable = False
        model = deployed(layer, (6, 5, 16))
        trained = [layer.name for layer in model.layers if layer.trainable_weights]
        assert trained == ["coord_reduce", "coord_expand_w"]
        layer.trainable = False
        assert deployed(layer, (6, 5, 16)).trainable_weights == []

    def test_of_a_layer_in_mixed_precision_is_float32(self):
        layer, weights = live_layer(16, dtype="mixed_bfloat16")
        x = features(2, 6, 5, 16)
        y = deployed(layer, (6, 5, 16))(x)
        assert y.dtype == "float32"
        assert difference(y, reference.coord_attention(x, weights)) <= CLOSE

    def test_refuses(self):
        layer = CoordAttention(data_format="channels_first", name="first")
        layer.build((None, 8, 4, 4))
        with pytest.raises(ValueError, match="'first'.*channels_first.*channels_last"):
            layer.deploy()
        with pytest.raises(ValueError, match="'raw' must be built"):
            CoordAttention(name="raw").deploy()


ARGUMENTS = {
    "reduction": 4,
    "min_channels": 3,
    "activation": "relu",
    "gate": "hard_sigmoid",
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": keras.regularizers.L2(1e-4),
    "bias_regularizer": keras.regularizers.L1(1e-3),
    "data_format": "channels_last",
    "name": "mine",
    "dtype": "mixed_bfloat16",
    "trainable": False,
}


class TestSerialization:
    @pytest.mark.parametrize("arguments", [{}, ARGUMENTS])
    @pytest.mark.parametrize("built", [False, True])
    def test_config_round_trip(self, arguments, built):
        layer = CoordAttention(**arguments)
        if built:
            layer.build((None, 4, 6, 24))
        config = keras.saving.serialize_keras_object(layer)
        again = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
        assert type(again) is CoordAttention
        assert again.built == built
        assert json.dumps(again.get_config()) == json.dumps(layer.get_config())
        copy = CoordAttention.from_config(layer.get_config())
        assert json.dumps(copy.get_config()) == json.dumps(layer.get_config())

    def test_arguments_reach_the_sublayers(self):
        layer = CoordAttention(**ARGUMENTS | {"trainable": True})
        layer.build((None, 4, 6, 24))
        assert layer.reduce.filters == 6
        assert len(layer.losses) == 6
        np.testing.assert_array_equal(layer.expand_w.bias, np.ones(24))
        assert layer.get_config()["reduction"] == 4

    def test_keras_file(self, tmp_path):
        layer, weights = live_layer(24)
        x = keras.Input((6, 5, 24))
        model = keras.Model(x, layer(x))
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        images = features(2, 6, 5, 24)
        np.testing.assert_array_equal(again(images), model(images))
        assert difference(model(images), images) >= 0.05

"""SqueezeExcite: its mobile form, and the int8 files of it."""

import collections

import keras
import pytest
from reference import squeeze_excite as reference
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import SqueezeExcite


class Block(Suite):
    layer_class = SqueezeExcite
    required = {"reduction": 2}
    cases = (
        {},
        {"min_channels": 8, "activation": "hard_silu", "gate": "hard_sigmoid"},
        {"use_bias": False},
    )
    sizes = ((7, 6), (1, 1))


class TestDeploy(Block, Deploy):
    def test_gate_is_live(self):
        layer, weights = self.live((4, 8, 8, 24), name="se")
        x = features(4, 8, 8, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("se_gate").output)(x).numpy()
        assert gate.std() >= 0.05 * gate.mean()
        assert difference(x, model(x)) >= 0.05
        expected = [reference.gates(sample, weights) for sample in x]
        assert difference(gate[:, 0, 0], expected) <= CLOSE

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 24), name="se")
        layer.reduce.trainable = False
        model = deployed(layer, (8, 8, 24))
        trained = [inner.name for inner in model.layers if inner.trainable_weights]
        assert trained == ["se_expand"]

    def test_one_product_with_the_map(self):
        layer, _ = self.live((2, 8, 8, 24))
        kinds = [type(op).__name__ for op in deployed(layer, (8, 8, 24)).operations]
        assert collections.Counter(kinds) == {
            "InputLayer": 1,
            "Mean": 1,
            "Conv2D": 2,
            "Activation": 2,
            "Multiply": 1,
        }


class TestVideoDeploy(Block, Deploy):
    cases = ({},)
    sizes = ((3, 4, 5), (4, 1, 2))

    def test_computes_in_rank_4(self):
        """Only the two ends of the mobile form have five axes."""
        layer, _ = self.live((2, 3, 4, 5, 24))
        first, *inner, last = deployed(layer, (3, 4, 5, 24)).operations
        assert max(len(op.output.shape) for op in inner) == 4
        assert len(first.output.shape) == len(last.output.shape) == 5


class TestInt8(Block, Int8):
    required = {"reduction": 6}  # most of its five ReLUs are open
    channels = 32
    kernels = 2
    int8_cases = (
        {},
        {"activation": "silu", "gate": "hard_sigmoid", "use_bias": False},
    )
    steps = (4, 0.001)
    error = 0.03


class TestInt8File:
    @pytest.mark.parametrize(
        ("arguments", "gate"),
        [
            ({}, {"LOGISTIC": 1}),
            # relu6(x + 3) / 6: the sum with its ReLU6, and the product
            ({"gate": "hard_sigmoid"}, {"ADD": 1, "MUL": 2}),
        ],
    )
    def test_operators(self, arguments, gate, tmp_path):
        layer, _ = live(SqueezeExcite(4, **arguments), (1, 10, 10, 16))
        x = features(4, 10, 10, 16)
        model = deployed(layer, x.shape[1:])
        *_, runner = int8_file(model, x, tmp_path / "se.tflite")
        operators = {"MEAN": 1, "CONV_2D": 2, "MUL": 1} | gate
        assert runner.file.operators == operators

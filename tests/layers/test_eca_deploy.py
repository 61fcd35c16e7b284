"""ECA: its mobile form, and the int8 files of it."""

import collections

import keras
from reference import eca as reference
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import ECA


class Block(Suite):
    layer_class = ECA
    cases = ({}, {"kernel_size": 1}, {"kernel_size": 7})
    gain = 4  # of means around 0, whose gates else are near 0.5
    sizes = ((7, 6), (1, 1))


class TestDeploy(Block, Deploy):
    def test_gate_is_live(self):
        layer, weights = self.live((4, 8, 8, 24), name="eca")
        x = features(4, 8, 8, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("eca_gate").output)(x).numpy()
        assert gate.std() >= 0.05 * gate.mean()
        assert difference(x, model(x)) >= 0.05
        expected = [reference.gates(sample, weights) for sample in x]
        assert difference(gate[:, 0, 0], expected) <= CLOSE

    def test_one_product_with_the_map(self):
        layer, _ = self.live((2, 8, 8, 24))
        kinds = [type(op).__name__ for op in deployed(layer, (8, 8, 24)).operations]
        assert collections.Counter(kinds) == {
            "InputLayer": 1,
            "Mean": 1,
            "Reshape": 2,
            "Conv2D": 1,
            "Activation": 1,
            "Multiply": 1,
        }


class TestVideoDeploy(Block, Deploy):
    cases = ({"kernel_size": 5},)
    sizes = ((3, 4, 5), (4, 1, 2))

    def test_computes_in_rank_4(self):
        """Only the two ends of the mobile form have five axes."""
        layer, _ = self.live((2, 3, 4, 5, 24))
        first, *inner, last = deployed(layer, (3, 4, 5, 24)).operations
        assert max(len(op.output.shape) for op in inner) == 4
        assert len(first.output.shape) == len(last.output.shape) == 5


class TestInt8(Block, Int8):
    channels = 32
    kernels = 1
    int8_cases = ({}, {"kernel_size": 7})
    steps = (4, 0.001)
    error = 0.03


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(ECA(), (1, 10, 10, 16), gain=Block.gain)
        x = features(4, 10, 10, 16)
        model = deployed(layer, x.shape[1:])
        *_, runner = int8_file(model, x, tmp_path / "eca.tflite")
        assert runner.file.operators == {
            "MEAN": 1,
            "RESHAPE": 2,
            "CONV_2D": 1,
            "LOGISTIC": 1,
            "MUL": 1,
        }

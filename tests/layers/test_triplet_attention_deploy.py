"""TripletAttention: its mobile form, and the int8 files of it."""

import collections

import keras
import numpy as np
import pytest
from reference import triplet_attention as reference
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import TripletAttention


class Block(Suite):
    layer_class = TripletAttention
    channels = 10
    cases = ({}, {"kernel_size": 3})


class TestDeploy(Block, Deploy):
    def test_gates_are_live(self):
        layer, weights = self.live((2, 8, 9, 10), name="three")
        x = features(2, 8, 9, 10)
        model = deployed(layer, x.shape[1:])
        assert difference(x, model(x).numpy()) >= 0.05
        branches = ("cw", "hc", "hw")
        gates = [model.get_layer(f"three_gate_{branch}").output for branch in branches]
        gates = keras.Model(model.input, gates)(x)
        for branch, gate in zip(branches, gates, strict=True):
            gate = gate.numpy()[..., 0]
            assert gate.std() >= 0.05 * np.abs(gate).mean()
            expected = reference.gates(x, weights, branch)
            if branch == "cw":
                expected = np.swapaxes(expected, 1, 2)  # the map has W first
            assert difference(gate, expected) <= CLOSE

    @pytest.mark.parametrize("shape", [(3, 20, 34), (18, 5, 48), (20, 28, 3)])
    def test_columns_in_several_blocks(self, shape):
        layer, _ = live(TripletAttention(), (2, *shape))
        x = features(2, *shape)
        assert difference(deployed(layer, shape)(x), layer(x)) <= CLOSE

    @pytest.mark.parametrize("size", [(1, 10), (10, 1), (10, 10)])
    def test_as_many_columns_as_channels(self, size):
        """What broadcasts along W must not be taken for something along C."""
        layer, _ = self.live((1, *size, 10))
        x = features(1, *size, 10)
        assert difference(deployed(layer, x.shape[1:])(x), layer(x)) <= CLOSE

    def test_operations(self):
        layer, _ = self.live((2, 8, 9, 10))
        model = deployed(layer, (8, 9, 10))
        kinds = collections.Counter(type(op).__name__ for op in model.operations)
        for shape in kinds.pop("Reshape"), kinds.pop("InputLayer"):
            assert shape  # of pooled maps only; there is no Transpose
        assert kinds == {
            "Mean": 3,
            "Max": 3,
            "Conv2D": 6,
            "Add": 3,  # of pooled maps
            "Subtract": 2,  # of gates
            "Activation": 3,
            "Multiply": 4,  # three of pooled maps by 1 / 3
        }

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 10), name="three")
        layer.convs[0].trainable = layer.convs[2].trainable = False
        trained = [
            inner.name
            for inner in deployed(layer, (8, 8, 10)).layers
            if inner.trainable_weights
        ]
        assert trained == ["three_conv_hc_max", "three_conv_hc_mean"]


class TestInt8(Block, Int8):
    channels = 32
    int8_size = (14, 20)  # 20 columns, as 32 channels, are two blocks
    kernels = 6
    steps = (4, 0.001)
    error = 0.03


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(TripletAttention(), (1, 10, 12, 16))
        x = features(4, 10, 12, 16)
        *_, runner = int8_file(deployed(layer, x.shape[1:]), x, tmp_path / "t.tflite")
        operators = dict(runner.file.operators)
        operators.pop("RESHAPE")
        assert operators == {
            "MEAN": 3,
            "REDUCE_MAX": 3,
            "CONV_2D": 6,
            "ADD": 3,
            "SUB": 2,
            "LOGISTIC": 3,
            "MUL": 4,
        }

"""SelectiveKernel: its mobile form, and the int8 files of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import selective_kernel as reference
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, inputs, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import SelectiveKernel, grouped, mobile


class Block(Suite):
    layer_class = SelectiveKernel
    required = {"groups": 8, "min_channels": 8}
    cases = ({}, {"branches": 3, "strides": 2})


class TestDeploy(Block, Deploy):
    def test_gate_is_live(self):
        layer, weights = self.live((2, 8, 9, 24), name="sk")
        x = features(2, 8, 9, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("sk_gate").output)(x).numpy()
        assert gate.std() >= 0.05 * gate.mean()
        (u, v), (a, b) = reference.parts(x, weights)
        assert difference(gate[:, 0, 0], a) <= CLOSE
        # Equal weights, in place of the gate's, change the output.
        y = model(x).numpy()
        assert difference((u + v) / 2, y) >= 0.05
        assert difference(x, y) >= 0.05

    @pytest.mark.parametrize("strides", [1, 2, 3])
    def test_strides_and_branches(self, strides):
        shape = (2, 9, 8, 24)
        layer, _ = self.live(shape, branches=4, strides=strides)
        x = features(*shape)
        y = deployed(layer, shape[1:])(x)
        assert y.shape == layer.compute_output_shape(shape)
        assert difference(y, layer(x)) <= CLOSE

    def test_runs_of_groups(self):
        """Wide grouped convolutions are several, each with its zeros."""
        layer, _ = self.live((2, 8, 8, 96), groups=32, name="sk")
        model = self.model(layer, (2, 8, 8, 96))
        x = features(2, 8, 8, 96)
        assert difference(model(x), layer(x)) <= CLOSE
        for branch in (0, 1):
            for run in range(8):
                conv = model.get_layer(f"sk_branch_{branch}_{run}")
                assert conv.kernel.shape == (3, 3, 12, 12)
                assert isinstance(conv.kernel_constraint, grouped.BlockDiagonal)
                assert np.count_nonzero(conv.kernel) == 9 * 3 * 12

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 24), name="sk")
        layer.convs[1].trainable = layer.reduce.trainable = False
        model = deployed(layer, (8, 8, 24))
        trained = {inner.name for inner in model.layers if inner.trainable_weights}
        assert trained == {"sk_branch_0", "sk_select"}


class TestInt8(Block, Int8):
    channels = 48  # four runs of groups
    kernels = 10
    steps = (4, 0.001)
    error = 0.03

    def test_gradients_under_quantization(self):
        """All kernels of the mobile form can be trained, but for the zeros in them."""
        shape = (4, 14, 14, self.channels)
        layer, _ = self.live(shape)
        x = inputs(shape)["dead"]
        quantized = mobile.quantize(deployed(layer, shape[1:]), x)
        kernels = [v for v in quantized.trainable_variables if v.name == "kernel"]
        assert len(kernels) == self.kernels
        with tf.GradientTape() as tape:
            y = quantized(x, training=True)
            loss = tf.reduce_sum(y * features(*y.shape, seed=2))
        gradients = tape.gradient(loss, [v.value for v in kernels])
        for kernel, gradient in zip(kernels, gradients, strict=True):
            gradient = np.asarray(gradient)
            assert np.isfinite(gradient).all(), kernel.path
            free = np.asarray(kernel) != 0
            # Of the ReLUs behind `reduce`, whose inputs are means, half are closed.
            part = 0.25 if "reduce" in kernel.path or "select" in kernel.path else 0.75
            assert (gradient[free] != 0).mean() >= part, kernel.path


class TestInt8OfThreeBranches(TestInt8):
    """A weight rounded up here and down there scales a channel of a sample.

    With a map of 7x7 that is 0.5 % of 8 samples' 24 channels. In 40 files of 24 and 48
    channels none had over 4 steps and a share of 0.003.
    """

    channels = 24  # two runs
    int8_cases = ({"branches": 3}, {"branches": 3, "strides": 2})
    kernels = 6
    steps = (4, 0.004)


class TestInt8File:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (
                {},
                {
                    "CONV_2D": 4,
                    "MEAN": 2,
                    "ADD": 2,
                    "LOGISTIC": 1,
                    "SUB": 1,
                    "MUL": 2,
                },
            ),
            (
                {"branches": 3},
                {
                    "CONV_2D": 5,
                    "MEAN": 3,
                    "RESHAPE": 4,
                    "ADD": 4,
                    "SOFTMAX": 1,
                    "STRIDED_SLICE": 3,  # of the small weights
                    "MUL": 3,
                },
            ),
        ],
    )
    def test_operators(self, arguments, expected, tmp_path):
        layer, _ = live(SelectiveKernel(groups=4, **arguments), (1, 10, 9, 16))
        x = features(4, 10, 9, 16)
        model = deployed(layer, x.shape[1:])
        *_, runner = int8_file(model, x, tmp_path / "sk.tflite")
        assert dict(runner.file.operators) == expected

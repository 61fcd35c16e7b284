"""NonLocal: its mobile form, and the int8 files of it."""

import collections

import numpy as np
from support.comparing import CLOSE, difference, features, relative_error
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import NonLocal


class Block(Suite):
    layer_class = NonLocal
    channels = 16
    cases = ({}, {"min_channels": 12, "pool": False, "scale": False, "use_bias": False})
    sizes = ((7, 6), (1, 5), (3, 2), (1, 1))  # of (3, 2), pooled, one is left


class TestDeploy(Block, Deploy):
    def test_branch_is_live(self):
        layer, _ = self.live((2, 8, 8, 16))
        x = features(2, 8, 8, 16)
        received = deployed(layer, x.shape[1:])(x).numpy() - x
        # It differs from position to position, not in the mean only.
        level = np.abs(received).mean((1, 2))
        assert (received.std((1, 2)) >= 0.05 * level).all()
        assert np.abs(received).mean() >= 0.05 * np.abs(x).mean()

    def test_large_biases(self):
        """They leave through the product: the mobile form has none of them there."""
        layer, weights = self.live((2, 8, 8, 16))
        layer.theta.bias.assign(10 * weights["theta.bias"])
        layer.phi.bias.assign(100 * weights["phi.bias"])
        layer.g.bias.assign(10 * weights["g.bias"])
        x = features(2, 8, 8, 16)
        model = deployed(layer, x.shape[1:])
        # scores of some tens in float32, whose step there is 4e-6
        assert difference(model(x), layer(x)) <= 2 * CLOSE
        biased = [inner.name for inner in model.layers if len(inner.weights) == 2]
        assert [name.rsplit("_", 1)[1] for name in biased] == ["theta", "out"]

    def test_large_scores(self):
        layer, _ = self.live((2, 8, 8, 16))
        # scores of some hundreds in float32, whose step there is 3e-5
        x = 10 * features(2, 8, 8, 16)
        assert difference(deployed(layer, x.shape[1:])(x), layer(x)) <= 3 * CLOSE

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 16), name="nl")
        layer.theta.trainable = layer.out.trainable = False
        model = deployed(layer, (8, 8, 16))
        trained = {inner.name for inner in model.layers if inner.trainable_weights}
        assert trained == {"nl_phi", "nl_g"}

    def test_feature_map_is_only_reshaped(self):
        layer, _ = self.live((2, 8, 8, 16))
        model = deployed(layer, (8, 8, 16))
        kinds = collections.Counter(type(op).__name__ for op in model.operations)
        assert kinds == {
            "InputLayer": 1,
            "MaxPooling2D": 1,
            "Conv2D": 4,
            "Reshape": 4,
            "Mean": 2,  # of keys and values
            "Max": 1,
            "Subtract": 3,
            "Exp": 2,
            "Sum": 1,
            "Log": 1,
            "Transpose": 1,  # of the keys, which the file's product takes as they are
            "Matmul": 2,
            "Multiply": 2,
            "Add": 2,
        }


class TestVideoDeploy(Block, Deploy):
    cases = ({},)
    sizes = ((3, 4, 5), (4, 1, 2), (1, 3, 3), (1, 1, 1))

    def test_computes_in_rank_4(self):
        """Only the two ends of the mobile form have five axes."""
        layer, _ = self.live((2, 3, 4, 5, 16))
        first, *inner, last = deployed(layer, (3, 4, 5, 16)).operations
        assert max(len(op.output.shape) for op in inner) == 4
        assert len(first.output.shape) == len(last.output.shape) == 5


class TestInt8(Block, Int8):
    channels = 32
    kernels = 4
    int8_cases = ({"pool": False},)
    gain = 1.0  # of two kernels in a row: scores from -7 to 7
    steps = (4, 0.001)
    error = 0.03


class TestInt8OfLargeMaps(Block, Int8):
    channels = 32
    kernels = 4
    int8_size = (28, 28)
    gain = 1.0
    steps = (4, 0.001)
    error = 0.03


class TestInt8OfOnePosition(Block, Int8):
    """The one weight is 1: g and out are left."""

    int8_size = (1, 1)
    kernels = 2
    channels = 32
    int8_cases = ({}, {"pool": False})
    gain = 1.0
    fresh = False  # 16 positions are too few for others' ranges: 0.057, weak


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(NonLocal(), (1, 10, 10, 16))
        x = features(4, 10, 10, 16)
        *_, runner = int8_file(deployed(layer, x.shape[1:]), x, tmp_path / "nl.tflite")
        operators = dict(runner.file.operators)
        operators.pop("RESHAPE")
        assert operators == {
            "MAX_POOL_2D": 1,
            "CONV_2D": 4,
            "MEAN": 2,
            "SUB": 3,
            "FULLY_CONNECTED": 2,  # the products: no BATCH_MATMUL, no SOFTMAX
            "REDUCE_MAX": 1,
            "EXP": 2,
            "SUM": 1,
            "MAXIMUM": 1,  # keeps the sums from being rounded to 0
            "LOG": 1,
            "TRANSPOSE": 1,  # of the values, as an operand of the second product
            "MUL": 2,
            "ADD": 2,
        }

    def test_peaked_weights(self, tmp_path):
        """Some positions attend to one other, some to all.

        A step of the scores is up to a tenth of a weight then, so that single outputs
        are off by several steps: here by 4, in files of larger maps by 8.
        """
        shape = (8, 14, 14, 32)
        layer, _ = live(NonLocal(), shape)
        x = 1.5 * np.maximum(features(*shape), 0)
        model = deployed(layer, shape[1:])
        expected = model(x).numpy()
        quantized, y, runner = int8_file(model, x, tmp_path / "nl.tflite")
        steps = np.abs(y - np.asarray(quantized(x))) / runner.outputs[0].scale
        assert steps.max() < 8.1 and (steps > 1.1).mean() <= 0.002
        assert relative_error(y, expected) <= 0.03

    def test_centering_is_what_keeps_flat_rows(self, tmp_path):
        """Means of keys and values are large behind a ReLU, and cost their ranges."""
        shape = (8, 14, 14, 32)
        layer, _ = live(NonLocal(), shape)
        x = np.maximum(features(*shape), 0) + np.float32(1.0)
        model = deployed(layer, shape[1:])
        means = [op for op in model.operations if type(op).__name__ == "Mean"]
        assert [op.output.shape for op in means] == [(None, 1, 16)] * 2
        _, y, _ = int8_file(model, x, tmp_path / "nl.tflite")
        expected = model(x).numpy()
        # 0.016; it is 0.038 without
        assert relative_error(y - x, expected - x) <= 0.025

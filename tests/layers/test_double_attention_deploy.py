"""DoubleAttention: its mobile form, and the int8 files of it."""

import collections

import numpy as np
from support.comparing import CLOSE, difference, features, relative_error
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import DoubleAttention


class Block(Suite):
    layer_class = DoubleAttention
    channels = 16
    cases = (
        {},
        {"value_channels": 6, "attention_channels": 10},
        {"residual": False, "use_bias": False},
        {"zero_init_norm": True},
        {"zero_init_norm": True, "use_bias": False},
    )


class TestDeploy(Block, Deploy):
    def test_branch_is_live(self):
        layer, _ = self.live((2, 8, 8, 16), residual=False)
        x = features(2, 8, 8, 16)
        y = deployed(layer, x.shape[1:])(x).numpy()
        # What is received differs from position to position, not in the mean only.
        assert (y.std((1, 2)) >= 0.05 * np.abs(y).mean((1, 2))).all()
        assert np.abs(y).mean() >= 0.05 * np.abs(x).mean()

    def test_large_biases(self):
        """They leave through the products: the mobile form has none of them there."""
        layer, weights = self.live((2, 8, 8, 16))
        layer.value.bias.assign(10 * weights["convA.bias"])
        layer.gather.bias.assign(100 * weights["convB.bias"])
        layer.distribute.bias.assign(10 * weights["convV.bias"])
        x = features(2, 8, 8, 16)
        model = deployed(layer, x.shape[1:])
        assert difference(model(x), layer(x)) <= CLOSE
        biased = [inner.name for inner in model.layers if len(inner.weights) == 2]
        assert [name.rsplit("_", 1)[1] for name in biased] == ["distribute", "extend"]

    def test_large_scores(self):
        layer, _ = self.live((2, 8, 8, 16))
        x = 100 * features(2, 8, 8, 16)
        assert difference(deployed(layer, x.shape[1:])(x), layer(x)) <= CLOSE

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 16), name="a2")
        layer.gather.trainable = layer.extend.trainable = False
        model = deployed(layer, (8, 8, 16))
        trained = {inner.name for inner in model.layers if inner.trainable_weights}
        assert trained == {"a2_value", "a2_distribute"}

    def test_feature_map_is_only_reshaped(self):
        layer, _ = self.live((2, 8, 8, 16))
        model = deployed(layer, (8, 8, 16))
        kinds = collections.Counter(type(op).__name__ for op in model.operations)
        assert kinds == {
            "InputLayer": 1,
            "Conv2D": 4,
            "Reshape": 4,
            "Max": 2,
            "Subtract": 2,
            "Exp": 4,
            "Sum": 2,
            "Log": 2,
            "Transpose": 2,  # of A and G, which become operands of one product each
            "Matmul": 2,
            "Multiply": 4,
            "Add": 1,
        }


class TestVideoDeploy(Block, Deploy):
    cases = ({"value_channels": 6, "attention_channels": 10}, {"zero_init_norm": True})
    sizes = ((3, 4, 5), (2, 5, 3), (4, 1, 2), (1, 1, 1))

    def test_computes_in_rank_4(self):
        """Only the two ends of the mobile form have five axes."""
        layer, _ = self.live((2, 3, 4, 5, 16))
        model = deployed(layer, (3, 4, 5, 16))
        first, *inner, last = model.operations
        ranks = [len(op.output.shape) for op in inner]
        assert max(ranks) == 4
        assert len(first.output.shape) == len(last.output.shape) == 5


class TestInt8(Block, Int8):
    channels = 32
    kernels = 4
    int8_cases = (
        {},
        {"zero_init_norm": True},
        {"value_channels": 8, "attention_channels": 12},
    )
    steps = (4, 0.001)


class TestInt8WithoutResidual(Block, Int8):
    channels = 32
    kernels = 4
    int8_cases = ({"residual": False},)
    steps = (4, 0.001)


class TestInt8OfOnePosition(Block, Int8):
    """The one weight is 1: value and extend are left."""

    int8_size = (1, 1)
    kernels = 2
    channels = 32
    int8_cases = ({}, {"residual": False})
    fresh = False  # 16 positions are too few for others' ranges: 0.096, weak


class TestInt8File:
    def test_operators(self, tmp_path):
        layer, _ = live(DoubleAttention(), (1, 10, 10, 16))
        x = features(4, 10, 10, 16)
        *_, runner = int8_file(deployed(layer, x.shape[1:]), x, tmp_path / "a2.tflite")
        operators = dict(runner.file.operators)
        operators.pop("RESHAPE")
        assert operators == {
            "CONV_2D": 4,
            "REDUCE_MAX": 2,
            "SUB": 2,
            "EXP": 4,
            "SUM": 2,
            "MAXIMUM": 2,  # keeps the sums from being rounded to 0
            "LOG": 2,
            "MUL": 4,
            "TRANSPOSE": 2,  # of A and e, as operands of the first product
            "FULLY_CONNECTED": 2,  # the products: no BATCH_MATMUL, no SOFTMAX
            "ADD": 1,
        }

    def test_dead_gathering_map(self, tmp_path):
        """A map of zeros is flat: its sum L sets the range of all sums."""
        shape = (8, 12, 12, 32)
        layer, _ = live(DoubleAttention(), shape)
        kernel = layer.gather.kernel.numpy()
        kernel[..., 3] = 0
        layer.gather.kernel.assign(kernel)
        x = features(*shape)
        model = deployed(layer, shape[1:])
        quantized, y, _ = int8_file(model, x, tmp_path / "a2.tflite")
        assert np.isfinite(quantized(x)).all()
        assert relative_error(y, model(x).numpy()) <= 0.05

    def test_peaked_maps(self, tmp_path):
        """Scores of a deviation of 4: a few positions hold most of the weight."""
        shape = (8, 12, 12, 32)
        layer, _ = live(DoubleAttention(), shape, gain=4)
        x = features(*shape)
        model = deployed(layer, shape[1:])
        quantized, y, _ = int8_file(model, x, tmp_path / "a2.tflite")
        assert np.isfinite(quantized(x)).all()
        assert relative_error(y, model(x).numpy()) <= 0.08

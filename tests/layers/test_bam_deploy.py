"""BAM: its mobile form, and the int8 files of it."""

import keras
import numpy as np
import pytest
from reference import bam as reference
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import BAM


class Block(Suite):
    layer_class = BAM
    channels = 16
    cases = ({"reduction": 4}, {"reduction": 2, "dilation": 2, "combine": "product"})


class TestDeploy(Block, Deploy):
    def test_gate_is_live(self):
        layer, weights = self.live((2, 12, 11, 16), reduction=4, name="bam")
        x = features(2, 12, 11, 16)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("bam_gate").output)(x).numpy()
        # From position to position and from channel to channel.
        assert (gate.std((1, 2)) >= 0.05 * gate.mean((1, 2))).mean() >= 0.9
        assert (gate.std(3) >= 0.05 * gate.mean(3)).all()
        y = x.astype("float64")
        logits = reference.channel_logits(y, weights)
        logits = logits + reference.spatial_logits(y, weights)
        assert difference(gate, 1 / (1 + np.exp(-logits))) <= CLOSE
        assert difference(x, model(x)) >= 0.05

    @pytest.mark.parametrize("size", [(1, 16), (16, 1), (16, 16)])
    def test_as_many_columns_as_channels(self, size):
        """What broadcasts along W must not be taken for something along C."""
        layer, _ = self.live((1, *size, 16), reduction=4)
        x = features(1, *size, 16)
        assert difference(deployed(layer, x.shape[1:])(x), layer(x)) <= CLOSE

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 16), reduction=4, name="bam")
        layer.channel_reduce.trainable = layer.spatial_convs[1].trainable = False
        model = deployed(layer, (8, 8, 16))
        trained = {inner.name for inner in model.layers if inner.trainable_weights}
        assert trained == {
            "bam_channel_expand",
            "bam_spatial_reduce",
            "bam_spatial_dilated_1",
            "bam_spatial_expand",
        }


class TestInt8(Block, Int8):
    channels = 32
    required = {"reduction": 4}
    int8_cases = ({}, {"combine": "product"})
    kernels = 6
    steps = (4, 0.001)
    error = 0.03


class TestInt8File:
    @pytest.mark.parametrize(
        ("combine", "combination"),
        [("sum", {"SUB": 1, "MUL": 1}), ("product", {"MUL": 2})],
    )
    def test_operators(self, combine, combination, tmp_path):
        layer, _ = live(BAM(4, combine=combine), (1, 10, 12, 16))
        x = features(4, 10, 12, 16)
        *_, runner = int8_file(deployed(layer, x.shape[1:]), x, tmp_path / "b.tflite")
        assert dict(runner.file.operators) == {
            "MEAN": 1,
            "CONV_2D": 6,
            "LOGISTIC": 1,
            "ADD": 1,  # of a constant: XNNPACK makes it part of the LOGISTIC
            **combination,
        }

"""GatherExcite: its mobile form, and the int8 files of it."""

import keras
import numpy as np
import pytest
from reference import gather_excite as reference
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite
from support.torch_weights import live

from keras_attention import GatherExcite, mobile

FREE, THETA, PLUS = "theta_minus", "theta", "theta_plus"


class Block(Suite):
    layer_class = GatherExcite
    cases = (
        {"extent": 4, "reduction": 4},
        {"extent": 0, "reduction": 4},
        {"variant": THETA, "extent": 8},
        {"variant": THETA, "extent": 0},
    )


class TestDeploy(Block, Deploy):
    @pytest.mark.parametrize("variant", [FREE, THETA, PLUS])
    @pytest.mark.parametrize("extent", [0, 4])
    def test_gate_is_live(self, variant, extent):
        arguments = {"variant": variant, "extent": extent}
        layer, weights = self.live((2, 8, 10, 24), name="ge", **arguments)
        x = features(2, 8, 10, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("ge_gate").output)(x).numpy()
        # Means of 80 normal numbers differ by 0.11, their sigmoids by 0.03.
        part = 0.05 if weights or extent else 0.04
        assert gate.std() >= part * gate.mean()
        assert difference(gate, reference.cells(x, weights, **arguments)) <= CLOSE
        assert difference(x, model(x)) >= 0.05

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 24), name="ge", extent=4)
        layer.convs[0].trainable = layer.expand.trainable = False
        model = deployed(layer, (8, 8, 24))
        trained = {inner.name for inner in model.layers if inner.trainable_weights}
        assert trained == {"ge_gather_1", "ge_reduce"}

    @pytest.mark.parametrize("extent", [2, 8])
    def test_file_of_the_deployed_model(self, extent, tmp_path):
        """Constants are stored with it; two sizes have kernels of their own."""
        layer = GatherExcite(FREE, extent, name="ge")
        images = keras.Input((16, 12, 6))
        y = keras.layers.MaxPooling2D()(layer(images))
        deployed = mobile.deploy(keras.Model(images, layer(y)))
        deployed.save(tmp_path / "deployed.keras")
        again = keras.models.load_model(tmp_path / "deployed.keras")
        x = features(2, 16, 12, 6)
        y = layer(keras.layers.MaxPooling2D()(layer(x)))
        assert difference(deployed(x), y) <= CLOSE
        np.testing.assert_array_equal(again(x), deployed(x))


class TestDeployWithoutParameters(Block, Deploy):
    cases = tuple({"variant": FREE, "extent": extent} for extent in (0, 2, 4, 8))
    sizes = ((8, 8), (7, 10), (17, 3), (1, 6), (1, 1))

    def test_holds_only_fixed_kernels(self):
        layer, _ = self.live((2, 8, 8, 24), variant=FREE, extent=4, name="ge")
        model = deployed(layer, (8, 8, 24))
        assert model.trainable_weights == []
        names = [inner.name for inner in model.layers if inner.weights]
        assert names == ["ge_means_w", "ge_means_h_8"]


class TestInt8(Block, Int8):
    required = {"reduction": 4}
    int8_cases = (
        {"extent": 0},
        {"extent": 4},
        {"variant": THETA, "extent": 0},
        {"variant": FREE, "extent": 2},
        {"variant": FREE, "extent": 8},
    )
    kernels = 3
    steps = (4, 0.001)
    error = 0.03
    # Of other samples, after calibration with 16: 8 steps, a share of 0.0015, an error
    # of 0.039.
    fresh = False


class TestInt8OfThreeConvolutions(Block, Int8):
    """A value rounded up here and down there is one of few, and gates 64 positions.

    In 72 files of 16 to 48 channels (random weights, with and without bottleneck) half
    had at most 3 steps and a share of 0.0006; none had over 8 steps and 0.004.
    """

    required = {"reduction": 4, "extent": 8}
    int8_cases = ({"variant": THETA}, {"variant": PLUS})
    kernels = 5
    steps = (8, 0.004)
    # the largest error there was 0.036
    error = 0.04


class TestInt8File:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({"variant": FREE}, {"MEAN": 1}),
            (
                {"variant": FREE, "extent": 2},
                {"PAD": 1, "DEPTHWISE_CONV_2D": 1, "MUL": 1, "GATHER": 2},
            ),
            (
                {"variant": FREE, "extent": 8},
                # that of 9 columns is in the convolution
                {
                    "PAD": 1,
                    "DEPTHWISE_CONV_2D": 2,
                    "RESHAPE": 3,
                    "MUL": 1,
                    "GATHER": 2,
                },
            ),
            (
                {"variant": THETA},
                {"RESHAPE": 2, "DEPTHWISE_CONV_2D": 1, "SUM": 1},
            ),
            (
                {"variant": PLUS, "extent": 4},
                # that of 5 x 5 cells is in the convolution
                {"PAD": 1, "DEPTHWISE_CONV_2D": 2, "CONV_2D": 2, "GATHER": 2},
            ),
        ],
    )
    def test_operators(self, arguments, expected, tmp_path):
        layer, _ = live(GatherExcite(**arguments), (1, 10, 9, 16))
        x = features(4, 10, 9, 16)
        model = deployed(layer, x.shape[1:])
        *_, runner = int8_file(model, x, tmp_path / "ge.tflite")
        expected = expected | {"LOGISTIC": 1, "MUL": expected.get("MUL", 0) + 1}
        assert dict(runner.file.operators) == expected

    @pytest.mark.parametrize("arguments", [{"variant": FREE, "extent": 8}, {}])
    def test_no_depthwise_convolution_of_many_taps(self, arguments):
        """Above 25 taps XNNPACK takes ten times as long for each."""
        layer, _ = live(GatherExcite(**arguments), (1, 28, 28, 16))
        kinds = keras.layers.DepthwiseConv2D
        for inner in deployed(layer, (28, 28, 16)).layers:
            if isinstance(inner, kinds):
                assert np.prod(inner.kernel_size) <= 25

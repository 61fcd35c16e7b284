"""GatherExcite: parity with golden files and numpy, traps, what it refuses."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from reference import gather_excite as reference
from support.comparing import CLOSE, array, difference, features
from support.gradients import double_precision, gradients
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import FIRST, live
from support.warm_start_suite import NoWarmStart, Warm, WarmStart

from keras_attention import GatherExcite, get


class Block(Suite):
    layer_class = GatherExcite
    reference = staticmethod(reference.forward)
    cases = (
        {"variant": "theta_plus", "extent": 4, "reduction": 4},
        {"variant": "theta", "extent": 8},
    )
    full_config = {"variant": "theta", "extent": 8, "reduction": 3, **OPTIONS}


class TestGolden(Block, Golden):
    goldens = ("gather_excite",)
    normalized = {
        "gather.norm1": lambda s: s[0] * s[1] * s[2] // 4,
        "gather.norm2": lambda s: s[0] * s[1] * s[2] // 16,
    }


class TestGoldenGlobal(Block, Golden):
    goldens = ("gather_excite_global",)
    normalized = {"gather.norm1": lambda s: s[0]}

    # On PyTorch, Keras takes variances as E[x^2] - E[x]^2, here of 3 values.
    tolerance = 5e-5 if keras.backend.backend() == "torch" else CLOSE


class TestGoldenWithoutParameters(Block, Golden):
    goldens = ("gather_excite_free",)

    def test_golden(self, loaded):
        layer, file = loaded("gather_excite_free")
        assert layer.weights == []
        assert difference(layer(file["x"]), file["y_inference"]) <= CLOSE
        y, dx, _ = gradients(layer, file["x"], file["cotangent"])
        assert difference(y, file["y_training"]) <= CLOSE
        assert difference(dx, file["dx_training"]) <= CLOSE


class TestLayer(Block, Properties):
    def test_float64(self):
        shape = (3, 4, 5, 8)
        with double_precision():
            layer, weights = live(GatherExcite("theta", dtype="float64"), shape)
            x = features(*shape).astype("float64")
            y = array(layer(x))
        assert y.dtype == "float64"
        weights = {name: w.astype("float64") for name, w in weights.items()}
        expected = self.reference(x, weights, variant="theta")
        # 1e-8 and more where a part is float32, as Keras' normalization is on PyTorch
        limit = 1e-6 if keras.backend.backend() == "torch" else 1e-12
        assert difference(y, expected) <= limit


class TestWithoutParameters(Block, Properties):
    cases = tuple({"variant": "theta_minus", "extent": e} for e in (0, 2, 4))

    def test_every_weight_gets_a_gradient(self):
        """There is none; the gates pass a gradient on to all of their windows."""
        layer, _ = self.live((1, 8, 8, 6), variant="theta_minus", extent=4)
        x, cotangent = features(1, 8, 8, 6), np.zeros((1, 8, 8, 6), "float32")
        cotangent[0, 4, 4] = 1
        _, dx, found = gradients(layer, x, cotangent)
        assert found == {}
        reached = np.abs(dx[0]).max(-1) > 0
        assert reached[1:, 1:].all() and reached.sum() == 49


class TestGlobal(Block, Properties):
    cases = ({"reduction": 4}, {"variant": "theta"})

    @pytest.mark.parametrize("data_format", ["channels_last", FIRST])
    def test_dynamic_sizes(self, data_format):
        """The batch may be dynamic; the map has one size."""
        layer = GatherExcite(data_format=data_format)
        shape = (24, 6, 5) if data_format == FIRST else (6, 5, 24)
        x = keras.Input(shape)
        model = keras.Model(x, layer(x))
        _, weights = live(layer, (1, 6, 5, 24))
        x = features(3, 6, 5, 24)
        y = model.predict(x.transpose(0, 3, 1, 2) if shape[0] == 24 else x, verbose=0)
        y = y.transpose(0, 2, 3, 1) if shape[0] == 24 else y
        assert difference(y, reference.forward(x, weights)) <= CLOSE
        axis = 2 if data_format == FIRST else 1
        with pytest.raises(ValueError, match=f"expected axis {axis}.*value 6"):
            layer(features(1, 24, 5, 5) if axis == 2 else features(1, 5, 5, 24))


class TestWarmStart(Block, WarmStart):
    warm = (
        Warm(0.5, ("expand/kernel",), {"variant": "theta_plus", "extent": 4}),
        Warm(0.5, ("expand/kernel",), {"variant": "theta_plus", "reduction": 4}),
        Warm(0.5, ("gather_norm_1/gamma",), {"variant": "theta", "extent": 4}),
        Warm(0.5, ("gather_norm_0/gamma",), {"variant": "theta"}),
    )


class TestNoWarmStart(Block, NoWarmStart):
    refused = {"theta_minus": {"variant": "theta_minus"}}


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 17), st.integers(1, 17)),
        channels=st.integers(1, 20),
        variant=st.sampled_from(["theta_minus", "theta", "theta_plus"]),
        extent=st.sampled_from([0, 2, 4, 8]),
        reduction=st.integers(1, 20),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(
        self, size, channels, variant, extent, reduction, seed
    ):
        arguments = {"variant": variant, "extent": extent, "reduction": reduction}
        x = features(*size, channels, seed=seed)
        layer, weights = live(GatherExcite(**arguments), x.shape, seed)
        y = _numpy(layer(x))
        # relative to x: with few channels all gates may be closed
        expected = reference.forward(x, weights, **arguments)
        assert difference(y, expected, np.abs(x).max()) <= CLOSE
        assert (np.abs(y) <= np.abs(x)).all()

    @pytest.mark.parametrize("extent", [2, 4, 8])
    def test_windows_are_centred_and_do_not_count_padding(self, extent):
        """A map of ones has means of one, at the borders too; a bump is in the middle.

        A pooling with padding "same" centres windows elsewhere, and one that counts
        the padding gives less at the borders.
        """
        layer = GatherExcite("theta_minus", extent)
        ones = np.ones((1, 3 * extent, 2 * extent + 1, 2), "float32")
        y = _numpy(layer(ones))
        assert difference(y, np.full(ones.shape, 1 / (1 + np.exp(-1)))) <= CLOSE
        x = np.zeros((1, 3 * extent, 3 * extent, 1), "float32")
        x[0, extent, extent] = 9
        layer = GatherExcite("theta_minus", extent)
        gates = (_numpy(layer(x + 1e-6)) / (x + 1e-6))[0, :, :, 0]
        # It lies in the middle of the window of cell (1, 1), and in no other.
        cell = np.zeros(gates.shape, bool)
        cell[extent : 2 * extent, extent : 2 * extent] = True
        np.testing.assert_array_equal(gates > 0.501, cell)
        mean = 9 / (2 * extent - 1) ** 2
        assert gates[extent, extent] == pytest.approx(1 / (1 + np.exp(-mean)), 1e-4)

    @pytest.mark.parametrize(("size", "cells"), [(7, 2), (10, 3), (6, 2), (5, 2)])
    def test_nearest_cell_is_by_floor(self, size, cells):
        """Half-pixel centres, as of image resizing, take others where sizes differ."""
        layer, weights = live(GatherExcite("theta", 4), (1, size, 4, 3))
        x = features(1, size, 4, 3)
        gates = _numpy(layer(x))[0, :, 0] / x[0, :, 0]
        expected = reference.cells(x, weights, variant="theta", extent=4)[0, :, 0]
        assert expected.shape[0] == cells
        index = [position * cells // size for position in range(size)]
        # quotients of rounded numbers
        np.testing.assert_allclose(gates, expected[index], rtol=1e-4)

    def test_global_without_parameters_is_the_sigmoid_of_the_mean(self):
        x = features(2, 6, 5, 12)
        y = GatherExcite("theta_minus")(x)
        expected = x / (1 + np.exp(-x.mean((1, 2), keepdims=True)))
        assert difference(_numpy(y), expected) <= CLOSE

    def test_gathering_sees_each_channel_alone(self):
        """Without the bottleneck no gate depends on another channel."""
        x = features(1, 8, 8, 6)
        other = x.copy()
        other[..., 2] += 1
        for variant in ("theta_minus", "theta"):
            layer, _ = live(GatherExcite(variant, 4), x.shape)
            same = (_numpy(layer(x)) == _numpy(layer(other))).all((0, 1, 2))
            np.testing.assert_array_equal(same, np.arange(6) != 2)
        layer, _ = live(GatherExcite("theta_plus", 4, reduction=1), x.shape)
        same = (_numpy(layer(x)) == _numpy(layer(other))).all((0, 1, 2))
        assert not same.any()

    @pytest.mark.parametrize("half", ["bfloat16", "float16"])
    def test_sums_over_the_map_are_float32(self, half):
        """Equal numbers: a sum of 4096 in 8 or 11 bits would stop growing."""
        x = np.ones((1, 64, 64, 2), "float32")
        for layer in (GatherExcite("theta_minus"), GatherExcite("theta_minus", 8)):
            layer = type(layer).from_config(layer.get_config() | {"dtype": half})
            y = _numpy(ops.cast(layer(x), "float32"))
            assert difference(y, np.full(y.shape, 1 / (1 + np.exp(-1)))) <= 0.004
        layer = GatherExcite(
            "theta", kernel_initializer=keras.initializers.Constant(2**-12), dtype=half
        )
        y = _numpy(ops.cast(layer(x), "float32"))
        assert difference(y, np.full(y.shape, 1 / (1 + np.exp(-1)))) <= 0.004


class TestArguments:
    @pytest.mark.parametrize(
        ("variant", "extent", "trainable", "statistics"),
        [
            ("theta_minus", 0, 0, 0),
            ("theta_minus", 8, 0, 0),
            ("theta", 2, 11 * 64, 2 * 64),
            ("theta", 8, 33 * 64, 6 * 64),
            ("theta", 0, 32 * 64, 2 * 64),
            ("theta_plus", 4, 22 * 64 + 2 * 64 * 4 + 68, 4 * 64),
            ("theta_plus", 0, 32 * 64 + 2 * 64 * 4 + 68, 2 * 64),
        ],
    )
    def test_parameter_count(self, variant, extent, trainable, statistics):
        layer = GatherExcite(variant, extent)
        layer.build((None, 6, 5, 64))
        counted = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        assert counted == trainable
        assert layer.count_params() == trainable + statistics

    def test_bottleneck(self):
        for channels, reduction, width in [(64, 16, 4), (8, 16, 1), (20, 3, 6)]:
            layer = get("ge", extent=2, reduction=reduction)
            layer.build((None, None, None, channels))
            assert layer.reduce.filters == width

    def test_arguments_reach_the_sublayers(self):
        arguments = OPTIONS | {"trainable": True}
        layer = GatherExcite(extent=4, reduction=3, **arguments)
        layer.build((None, None, None, 24))
        assert len(layer.losses) == 6  # four kernels, two biases
        np.testing.assert_array_equal(layer.expand.bias, np.ones(24))
        first, second = (_numpy(conv.kernel) for conv in layer.convs)
        assert difference(first, second) > 0.5

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"variant": "theta-minus"}, "variant must be one of.*'theta-minus'"),
            ({"extent": 3}, r"extent must be one of \(0, 2, 4, 8\); received 3"),
            ({"extent": False}, "extent must be one of.*received False"),
            ({"extent": 2.0}, r"extent must be one of.*received 2\.0"),
            ({"reduction": 0}, "reduction must be a positive integer; received 0"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            GatherExcite(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'ge' needs an input of rank 4.*4, 8"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
            (
                "channels_last",
                (None, None, 4, 8),
                "'ge' with extent=0 and variant='theta_plus' needs static height",
            ),
            ("channels_first", (None, 8, 4, None), "static height and width.*4, None"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            GatherExcite(data_format=data_format, name="ge").build(shape)

    def test_refuses_other_channels_after_build(self):
        layer, _ = live(GatherExcite("theta_minus"), (1, 4, 4, 16))
        with pytest.raises(ValueError, match="expected axis 3.*value 16"):
            layer(features(1, 4, 4, 8))


def _numpy(tensor):
    return ops.convert_to_numpy(tensor)

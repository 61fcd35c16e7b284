"""SqueezeExcite: parity with golden file and numpy, definition, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import squeeze_excite as reference
from support.comparing import CLOSE, difference, features
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, built, live
from support.warm_start_suite import NoWarmStart, Warm, WarmStart

from keras_attention import SqueezeExcite
from keras_attention.weights import load_torch


class Block(Suite):
    layer_class = SqueezeExcite
    reference = staticmethod(reference.forward)
    goldens = ("squeeze_excite",)
    cases = (
        {"reduction": 2},
        {"min_channels": 8, "activation": "hard_silu", "gate": "hard_sigmoid"},
        {"reduction": 3, "activation": "silu", "use_bias": False},
    )
    full_config = {
        "reduction": 4,
        "min_channels": 3,
        "activation": "silu",
        "gate": "hard_sigmoid",
        "use_bias": False,
        **OPTIONS,
    }


class TestGolden(Block, Golden):
    pass


class TestLayer(Block, Properties):
    pass


class TestVideo(Block, Properties):
    cases = ({"reduction": 4},)
    sizes = ((3, 4, 5), (2, 5, 3), (4, 1, 2), (1, 1, 1))


class TestWarmStart(Block, WarmStart):
    shapes = ((3, 7, 10), (2, 3, 5, 4))
    warm = (
        Warm(0.5, ("expand/kernel",), {"reduction": 2}),
        Warm(0.5, ("expand/kernel",), {"gate": "hard_sigmoid", "use_bias": False}),
        Warm(1 / 24, ("expand/kernel",), {"gate": "softmax", "reduction": 4}),
    )


class TestNoWarmStart(Block, NoWarmStart):
    refused = {"positive at 0; received 0 there": {"gate": "tanh"}}


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 40),
        reduction=st.integers(1, 48),
        min_channels=st.integers(1, 12),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(
        self, size, channels, reduction, min_channels, seed
    ):
        layer = SqueezeExcite(reduction, min_channels)
        layer, weights = live(layer, (*size, channels), seed)
        assert layer.reduce.filters == max(min_channels, channels // reduction)
        x = features(*size, channels, seed=seed)
        y = apply(layer, x)
        # relative to x: with few channels all gates may be closed
        scale = np.abs(x).max()
        assert difference(y, reference.forward(x, weights), scale) <= CLOSE
        assert (np.abs(y) <= np.abs(x)).all()  # the gate is in [0, 1]

    def test_gate_does_not_see_where(self):
        """It is made of means: not of sums, and not of anything with a place."""
        x = features(2, 6, 5, 24)
        layer, _ = live(SqueezeExcite(4), x.shape)
        y = apply(layer, x)
        order = np.random.default_rng(3).permutation(30)
        moved = x.reshape(2, 30, 24)[:, order].reshape(x.shape)
        expected = y.reshape(2, 30, 24)[:, order].reshape(x.shape)
        assert difference(apply(layer, moved), expected) <= CLOSE
        twice = apply(layer, np.concatenate([x, x], axis=2))
        assert difference(twice, np.concatenate([y, y], axis=2)) <= CLOSE

    def test_gate_is_live(self):
        x = features(4, 6, 5, 24)
        layer, weights = live(SqueezeExcite(4), x.shape)
        gates = apply(layer, x)[:, 0, 0] / x[:, 0, 0]
        assert gates.std() >= 0.05 * gates.mean()
        expected = [reference.gates(sample, weights) for sample in x]
        assert difference(gates, expected) <= CLOSE

    def test_video_is_a_map_of_all_positions(self):
        x = features(2, 3, 4, 5, 24)
        video, weights = live(SqueezeExcite(4), x.shape)
        image = built(SqueezeExcite(4), (2, 12, 5, 24))
        load_torch(image, weights)
        y = apply(image, x.reshape(2, 12, 5, 24)).reshape(x.shape)
        # another order of summing
        assert difference(apply(video, x), y) <= CLOSE


class TestArguments:
    @pytest.mark.parametrize(
        ("channels", "arguments", "width"),
        [
            (64, {}, 4),
            (8, {}, 1),
            (64, {"min_channels": 8}, 8),
            (100, {"reduction": 24}, 4),
            (64, {"use_bias": False}, 4),
        ],
    )
    @pytest.mark.parametrize("rank", [4, 5])
    def test_widths_and_parameters(self, rank, channels, arguments, width):
        layer = SqueezeExcite(**arguments)
        layer.build((None,) * (rank - 1) + (channels,))
        assert layer.reduce.filters == width
        expected = 2 * channels * width
        expected += (width + channels) if layer.use_bias else 0
        assert layer.count_params() == expected

    def test_parameters_of_the_papers_network(self):
        """SE-ResNet-50 has 28,088,024 of them, ResNet-50 25,557,032."""
        added = 0
        for channels, units in [(256, 3), (512, 4), (1024, 6), (2048, 3)]:
            layer = SqueezeExcite()
            layer.build((None, None, None, channels))
            added += units * layer.count_params()
        assert added == 28_088_024 - 25_557_032

    def test_arguments_reach_the_sublayers(self):
        layer = SqueezeExcite(**Block.full_config | {"trainable": True})
        layer.build((None, 4, 6, 24))
        assert len(layer.losses) == 2
        assert not layer.reduce.use_bias and not layer.expand.use_bias
        layer = SqueezeExcite(bias_initializer="ones", bias_regularizer="l1")
        layer.build((None, 4, 6, 24))
        assert len(layer.losses) == 2
        np.testing.assert_array_equal(layer.get_weights()[3], np.ones(24))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"reduction": 0}, "reduction must be a positive integer; received 0"),
            ({"reduction": 2.5}, "reduction must be a positive.*received 2.5"),
            ({"min_channels": True}, "min_channels must be a positive.*received True"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
            ({"activation": "swoosh"}, "swoosh"),
            ({"gate": "swoosh"}, "swoosh"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            SqueezeExcite(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'se' needs an input of rank 4 or 5.*4, 8"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 2, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            SqueezeExcite(data_format=data_format, name="se").build(shape)

"""GlobalContext: parity with golden file and numpy, definition, what it refuses."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import global_context as reference
from support.comparing import CLOSE, difference, features
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import FIRST, apply, built, live, random_weights
from support.warm_start_suite import Warm, WarmStart

from keras_attention import GlobalContext
from keras_attention.weights import load_torch
from keras_attention.weights.torch_state import torch_parameters


class Block(Suite):
    layer_class = GlobalContext
    reference = staticmethod(reference.forward)
    goldens = ("global_context",)
    cases = ({"reduction": 3}, {"min_channels": 10, "fusion": "mul"})
    no_gradient = {"conv_mask.bias": "the softmax over positions cancels it"}
    full_config = {"reduction": 4, "min_channels": 3, "fusion": "mul", **OPTIONS}


class TestGolden(Block, Golden):
    pass


class TestLayer(Block, Properties):
    pass


class TestVideo(Block, Properties):
    cases = ({"reduction": 3},)
    sizes = ((3, 4, 5), (4, 1, 2), (1, 1, 1))


class TestWarmStart(Block, WarmStart):
    shapes = ((3, 7, 10), (2, 3, 5, 4))
    warm = (
        Warm(1, ("expand/kernel",), {"reduction": 3}, starts_so=True),
        Warm(
            0.5, ("expand/kernel",), {"reduction": 3, "fusion": "mul"}, starts_so=True
        ),
    )


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 40),
        width=st.integers(3, 12),
        fusion=st.sampled_from(["add", "mul"]),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(self, size, channels, width, fusion, seed):
        layer = GlobalContext(100, width, fusion=fusion)
        layer, weights = live(layer, (*size, channels), seed)
        x = features(*size, channels, seed=seed)
        y = apply(layer, x)
        # relative to x, or to what is added: that may cancel x, and gates may be closed
        scale = max(np.abs(x).max(), 1)
        expected = reference.forward(x, weights, fusion=fusion)
        assert difference(y, expected, scale) <= CLOSE

    @pytest.mark.parametrize("data_format", ["channels_last", FIRST])
    def test_starts_as_identity(self, data_format):
        x = features(2, 6, 5, 24)
        layer = built(GlobalContext(data_format=data_format), x.shape)
        np.testing.assert_array_equal(apply(layer, x), x)
        # "mul" starts with all gates half open
        layer = built(GlobalContext(fusion="mul", data_format=data_format), x.shape)
        np.testing.assert_array_equal(apply(layer, x), x / 2)

    def test_all_positions_get_the_same(self):
        x = features(3, 6, 5, 24)
        layer, weights = live(GlobalContext(3), x.shape)
        added = apply(layer, x) - x
        assert np.abs(added - added[:, :1, :1]).max() <= CLOSE * np.abs(x).max()
        expected = [reference.transform(sample, weights) for sample in x]
        # a difference of two numbers that may be larger than itself
        assert difference(added[:, 0, 0], expected) <= 2 * CLOSE
        # each sample has its own, and each channel
        assert (added[:, 0, 0].std(0) >= 0.05 * np.abs(added).mean()).mean() >= 0.5
        assert added[:, 0, 0].std(1).min() >= 0.05 * np.abs(added).mean()

    def test_a_sample_does_not_see_the_others(self):
        x = features(3, 6, 5, 24)
        layer, _ = live(GlobalContext(3), x.shape)
        other = x.copy()
        other[1] = 3 * features(6, 5, 24, seed=7)
        y, changed = apply(layer, x), apply(layer, other)
        np.testing.assert_array_equal(changed[[0, 2]], y[[0, 2]])
        assert difference(changed[1], y[1]) >= 0.5

    def test_context_is_a_mean_not_a_sum(self):
        """The same map twice, one below the other, gives the same values twice."""
        x = features(2, 6, 5, 24)
        layer, _ = live(GlobalContext(3), x.shape)
        y = apply(layer, x)
        twice = apply(layer, np.concatenate([x, x], axis=1))
        assert difference(twice, np.concatenate([y, y], axis=1)) <= CLOSE

    def test_mask_is_what_weighs(self):
        """Large scores choose one position; no scores make it the plain mean."""
        x = features(1, 6, 5, 24)
        layer = built(GlobalContext(3), x.shape)
        weights = random_weights(layer)
        direction = weights["conv_mask.weight"].ravel()
        rows = x.reshape(30, 24)
        best = rows[np.argmax(rows @ direction)]
        for factor, context in [(1e4, best), (0, rows.mean(0))]:
            weights["conv_mask.weight"] = factor * direction.reshape(1, 24, 1, 1)
            load_torch(layer, weights)
            alone = np.broadcast_to(context, x.shape).astype("float32")
            expected = apply(layer, alone) - alone
            assert difference(apply(layer, x) - x, expected) <= 2 * CLOSE

    def test_bias_of_the_mask_has_no_effect(self):
        x = features(2, 6, 5, 24)
        layer, weights = live(GlobalContext(3), x.shape)
        y = apply(layer, x)
        load_torch(layer, weights | {"conv_mask.bias": np.array([9.0])})
        assert difference(apply(layer, x), y) <= CLOSE

    @pytest.mark.parametrize("fusion", ["add", "mul"])
    def test_bottleneck_of_one_channel(self, fusion):
        """What is normalized over one channel is beta: a constant, and no blow-up."""
        x = features(3, 6, 5, 24)
        layer, weights = live(GlobalContext(fusion=fusion), x.shape)
        assert layer.reduce.filters == 1
        y = apply(layer, x)
        expected = reference.forward(x, weights, fusion=fusion)
        assert difference(y, expected) <= CLOSE
        changed = y - x if fusion == "add" else y / x
        assert np.ptp(changed, axis=(0, 1, 2)).max() <= CLOSE * np.abs(x).max()

    @pytest.mark.parametrize("data_format", ["channels_last", FIRST])
    def test_large_scores_stay_finite(self, data_format):
        x = 100 * features(2, 6, 5, 24)
        layer, weights = live(GlobalContext(3, data_format=data_format), x.shape)
        expected = reference.forward(x, weights)
        assert difference(apply(layer, x), expected) <= CLOSE

    def test_video_is_a_map_of_all_positions(self):
        x = features(2, 3, 4, 5, 24)
        video, weights = live(GlobalContext(3), x.shape)
        image = built(GlobalContext(3), (2, 12, 5, 24))
        load_torch(image, weights)
        y = apply(image, x.reshape(2, 12, 5, 24)).reshape(x.shape)
        np.testing.assert_array_equal(apply(video, x), y)


class TestArguments:
    @pytest.mark.parametrize(
        ("channels", "arguments", "width"),
        [
            (64, {}, 4),
            (8, {}, 1),
            (64, {"reduction": 4}, 16),
            (64, {"min_channels": 8}, 8),
            (64, {"fusion": "mul"}, 4),
        ],
    )
    @pytest.mark.parametrize("rank", [4, 5])
    def test_widths_and_parameters(self, rank, channels, arguments, width):
        layer = GlobalContext(**arguments)
        layer.build((None,) * (rank - 1) + (channels,))
        assert layer.reduce.filters == width
        c, m = channels, width
        assert layer.count_params() == 2 * c * m + 2 * c + 3 * m + 1

    def test_parameters_of_the_papers_network(self):
        """ResNet-50 with blocks in c3 to c5: 28,078,773, without 25,557,032."""
        added = 0
        for channels, units in [(512, 4), (1024, 6), (2048, 3)]:
            layer = GlobalContext()
            layer.build((None, None, None, channels))
            added += units * layer.count_params()
        assert added == 28_078_773 - 25_557_032

    def test_loads_the_names_of_its_fusion(self):
        x = features(1, 4, 4, 24)
        _, weights = live(GlobalContext(3), x.shape)
        layer, others = live(GlobalContext(3, fusion="mul"), x.shape)
        renamed = [key.replace("add", "mul") for key in weights]
        assert sorted(renamed) == sorted(others)
        with pytest.raises(ValueError, match="channel_mul_conv.*channel_add_conv"):
            load_torch(layer, weights)

    def test_arguments_reach_the_sublayers(self):
        layer = GlobalContext(**Block.full_config | {"trainable": True})
        layer.build((None, 4, 6, 24))
        assert layer.reduce.filters == 6
        assert len(layer.losses) == 6
        weights = {weight.path: weight for weight in layer.weights}
        (bias,) = (w for path, w in weights.items() if path.endswith("reduce/bias"))
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(bias), np.ones(6))

    def test_initial_weights_are_the_authors(self):
        layer = built(GlobalContext(4), (1, 4, 4, 2048))
        mask, reduce, bias = (
            keras.ops.convert_to_numpy(torch_parameters(layer)[name].variable)
            for name in (
                "conv_mask.weight",
                "channel_add_conv.0.weight",
                "channel_add_conv.0.bias",
            )
        )
        # of 2048 normal numbers the deviation is known to 1.6 %, of more even better
        assert mask.std() == pytest.approx((2 / 2048) ** 0.5, rel=0.06)
        for values in (reduce, bias):
            assert np.abs(values).max() <= 2048**-0.5
            assert values.std() == pytest.approx((3 * 2048) ** -0.5, rel=0.06)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"reduction": 0}, "reduction must be a positive integer; received 0"),
            ({"min_channels": 1.5}, "min_channels must be a positive.*received 1.5"),
            ({"fusion": "cat"}, "fusion must be one of.*'add', 'mul'.*received 'cat'"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            GlobalContext(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'gc' needs an input of rank 4 or 5.*4, 8"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 2, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            GlobalContext(data_format=data_format, name="gc").build(shape)

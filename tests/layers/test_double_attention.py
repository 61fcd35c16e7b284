"""DoubleAttention: parity with golden files and numpy, traps, what it refuses."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import double_attention as reference
from support.comparing import CLOSE, array, difference, features
from support.finite_differences import assert_gradients_match
from support.gradients import gradients
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, live, random_weights
from support.warm_start_suite import NoWarmStart, Warm, WarmStart

from keras_attention import DoubleAttention
from keras_attention.weights import load_torch


class Block(Suite):
    layer_class = DoubleAttention
    reference = staticmethod(reference.forward)
    goldens = ("double_attention", "double_attention_3d")
    cases = (
        {},
        {"value_channels": 6, "attention_channels": 10},
        {"residual": False, "use_bias": False},
    )
    channels = 16
    no_gradient = {"convB.bias": "the softmax over positions cancels it"}
    full_config = {
        "value_channels": 5,
        "attention_channels": 7,
        "zero_init_norm": True,
        "use_bias": False,
        **OPTIONS,
    }


class TestGolden(Block, Golden):
    pass


class TestLayer(Block, Properties):
    pass


class TestVideo(Block, Properties):
    cases = ({"value_channels": 6, "attention_channels": 10},)
    channels = 12
    sizes = ((3, 4, 5), (2, 5, 3), (4, 1, 2), (1, 1, 1))


class TestWithNormalization(Block, Properties):
    cases = ({"zero_init_norm": True},)
    # One position per sample leaves three values to normalize, whose variance may be
    # tiny: then rounding is all that is left.
    sizes = ((8, 8), (7, 10), (5, 3))
    no_gradient = Block.no_gradient | {
        "convA.bias": "it comes out as a constant, which the normalization subtracts",
        "conv_reconstruct.bias": "the normalization subtracts it",
    }

    def test_starts_as_identity(self):
        layer = self.make(zero_init_norm=True)
        x = features(2, 6, 5, 16)
        for training in (False, True):
            np.testing.assert_array_equal(apply(layer, x, training), x)
        # Its gradient is not 0: it can leave the identity.
        _, _, found = gradients(layer, x, features(2, 6, 5, 16, seed=2))
        assert np.abs(found[id(layer.norm.gamma)]).max() > 0.1

    def test_statistics_of_a_training_step(self):
        shape = (3, 6, 5, 16)
        layer, weights = self.live(shape, zero_init_norm=True)
        x = features(*shape)
        layer(x, training=True)
        rows = np.array([reference.extension(s.reshape(-1, 16), weights) for s in x])
        rows = rows.reshape(-1, 16)
        mean = 0.9 * weights["bn.running_mean"] + 0.1 * rows.mean(0)
        variance = 0.9 * weights["bn.running_var"] + 0.1 * rows.var(0)
        assert difference(layer.norm.moving_mean, mean) <= CLOSE
        assert difference(layer.norm.moving_variance, variance) <= CLOSE


class TestWarmStart(Block, WarmStart):
    shapes = ((3, 7, 10), (2, 3, 5, 4))
    warm = (
        Warm(1, ("extend/kernel",)),
        Warm(1, ("extend/kernel",), {"use_bias": False}),
        Warm(1, ("norm/gamma",), {"zero_init_norm": True}, starts_so=True),
    )


class TestNoWarmStart(Block, NoWarmStart):
    refused = {"without the residual sum": {"residual": False}}


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 20),
        values=st.none() | st.integers(1, 12),
        maps=st.none() | st.integers(1, 12),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(self, size, channels, values, maps, seed):
        layer, weights = live(DoubleAttention(values, maps), (*size, channels), seed)
        x = features(*size, channels, seed=seed)
        y = layer(x)
        # what is added to x may cancel it, and its terms are of the order of 1
        scale = max(1, np.abs(x).max())
        assert difference(y, reference.forward(x, weights), scale) <= CLOSE
        i = keras.Input(x.shape[1:])
        deployed = keras.Model(i, layer.deploy()(i))
        assert difference(deployed(x), y, scale) <= CLOSE

    @pytest.mark.parametrize(
        ("arguments", "shape"),
        [
            ({"value_channels": 3, "attention_channels": 5}, (2, 4, 3, 6)),
            ({"residual": False, "use_bias": False}, (2, 2, 3, 2, 4)),
            ({"zero_init_norm": True}, (3, 4, 3, 6)),
        ],
    )
    def test_gradients_match_finite_differences(self, arguments, shape):
        normalized = arguments.get("zero_init_norm", False)
        no_gradient = (TestWithNormalization if normalized else Block).no_gradient
        assert_gradients_match(
            DoubleAttention(**arguments, dtype="float64"),
            functools.partial(reference.forward, training=True, **arguments),
            shape,
            entries=6,
            no_gradient=no_gradient,
        )

    def test_a_sample_does_not_see_the_others(self):
        """A softmax along the batch is a known mistake."""
        x = features(3, 6, 5, 16)
        layer, _ = live(DoubleAttention(), x.shape)
        other = x.copy()
        other[1] = 3 * features(6, 5, 16, seed=7)
        y, changed = apply(layer, x), apply(layer, other)
        np.testing.assert_array_equal(changed[[0, 2]], y[[0, 2]])
        assert difference(changed[1], y[1]) >= 0.5

    def test_both_weightings_sum_to_one(self):
        """Gathering over positions, distribution over descriptors.

        With value(x) = 1 everywhere every descriptor is 1, and so is what each position
        receives. Both softmaxes along one axis, another known mistake, do not do that.
        """
        x = features(2, 6, 5, 16)
        layer = DoubleAttention(16, 7, residual=False)
        weights = random_weights(layer.build(x.shape) or layer)
        weights["convA.weight"][:] = 0
        weights["convA.bias"][:] = 1
        weights["conv_reconstruct.weight"] = np.eye(16)[:, :, None, None]
        weights["conv_reconstruct.bias"][:] = 0
        load_torch(layer, weights)
        assert difference(layer(x), np.ones(x.shape)) <= CLOSE

    def test_gathers_means_not_sums(self):
        """The same map twice, one below the other, gives the same values twice."""
        x = features(2, 6, 5, 16)
        layer, _ = live(DoubleAttention(), x.shape)
        twice = apply(layer, np.concatenate([x, x], axis=1))
        assert difference(twice, np.concatenate([apply(layer, x)] * 2, axis=1)) <= CLOSE

    def test_bias_of_the_gathering_maps_has_no_effect(self):
        x = features(2, 6, 5, 16)
        layer, _ = live(DoubleAttention(), x.shape)
        y = apply(layer, x)
        layer.gather.bias.assign(features(8, seed=9))
        assert difference(layer(x), y) <= CLOSE

    def test_video_is_a_map_of_all_positions(self):
        x = features(2, 3, 4, 5, 12)
        video, weights = live(DoubleAttention(), x.shape)
        image, _ = live(DoubleAttention(), (2, 12, 5, 12))
        load_torch(image, weights)
        y = apply(image, x.reshape(2, 12, 5, 12))
        np.testing.assert_array_equal(np.reshape(y, x.shape), apply(video, x))


class TestArguments:
    @pytest.mark.parametrize(
        ("channels", "arguments", "values", "maps"),
        [
            (16, {}, 8, 8),
            (7, {}, 3, 3),
            (1, {}, 1, 1),
            (16, {"value_channels": 5}, 5, 8),
            (16, {"attention_channels": 20}, 8, 20),
            (16, {"use_bias": False}, 8, 8),
            (16, {"zero_init_norm": True}, 8, 8),
        ],
    )
    @pytest.mark.parametrize("rank", [4, 5])
    def test_widths_and_parameters(self, rank, channels, arguments, values, maps):
        layer = DoubleAttention(**arguments)
        layer.build((None,) * (rank - 1) + (channels,))
        c, m, n = channels, values, maps
        assert (layer.value.filters, layer.gather.filters) == (m, n)
        expected = 2 * c * (m + n)
        expected += (m + 2 * n + c) if layer.use_bias else 0
        expected += 2 * c if layer.zero_init_norm else 0
        trainable = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        assert trainable == expected
        statistics = 2 * c if layer.zero_init_norm else 0
        assert layer.count_params() == trainable + statistics
        config = layer.get_config()
        assert config["value_channels"] == arguments.get("value_channels")
        assert config["attention_channels"] == arguments.get("attention_channels")

    def test_arguments_reach_the_sublayers(self):
        layer = DoubleAttention(**Block.full_config | {"trainable": True})
        layer.build((None, 4, 6, 24))
        convs = [layer.value, layer.gather, layer.distribute, layer.extend]
        assert [conv.filters for conv in convs] == [5, 7, 7, 24]
        assert not any(conv.use_bias for conv in convs)
        assert len(layer.losses) == 4
        layer = DoubleAttention(bias_initializer="ones", bias_regularizer="l1")
        layer.build((None, 4, 6, 24))
        assert len(layer.losses) == 4
        np.testing.assert_array_equal(array(layer.extend.bias), np.ones(24))

    def test_initial_kernels_differ(self):
        layer = DoubleAttention()
        layer.build((None, None, None, 64))
        assert difference(layer.gather.kernel, layer.distribute.kernel) > 0.5
        # Glorot's uniform numbers; 2048 of them, whose deviation is known to 1 %
        limit = np.sqrt(6 / (64 + 32))
        assert np.std(array(layer.gather.kernel)) == pytest.approx(
            limit / 3**0.5, rel=0.05
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"value_channels": 0}, "value_channels must be a positive.*received 0"),
            ({"value_channels": 2.5}, "value_channels must be.*received 2.5"),
            ({"attention_channels": True}, "attention_channels must be.*received True"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
            (
                {"zero_init_norm": True, "residual": False},
                "zero_init_norm=True needs residual=True.*received residual=False",
            ),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            DoubleAttention(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'a2' needs an input of rank 4 or 5.*4, 8"),
            (
                "channels_last",
                (None, 2, 2, 2, 2, 8),
                "rank 4 or 5.*two or three spatial",
            ),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_last", (None, 2, 4, 4, None), r"static number of .*\(axis 4"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
            ("channels_first", (None, None, 2, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            DoubleAttention(data_format=data_format, name="a2").build(shape)


def test_large_scores_stay_finite():
    """Scores of some hundreds: a softmax without its maximum would overflow."""
    x = 100 * features(2, 6, 5, 16)
    layer, weights = live(DoubleAttention(), x.shape)
    assert difference(layer(x), reference.forward(x, weights)) <= CLOSE

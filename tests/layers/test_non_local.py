"""NonLocal: parity with golden file and numpy, definition, what it refuses."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import non_local as reference
from support.comparing import CLOSE, difference, features
from support.gradients import gradients
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import FIRST, apply, built, live, random_weights
from support.warm_start_suite import Warm, WarmStart

from keras_attention import NonLocal
from keras_attention.weights import load_torch


class Block(Suite):
    layer_class = NonLocal
    reference = staticmethod(reference.forward)
    goldens = ("non_local",)
    cases = ({}, {"min_channels": 12, "pool": False, "scale": False, "use_bias": False})
    channels = 16
    # One position per sample leaves three values to normalize in training, whose
    # variance may be tiny: then rounding is all that is left. See `TestSmallMaps`.
    sizes = ((8, 8), (7, 5), (1, 6))
    no_gradient = {
        "phi.bias": "the softmax cancels it",
        "g.bias": "it comes out as a constant, which the normalization subtracts",
        "out.bias": "the normalization subtracts it",
    }
    normalized = {"bn": lambda shape: int(np.prod(shape[:-1]))}
    full_config = {
        "reduction": 4,
        "min_channels": 3,
        "pool": False,
        "scale": False,
        "use_bias": False,
        **OPTIONS,
    }


class TestGolden(Block, Golden):
    # Keras computes variances as E[x^2] - E[x]^2 on PyTorch. Here means are up to 16
    # deviations, which leaves 5 of 7 digits; one gradient is off by 1.8e-5.
    tolerance = 3e-5 if keras.backend.backend() == "torch" else CLOSE


class TestLayer(Block, Properties):
    pass


class TestWarmStart(Block, WarmStart):
    shapes = ((3, 7, 10), (2, 3, 5, 4))
    warm = (Warm(1, ("norm/gamma",), starts_so=True),)


class TestVideo(Block, Properties):
    cases = ({},)
    sizes = ((3, 4, 5), (2, 5, 3), (4, 1, 2))


class TestSmallMaps:
    """At inference; see `Block.sizes`."""

    @pytest.mark.parametrize("data_format", ["channels_last", FIRST])
    @pytest.mark.parametrize(
        "sizes", [((1, 1), (1, 2), (3, 1), (3, 3)), ((1, 1, 1), (2, 1, 3))]
    )
    def test_equals_numpy(self, sizes, data_format):
        """A dynamic axis, too, may turn out to have one position."""
        first, rank = data_format == FIRST, len(sizes[0])
        layer = NonLocal(data_format=data_format)
        layer, weights = live(layer, (1, *sizes[0], 16))
        shape = [None] * rank
        inputs = keras.Input([16, *shape] if first else [*shape, 16])
        model = keras.Model(inputs, layer(inputs))
        for size in sizes:
            x = features(3, *size, 16)
            expected = reference.forward(x, weights)
            assert difference(apply(layer, x), expected) <= CLOSE, size
            y = model.predict(np.moveaxis(x, -1, 1) if first else x, verbose=0)
            y = np.moveaxis(y, 1, -1) if first else y
            assert difference(y, expected) <= CLOSE, size


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 20),
        reduction=st.integers(1, 8),
        pool=st.booleans(),
        scale=st.booleans(),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(
        self, size, channels, reduction, pool, scale, seed
    ):
        layer = NonLocal(reduction, pool=pool, scale=scale)
        layer, weights = live(layer, (*size, channels), seed)
        x = features(*size, channels, seed=seed)
        expected = reference.forward(x, weights, pool=pool, scale=scale)
        # what is added to x may cancel it, and its terms are of the order of 1; scores
        # of some tens have a step of 4e-6 in float32
        scale = max(1, np.abs(x).max())
        assert difference(apply(layer, x), expected, scale) <= 2 * CLOSE

    def test_starts_as_identity(self):
        x = features(2, 6, 5, 16)
        layer = built(NonLocal(), x.shape)
        for training in (False, True):
            np.testing.assert_array_equal(apply(layer, x, training), x)
        # Its gradient is not 0: it can leave the identity.
        _, _, found = gradients(layer, x, features(*x.shape, seed=2))
        assert np.abs(found[id(layer.norm.gamma)]).max() > 0.1

    def test_a_sample_does_not_see_the_others(self):
        x = features(3, 6, 5, 16)
        layer, _ = live(NonLocal(), x.shape)
        other = x.copy()
        other[1] = 3 * features(6, 5, 16, seed=7)
        y, changed = apply(layer, x), apply(layer, other)
        np.testing.assert_array_equal(changed[[0, 2]], y[[0, 2]])
        assert difference(changed[1], y[1]) >= 0.5

    def test_every_position_sees_all_windows(self):
        """But not the last row and column of an odd map: they are in no window."""
        x = features(1, 5, 5, 16)
        layer, _ = live(NonLocal(), x.shape)
        y = apply(layer, x)
        inside, outside = x.copy(), x.copy()
        inside[0, 3, 3] += 3
        outside[0, 4, 4] += 3
        changed = np.abs(apply(layer, inside) - y).max(-1)[0]
        assert (changed > 1e-3).all()
        changed = np.abs(apply(layer, outside) - y).max(-1)[0]
        assert changed[4, 4] > 1e-3
        changed[4, 4] = 0
        assert changed.max() <= CLOSE * np.abs(y).max()

    def test_weights_sum_to_one(self):
        """With g(x) = 1 everywhere each position receives 1."""
        x = features(2, 6, 5, 16)
        layer = built(NonLocal(1), x.shape)
        weights = random_weights(layer)
        weights["g.weight"][:] = 0
        weights["g.bias"][:] = 1
        weights["out.weight"] = np.eye(16)[:, :, None, None]
        weights["out.bias"][:] = 0
        load_torch(layer, weights)
        received = apply(layer, x) - x
        expected = (1 - weights["bn.running_mean"]) * weights["bn.weight"]
        expected /= np.sqrt(weights["bn.running_var"] + 1e-5)
        expected = np.broadcast_to(expected + weights["bn.bias"], x.shape)
        assert difference(received, expected) <= CLOSE

    def test_scale_divides_by_the_root_of_the_width(self):
        x = features(2, 6, 5, 16)
        scaled, weights = live(NonLocal(), x.shape)
        plain = built(NonLocal(scale=False), x.shape)
        factor = 8**-0.5  # of 16 / 2 channels
        for key in ("theta.weight", "theta.bias"):
            weights[key] = factor * weights[key]
        load_torch(plain, weights)
        assert difference(apply(plain, x), apply(scaled, x)) <= CLOSE

    def test_bias_of_phi_has_no_effect(self):
        x = features(2, 6, 5, 16)
        layer, weights = live(NonLocal(), x.shape)
        y = apply(layer, x)
        load_torch(layer, weights | {"phi.bias": features(8, seed=9)})
        assert difference(apply(layer, x), y) <= CLOSE

    def test_video_is_pooled_in_height_and_width(self):
        """Twice the same frame is that frame alone, twice: no window has two frames."""
        x = features(2, 1, 5, 4, 16)
        layer, weights = live(NonLocal(), x.shape)
        y = apply(layer, x)
        twice = apply(layer, np.concatenate([x, x], axis=1))
        assert difference(twice, np.concatenate([y, y], axis=1)) <= CLOSE
        image = built(NonLocal(), (2, 5, 4, 16))
        load_torch(image, weights)
        assert difference(apply(image, x[:, 0]), y[:, 0]) <= CLOSE

    def test_large_scores_stay_finite(self):
        """Scores of some thousands: a softmax without its maximum would overflow."""
        x = 30 * features(2, 6, 5, 16)
        layer, weights = live(NonLocal(), x.shape)
        # two near largest scores are told apart to 1e-4, their step in float32
        assert difference(apply(layer, x), reference.forward(x, weights)) <= 1e-3


class TestArguments:
    @pytest.mark.parametrize(
        ("channels", "arguments", "width"),
        [
            (16, {}, 8),
            (7, {}, 3),
            (1, {}, 1),
            (16, {"reduction": 8}, 2),
            (16, {"min_channels": 12}, 12),
            (16, {"use_bias": False}, 8),
        ],
    )
    @pytest.mark.parametrize("rank", [4, 5])
    def test_widths_and_parameters(self, rank, channels, arguments, width):
        layer = NonLocal(**arguments)
        layer.build((None,) * (rank - 1) + (channels,))
        c, m = channels, width
        assert [conv.filters for conv in (layer.theta, layer.phi, layer.g)] == [m] * 3
        expected = 4 * c * m + 2 * c
        expected += (3 * m + c) if layer.use_bias else 0
        trainable = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        assert trainable == expected
        assert layer.count_params() == trainable + 2 * c

    def test_arguments_reach_the_sublayers(self):
        layer = NonLocal(**Block.full_config | {"trainable": True})
        layer.build((None, 4, 6, 24))
        convs = [layer.theta, layer.phi, layer.g, layer.out]
        assert [conv.filters for conv in convs] == [6, 6, 6, 24]
        assert not any(conv.use_bias for conv in convs)
        assert len(layer.losses) == 4
        layer = NonLocal(bias_initializer="ones", bias_regularizer="l1")
        layer.build((None, 4, 6, 24))
        assert len(layer.losses) == 4

    def test_initial_weights_are_the_authors(self):
        layer = built(NonLocal(), (1, 4, 4, 64))
        kernels = [w for w in layer.get_weights() if w.ndim == 4]
        assert len(kernels) == 4
        for kernel in kernels:
            # of 2048 normal numbers the deviation is known to 1.6 %
            assert kernel.std() == pytest.approx(0.01, rel=0.06)
        assert difference(kernels[0], kernels[1]) > 0.5

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"reduction": 0}, "reduction must be a positive integer; received 0"),
            ({"min_channels": 1.5}, "min_channels must be a positive.*received 1.5"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            NonLocal(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'nl' needs an input of rank 4 or 5.*4, 8"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 2, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            NonLocal(data_format=data_format, name="nl").build(shape)

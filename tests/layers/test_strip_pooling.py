"""StripPooling: parity with golden files and numpy, traps, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from reference import strip_pooling as reference
from support.comparing import CLOSE, difference, features
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import live
from support.warm_start_suite import Warm, WarmStart

from keras_attention import StripPooling, get


class Block(Suite):
    layer_class = StripPooling
    reference = staticmethod(reference.forward)
    goldens = ("strip_pooling",)
    full_config = OPTIONS
    normalized = {"spm.bn1": lambda s: s[0] * s[1], "spm.bn2": lambda s: s[0] * s[2]}


class TestGolden(Block, Golden):
    pass


class TestLayer(Block, Properties):
    pass


class TestWarmStart(Block, WarmStart):
    warm = (Warm(0.5, ("mix/kernel",)),)


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 20),
        seed=st.integers(0, 1000),
    )
    def test_any_shape(self, size, channels, seed):
        x = features(*size, channels, seed=seed)
        layer, weights = live(StripPooling(), x.shape, seed)
        y = ops.convert_to_numpy(layer(x))
        # relative to x: with few channels all gates may be closed
        scale = np.abs(x).max()
        assert difference(y, reference.forward(x, weights), scale) <= CLOSE
        assert (np.abs(y) <= np.abs(x)).all()

    def test_gate_of_a_position_sees_its_row_and_column(self):
        """And those beside them, by the kernels of 3; nothing else of the map."""
        x = features(1, 9, 8, 6)
        layer, _ = live(StripPooling(), x.shape)
        other = x.copy()
        other[0, 7, 6] += 1
        before, after = (ops.convert_to_numpy(layer(y)) / y for y in (x, other))
        changed = (after - before)[0]
        changed = np.abs(changed).max(-1) > 1e-6  # rounding of the quotients
        expected = np.zeros((9, 8), bool)
        expected[6:9] = expected[:, 5:8] = True
        np.testing.assert_array_equal(changed, expected)

    def test_rows_and_columns_are_treated_alike(self):
        x = features(2, 6, 9, 12)
        layer, weights = live(StripPooling(), x.shape)
        swapped, _ = live(StripPooling(), x.shape)
        for ours, theirs in [("h", "w"), ("w", "h")]:
            kernel = ops.convert_to_numpy(getattr(layer, f"conv_{ours}").kernel)
            getattr(swapped, f"conv_{theirs}").kernel.assign(kernel.swapaxes(0, 1))
            norm = getattr(layer, f"norm_{ours}").get_weights()
            getattr(swapped, f"norm_{theirs}").set_weights(norm)
        for training in (False, True):
            y = ops.convert_to_numpy(layer(x, training=training))
            turned = swapped(x.swapaxes(1, 2), training=training)
            turned = ops.convert_to_numpy(turned).swapaxes(1, 2)
            assert difference(turned, y) <= CLOSE

    def test_both_kinds_of_strips_matter(self):
        """A sum is no maximum and no product: each strip alone changes all gates."""
        x = features(2, 6, 5, 12)
        layer, _ = live(StripPooling(), x.shape)
        y = ops.convert_to_numpy(layer(x))
        for norm in (layer.norm_h, layer.norm_w):
            before = norm.get_weights()
            norm.beta.assign(before[1] + 1)
            changed = ops.convert_to_numpy(layer(x))
            norm.set_weights(before)
            assert difference(changed, y) >= 0.05
            assert (changed != y).mean() >= 0.9


class TestArguments:
    @pytest.mark.parametrize("channels", [1, 7, 64])
    def test_parameter_count(self, channels):
        layer = StripPooling()
        layer.build((None, None, None, channels))
        trainable = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        assert trainable == 7 * channels**2 + 5 * channels
        assert layer.count_params() == trainable + 4 * channels

    def test_initial_weights_are_the_authors(self):
        layer = StripPooling()
        layer.build((None, None, None, 96))
        for conv, places in [(layer.conv_h, 3), (layer.conv_w, 3), (layer.mix, 1)]:
            # 9216 normal numbers or more: their deviation is known to 0.8 %
            expected = np.sqrt(2 / (96 * places))
            assert np.std(conv.kernel) == pytest.approx(expected, rel=0.03)
        assert layer.conv_h.bias is None and layer.conv_w.bias is None
        assert not np.any(layer.mix.bias)

    def test_arguments_reach_the_sublayers(self):
        layer = get("sp", **OPTIONS | {"trainable": True})
        layer.build((None, 4, 6, 24))
        assert len(layer.losses) == 4  # three kernels, one bias
        np.testing.assert_array_equal(layer.mix.bias, np.ones(24))

    def test_refuses_arguments(self):
        with pytest.raises(ValueError, match="data_format must be one.*'nchw'"):
            StripPooling(data_format="nchw")

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'sp' needs an input of rank 4.*4, 8"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            StripPooling(data_format=data_format, name="sp").build(shape)

    def test_refuses_other_channels_after_build(self):
        layer, _ = live(StripPooling(), (1, 4, 4, 16))
        with pytest.raises(ValueError, match="expected axis 3.*value 16"):
            layer(features(1, 4, 4, 8))

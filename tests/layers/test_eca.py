"""ECA: parity with golden file and numpy, its kernel size, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import eca as reference
from support.comparing import CLOSE, difference, features
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, built, live
from support.warm_start_suite import Warm, WarmStart

from keras_attention import ECA
from keras_attention.weights import load_torch


class Block(Suite):
    layer_class = ECA
    reference = staticmethod(reference.forward)
    goldens = ("eca",)
    cases = ({}, {"kernel_size": 1}, {"kernel_size": 7}, {"gamma": 1, "b": 2.5})
    gain = 4  # of means around 0, whose gates else are near 0.5
    full_config = {
        "kernel_size": 5,
        "gamma": 1.5,
        "b": 2,
        **{key: value for key, value in OPTIONS.items() if "bias" not in key},
    }


class TestGolden(Block, Golden):
    pass


class TestLayer(Block, Properties):
    pass


class TestVideo(Block, Properties):
    cases = ({"kernel_size": 5},)
    sizes = ((3, 4, 5), (2, 5, 3), (4, 1, 2), (1, 1, 1))


class TestWarmStart(Block, WarmStart):
    shapes = ((3, 7, 10), (2, 3, 5, 4))
    warm = (
        Warm(0.5, ("conv/kernel",)),
        Warm(0.5, ("conv/kernel",), {"kernel_size": 7}),
    )


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 40),
        kernel_size=st.none() | st.integers(0, 5).map(lambda half: 2 * half + 1),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(self, size, channels, kernel_size, seed):
        layer, weights = live(ECA(kernel_size), (*size, channels), seed, Block.gain)
        x = features(*size, channels, seed=seed)
        y = apply(layer, x)
        scale = np.abs(x).max()
        assert difference(y, reference.forward(x, weights), scale) <= CLOSE
        assert (np.abs(y) <= np.abs(x)).all()  # the gate is in [0, 1]

    def test_gate_sees_its_neighbours_only(self):
        """And which is on which side: the kernel is not turned round."""
        x = features(1, 6, 5, 24)
        layer, _ = live(ECA(5), x.shape, gain=Block.gain)
        other = x.copy()
        other[..., 10] += 2.0
        gates, changed = (apply(layer, z)[0, 0, 0] / z[0, 0, 0] for z in (x, other))
        logit = np.log(gates / (1 - gates)), np.log(changed / (1 - changed))
        expected = np.zeros(24)
        # channel 10 is the first neighbour of 12 and the last of 8
        expected[8:13] = 2 * layer.get_weights()[0].ravel()[::-1]
        # a logit from a float32 quotient
        np.testing.assert_allclose(logit[1] - logit[0], expected, atol=2e-4)

    def test_gate_is_made_of_means(self):
        x = features(2, 6, 5, 24)
        layer, _ = live(ECA(), x.shape, gain=Block.gain)
        y = apply(layer, x)
        turned = apply(layer, x[:, ::-1])[:, ::-1]
        assert difference(turned, y) <= CLOSE
        twice = apply(layer, np.concatenate([x, x], axis=1))
        assert difference(twice, np.concatenate([y, y], axis=1)) <= CLOSE

    def test_gate_is_live(self):
        x = features(4, 6, 5, 24)
        layer, weights = live(ECA(), x.shape, gain=Block.gain)
        gates = apply(layer, x)[:, 0, 0] / x[:, 0, 0]
        assert gates.std() >= 0.05 * gates.mean()
        expected = [reference.gates(sample, weights) for sample in x]
        assert difference(gates, expected) <= CLOSE

    def test_video_is_a_map_of_all_positions(self):
        x = features(2, 3, 4, 5, 24)
        video, weights = live(ECA(), x.shape, gain=Block.gain)
        image = built(ECA(), (2, 12, 5, 24))
        load_torch(image, weights)
        y = apply(image, x.reshape(2, 12, 5, 24)).reshape(x.shape)
        # another order of summing
        assert difference(apply(video, x), y) <= CLOSE


class TestArguments:
    @pytest.mark.parametrize(
        ("channels", "arguments", "size"),
        [
            # int((log2(C) + 1) / 2), and one more if even
            (1, {}, 1),
            (8, {}, 3),
            (24, {}, 3),
            (64, {}, 3),
            (127, {}, 3),
            (128, {}, 5),
            (256, {}, 5),
            (512, {}, 5),
            (1024, {}, 5),
            (2048, {}, 7),
            (256, {"gamma": 1, "b": 0}, 9),
            (4, {"b": -11}, 5),  # of |-4.5|
            (2048, {"kernel_size": 3}, 3),
        ],
    )
    @pytest.mark.parametrize("rank", [4, 5])
    def test_kernel_size(self, rank, channels, arguments, size):
        layer = ECA(**arguments)
        layer.build((None,) * (rank - 1) + (channels,))
        assert layer.count_params() == size
        assert layer.get_config()["kernel_size"] == arguments.get("kernel_size")

    def test_arguments_reach_the_convolution(self):
        layer = ECA(kernel_initializer="ones", kernel_regularizer="l2")
        layer.build((None, 4, 6, 24))
        np.testing.assert_array_equal(layer.get_weights()[0], np.ones((3, 1, 1)))
        assert len(layer.losses) == 1

    def test_initial_kernel_is_the_authors(self):
        layer = ECA(kernel_size=999)
        layer.build((None, 4, 6, 24))
        (kernel,) = layer.get_weights()
        # uniform numbers within the bound; of 999 the deviation is known to 2 %
        assert np.abs(kernel).max() <= 999**-0.5
        assert kernel.std() == pytest.approx((3 * 999) ** -0.5, rel=0.06)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"kernel_size": 4}, "kernel_size must be odd.*received 4"),
            ({"kernel_size": 0}, "kernel_size must be a positive.*received 0"),
            ({"kernel_size": 3.0}, "kernel_size must be a positive.*received 3.0"),
            ({"gamma": 0}, "gamma must be a positive number; received 0"),
            ({"gamma": "2"}, "gamma must be a positive number; received '2'"),
            ({"gamma": float("inf")}, "gamma must be a positive.*received inf"),
            ({"b": None}, "b must be a finite number; received None"),
            ({"b": True}, "b must be a finite number; received True"),
            ({"b": float("nan")}, "b must be a finite number; received nan"),
            ({"b": float("-inf")}, "b must be a finite number; received -inf"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ECA(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'eca' needs an input of rank 4 or 5.*4"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 2, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            ECA(data_format=data_format, name="eca").build(shape)

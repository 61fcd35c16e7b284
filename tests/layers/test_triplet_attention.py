"""TripletAttention: parity with golden files and numpy, traps, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import triplet_attention as reference
from support.comparing import CLOSE, difference, features
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, live
from support.warm_start_suite import Warm, WarmStart

from keras_attention import TripletAttention


class Block(Suite):
    layer_class = TripletAttention
    reference = staticmethod(reference.forward)
    goldens = ("triplet_attention",)
    cases = ({}, {"kernel_size": 3})
    channels = 10
    full_config = {
        "kernel_size": 5,
        **{key: value for key, value in OPTIONS.items() if "bias" not in key},
    }


class TestGolden(Block, Golden):
    momentum = 0.99
    # (N, H, W, C); each branch takes maxima and means over the axis it has not
    normalized = {
        "cw.conv.bn": lambda s: s[0] * s[3] * s[2],
        "hc.conv.bn": lambda s: s[0] * s[1] * s[3],
        "hw.conv.bn": lambda s: s[0] * s[1] * s[2],
    }


class TestLayer(Block, Properties):
    pass


class TestWarmStart(Block, WarmStart):
    warm = (
        Warm(0.5, ("norm_cw/gamma", "norm_hc/gamma", "norm_hw/gamma")),
        Warm(0.5, ("norm_cw/gamma",), {"kernel_size": 3}),
    )


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 12),
        half=st.integers(0, 4),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_size_of_kernel(self, size, channels, half, seed):
        layer, weights = live(TripletAttention(2 * half + 1), (*size, channels), seed)
        x = features(*size, channels, seed=seed)
        y = apply(layer, x)
        assert difference(y, reference.forward(x, weights)) <= CLOSE
        assert (np.abs(y) <= np.abs(x)).all()  # the gates' mean is in [0, 1]

    @pytest.mark.parametrize("branch", ["cw", "hc", "hw"])
    def test_each_branch_is_a_third(self, branch):
        """The others' gates are closed: what is left is one gate, divided by three."""
        x = features(2, 6, 5, 10)
        layer, weights = live(TripletAttention(), x.shape)
        for name, norm in zip(("cw", "hc", "hw"), layer.norms, strict=True):
            if name != branch:
                norm.gamma.assign([0.0])
                norm.beta.assign([-100.0])
        gate = reference.gates(x, weights, branch)
        gate = {
            "cw": np.swapaxes(gate, 1, 2)[:, None],
            "hc": gate[:, :, None],
            "hw": gate[..., None],
        }[branch]
        assert difference(apply(layer, x), x * gate / 3) <= CLOSE

    def test_maxima_come_first(self):
        """The kernels' first channel belongs to the maxima."""
        x = features(2, 6, 5, 10)
        layer, weights = live(TripletAttention(1), x.shape)
        kernel = np.zeros((1, 1, 2, 1), "float32")
        kernel[0, 0, 0] = 1
        expected = 0
        for conv, norm, axis in zip(layer.convs, layer.norms, (1, 2, 3), strict=True):
            conv.kernel.assign(kernel)
            norm.set_weights([np.ones(1), np.zeros(1), np.zeros(1), np.ones(1)])
            scores = x.max(axis, keepdims=True) / np.sqrt(1 + 1e-5)
            expected = expected + x / (1 + np.exp(-scores)) / 3
        assert difference(apply(layer, x), expected) <= CLOSE

    def test_swapping_height_and_width_swaps_branches(self):
        """The turned map, with all kernels turned, gives the turned output."""
        x = features(2, 6, 5, 10)
        layer, weights = live(TripletAttention(), x.shape)
        other, _ = live(TripletAttention(), (2, 5, 6, 10))
        # (C, W) becomes (C, H): the kernel over (H, C), transposed
        for mine, theirs in ((0, 1), (1, 0), (2, 2)):
            kernel = np.swapaxes(layer.convs[mine].get_weights()[0], 0, 1)
            other.convs[theirs].set_weights([kernel])
            other.norms[theirs].set_weights(layer.norms[mine].get_weights())
        turned = apply(other, np.swapaxes(x, 1, 2))
        assert difference(np.swapaxes(turned, 1, 2), apply(layer, x)) <= CLOSE


class TestArguments:
    @pytest.mark.parametrize(("channels", "size"), [(64, 7), (8, 3), (1, 1)])
    def test_parameters(self, channels, size):
        layer = TripletAttention(size)
        layer.build((None, None, None, channels))
        trainable = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        assert trainable == 6 * size**2 + 6
        assert layer.count_params() == trainable + 6

    def test_arguments_reach_the_sublayers(self):
        layer = TripletAttention(**Block.full_config | {"trainable": True})
        layer.build((None, 4, 6, 24))
        assert len(layer.losses) == 3
        assert {conv.kernel_size for conv in layer.convs} == {(5, 5)}

    def test_starts_as_the_authors_networks(self):
        layer = TripletAttention()
        layer.build((None, None, None, 8))
        kernels = np.array([conv.get_weights()[0] for conv in layer.convs])
        # N(0, 2 / 49); 294 numbers, whose deviation is known to 4 %
        assert kernels.std() == pytest.approx((2 / 49) ** 0.5, rel=0.15)
        assert difference(kernels[0], kernels[1]) > 0.5
        assert all(norm.get_weights()[0] == 1 for norm in layer.norms)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"kernel_size": 0}, "kernel_size must be a positive.*received 0"),
            ({"kernel_size": 3.0}, "kernel_size must be a positive.*received 3.0"),
            ({"kernel_size": 6}, "kernel_size must be odd; received 6"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            TripletAttention(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'three' needs an input of rank 4.*4, 8"),
            ("channels_last", (None, 2, 4, 4, 8), "rank 4 .*two spatial"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            TripletAttention(data_format=data_format, name="three").build(shape)

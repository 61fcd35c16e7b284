"""BAM: parity with golden files and numpy, traps, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import bam as reference
from reference.bam import CHANNEL, SPATIAL
from support.comparing import CLOSE, difference, features
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, live
from support.warm_start_suite import Warm, WarmStart

from keras_attention import BAM

POSITIONS = ("bn_reduce0", "bn_di_0", "bn_di_1")
SUBTRACTED = "the normalization behind it subtracts it"


class Block(Suite):
    layer_class = BAM
    reference = staticmethod(reference.forward)
    goldens = ("bam",)
    cases = ({"reduction": 4}, {"reduction": 2, "dilation": 2, "combine": "product"})
    channels = 16
    full_config = {"reduction": 8, "dilation": 3, "combine": "product", **OPTIONS}
    no_gradient = {
        f"{CHANNEL}fc_0.bias": SUBTRACTED,
        f"{SPATIAL}conv_reduce0.bias": SUBTRACTED,
        f"{SPATIAL}conv_di_0.bias": SUBTRACTED,
        f"{SPATIAL}conv_di_1.bias": SUBTRACTED,
    }
    normalized = {
        f"{CHANNEL}bn_1": lambda shape: shape[0],
        **{
            f"{SPATIAL}{norm}": lambda shape: shape[0] * shape[1] * shape[2]
            for norm in POSITIONS
        },
    }


class TestGolden(Block, Golden):
    # Against the file's largest gradient: two samples are normalized to about 1 and -1
    # whatever the weights are, and what is left of the gradient is mostly cancelled.
    no_gradient = Block.no_gradient | {f"{CHANNEL}fc_0.weight": "nearly cancelled"}


class TestLayer(Block, Properties):
    pass


class TestWarmStart(Block, WarmStart):
    warm = (
        Warm(1.5, ("channel_expand/kernel", "spatial_expand/kernel"), {"reduction": 4}),
        Warm(
            1.5,
            ("channel_expand/kernel",),
            {"reduction": 4, "combine": "product"},
        ),
    )


class TestDefinition:
    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        channels=st.integers(1, 20),
        reduction=st.integers(1, 24),
        dilation=st.integers(1, 5),
        combine=st.sampled_from(["sum", "product"]),
        seed=st.integers(0, 1000),
    )
    def test_any_shape_and_arguments(
        self, size, channels, reduction, dilation, combine, seed
    ):
        layer = BAM(reduction, dilation, combine=combine)
        layer, weights = live(layer, (*size, channels), seed)
        x = features(*size, channels, seed=seed)
        y = apply(layer, x)
        arguments = {"dilation": dilation, "combine": combine}
        assert difference(y, reference.forward(x, weights, **arguments)) <= CLOSE
        # The gate is in [0, 1]: never weaker, at most doubled.
        assert (np.abs(y) >= np.abs(x)).all() and (np.abs(y) <= 2 * np.abs(x)).all()

    def test_sum_is_the_default_and_differs_from_the_product(self):
        x = features(2, 9, 8, 16)
        layer, weights = live(BAM(4), x.shape)
        product, _ = live(BAM(4, combine="product"), x.shape)
        y = apply(layer, x)
        assert difference(y, reference.forward(x, weights, combine="sum")) <= CLOSE
        assert difference(apply(product, x), y) >= 0.05

    def test_channel_statistics_are_of_the_samples_alone(self):
        """Not over positions as well: with one sample nothing is left of it."""
        x = features(1, 9, 8, 16)
        layer, weights = live(BAM(4), x.shape)
        before = layer.channel_norm.get_weights()[3]
        layer(x, training=True)
        after = layer.channel_norm.get_weights()[3]
        assert difference(after, 0.9 * before) <= CLOSE  # the variance is 0

    def test_dilation_skips_pixels(self):
        """A pixel reaches the positions 4 and 8 away, and none between."""
        x = np.abs(features(1, 20, 20, 16))
        layer, weights = live(BAM(4), x.shape)
        # the channel branch sees the mean: leave it out
        layer.channel_expand.set_weights([np.zeros((1, 1, 4, 16)), np.zeros(16)])
        other = x.copy()
        other[0, 10, 10] *= 3
        ratio = (apply(layer, other) / other - apply(layer, x) / x)[0, ..., 0]
        reached = np.abs(ratio) > 1e-5
        near = np.arange(20) % 4 == 2  # 2, 6, 10, 14, 18
        assert not reached[~near].any() and not reached[:, ~near].any()
        assert reached[np.ix_(near, near)].sum() >= 10


class TestArguments:
    @pytest.mark.parametrize(
        ("channels", "arguments", "middle"),
        [(64, {}, 4), (8, {}, 1), (24, {"reduction": 5, "combine": "product"}, 4)],
    )
    def test_parameters(self, channels, arguments, middle):
        layer = BAM(**arguments)
        layer.build((None, None, None, channels))
        c, m = channels, middle
        trainable = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        assert trainable == 3 * c * m + c + 18 * m**2 + 13 * m + 1
        assert layer.count_params() == trainable + 8 * m

    def test_parameters_of_resnet50(self):
        """25,915,099 with BAM behind three stages, 25,557,032 without."""
        count = 0
        for channels in (256, 512, 1024):
            layer = BAM()
            layer.build((None, None, None, channels))
            count += sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        assert count == 25_915_099 - 25_557_032

    def test_arguments_reach_the_sublayers(self):
        layer = BAM(**Block.full_config | {"trainable": True})
        layer.build((None, 4, 6, 24))
        assert len(layer.losses) == 12
        rates = [conv.dilation_rate for conv in layer.spatial_convs]
        assert rates == [(1, 1), (3, 3), (3, 3)]
        np.testing.assert_array_equal(layer.channel_expand.bias, np.ones(24))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"reduction": 0}, "reduction must be a positive integer; received 0"),
            ({"dilation": 1.5}, "dilation must be a positive.*received 1.5"),
            ({"combine": "mean"}, "combine must be one of .*'product'.*'mean'"),
            ({"combine": ["sum"]}, r"combine must be one of .*received \['sum'\]"),
            ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ],
    )
    def test_refuses_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            BAM(**arguments)

    @pytest.mark.parametrize(
        ("data_format", "shape", "message"),
        [
            ("channels_last", (None, 4, 8), "'bam' needs an input of rank 4.*4, 8"),
            ("channels_last", (None, 2, 4, 4, 8), "rank 4 .*two spatial"),
            ("channels_last", (None, 4, 4, None), r"static number of .*\(axis 3"),
            ("channels_first", (None, None, 4, 4), r"static number of .*\(axis 1"),
        ],
    )
    def test_refuses_shapes(self, data_format, shape, message):
        with pytest.raises(ValueError, match=message):
            BAM(data_format=data_format, name="bam").build(shape)

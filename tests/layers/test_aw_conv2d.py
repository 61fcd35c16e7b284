"""AWConv2D: parity with golden files and numpy, and what it shares with Conv2D."""

import functools
import inspect

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from reference import aw_conv2d as reference
from support.comparing import CLOSE, array, difference, features
from support.finite_differences import assert_gradients_match
from support.layer_suite import OPTIONS, Golden, Properties, Suite
from support.torch_weights import apply, live
from support.warm_start_suite import Warm, WarmStart

from keras_attention import AWConv2D
from keras_attention.layers import _aw_forms


class Block(Suite):
    layer_class = AWConv2D
    reference = staticmethod(reference.forward)
    required = {"filters": 24, "kernel_size": (3, 3), "padding": "same", "reduction": 4}
    cases = (
        {},
        {"input_sharing": 1, "use_bias": False, "dilation_rate": (2, 2)},
        {"kernel_size": (1, 1), "input_sharing": 8},
        {"kernel_size": (2, 5), "strides": (3, 2), "filters": 10, "reduction": 100},
        {"groups": 24, "filters": 48, "strides": (2, 1)},
        {
            "groups": 4,
            "input_sharing": 2,
            "dilation_rate": (1, 2),
            "activation": "relu",
        },
    )
    full_config = {
        "kernel_size": (3, 5),
        "strides": (2, 1),
        "padding": "valid",
        "dilation_rate": (1, 1),
        "groups": 2,
        "activation": "relu",
        "use_bias": False,
        **OPTIONS,
        "activity_regularizer": keras.regularizers.L1(1e-3),
        "kernel_constraint": keras.constraints.MaxNorm(3.0),
        "bias_constraint": keras.constraints.NonNeg(),
        "reduction": 6,
        "input_sharing": 3,
    }


class TestGolden(Block, Golden):
    goldens = ("aw_conv2d", "aw_conv2d_unshared")
    normalized = dict.fromkeys(("bn1", "bn2"), lambda shape: 9 * shape[0])


class TestGolden1x1(Block, Golden):
    goldens = ("aw_conv2d_1x1",)
    normalized = dict.fromkeys(("bn1", "bn2"), lambda shape: shape[0])


class TestLayer(Block, Properties):
    def test_refuses_other_shapes_after_build(self):
        """In the words of `keras.layers.Conv2D`."""
        layer, _ = self.live((1, 8, 8, 24))
        with pytest.raises(ValueError, match="expected axis -1.*value 24"):
            layer(features(1, 8, 8, 48))

    def test_gates_are_live(self):
        for case in self.cases:
            shape = (4, 7, 10, 24)
            layer, weights = self.live(shape, **case)
            x = features(*shape)
            gates = reference.attention(x, weights)
            assert gates.std(0).mean() >= 0.05 * gates.mean(), case
            plain = weights | {"bn2.weight": 0 * weights["bn2.weight"]}
            without = reference.forward(x, plain, **self.required | case)
            assert difference(apply(layer, x), without) >= 0.05

    @given(
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        kernel_size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        groups=st.integers(1, 3),
        runs=st.integers(1, 3),
        sharing=st.sampled_from(["all", 1, 2]),
        stride=st.integers(1, 3),
        dilation=st.integers(1, 3),
    )
    def test_any_shape_and_arguments(
        self, size, kernel_size, groups, runs, sharing, stride, dilation
    ):
        arguments = {
            "filters": 2 * groups,
            "kernel_size": kernel_size,
            "groups": groups,
            "input_sharing": sharing,
            "strides": stride,
            "dilation_rate": 1 if stride > 1 else dilation,
            "padding": "same",
        }
        channels = groups * (2 * runs if sharing == 2 else runs)
        shape = (*size, channels)
        layer, weights = live(AWConv2D(**arguments), shape)
        x = features(*shape)
        y = apply(layer, x)
        assert layer.compute_output_shape(shape) == y.shape
        expected = reference.forward(x, weights, **arguments)
        # relative to the input: a sum of few products may be near 0
        scale = max(np.abs(expected).max(), np.abs(x).max())
        assert difference(y, expected, scale) <= CLOSE

    @pytest.mark.parametrize(
        ("arguments", "shape"),
        [
            ({}, (3, 2, 3, 6)),  # by constant kernels
            ({"input_sharing": 2, "padding": "valid"}, (2, 5, 4, 4)),  # by samples
            ({"groups": 2, "input_sharing": 1, "strides": (2, 1)}, (2, 4, 3, 6)),
            ({"groups": 4, "use_bias": False, "dilation_rate": 2}, (2, 4, 3, 4)),
        ],
    )
    def test_gradients_match_finite_differences(self, arguments, shape):
        arguments = {"kernel_size": (3, 2), "padding": "same"} | arguments
        assert_gradients_match(
            AWConv2D(4, reduction=2, **arguments, dtype="float64"),
            functools.partial(reference.forward, training=True, **arguments),
            shape,
            entries=6,
        )

    @pytest.mark.parametrize("sharing", ["all", 1])
    def test_statistics_of_a_training_step(self, sharing):
        shape = (4, 7, 10, 24)
        layer, weights = self.live(shape, input_sharing=sharing)
        x = features(*shape)
        layer(x, training=True)
        a = reference.pooled(x, 3, 3) @ weights["pw1.weight"][:, :, 0, 0].T
        for norm, name in ((layer.reduce_norm, "bn1"), (layer.expand_norm, "bn2")):
            mean = 0.9 * weights[f"{name}.running_mean"] + 0.1 * a.mean((0, 1, 2))
            variance = 0.9 * weights[f"{name}.running_var"] + 0.1 * a.var((0, 1, 2))
            assert difference(norm.moving_mean, mean) <= CLOSE
            assert difference(norm.moving_variance, variance) <= CLOSE
            a = np.maximum(reference.normalized(a, weights, name, training=True), 0)
            a = a @ weights["pw2.weight"][:, :, 0, 0].T if name == "bn1" else a

    @pytest.mark.parametrize("half", ["bfloat16", "float16"])
    def test_means_of_halves_are_float32(self, half):
        """In bfloat16 a mean of 300 would be 1 off, in float16 a sum overflow."""
        x = ops.cast(300 + 20 * features(2, 40, 31, 8), half)
        means = _aw_forms.adaptive_mean(x, (3, 2))
        assert keras.backend.standardize_dtype(means.dtype) == "float32"
        x = ops.convert_to_numpy(ops.cast(x, "float32")).astype("float64")
        assert difference(means, reference.pooled(x, 3, 2)) <= 1e-6

    def test_windows_of_the_means_are_pytorchs(self):
        """They overlap on 5 positions: 0 1, 1 2 3, 3 4; and repeat on 2: 0, 0 1, 1."""
        x = np.arange(10.0, dtype="float32").reshape(1, 5, 2, 1) ** 2
        means = array(_aw_forms.adaptive_mean(x, (3, 3)))
        for i, rows in enumerate(([0, 1], [1, 2, 3], [3, 4])):
            for j, columns in enumerate(([0], [0, 1], [1])):
                expected = x[0][rows][:, columns].mean()
                assert means[0, i, j, 0] == pytest.approx(expected, rel=1e-6)


class TestWarmStart(Block, WarmStart):
    """A factor of the kernel."""

    warm = tuple(
        Warm(1.5, ("expand_norm/gamma",), arguments)
        for arguments in (
            {},
            {"input_sharing": 8, "strides": 2},
            {"groups": 24, "filters": 48},
        )
    )
    rounding = 0.02  # of 216 products, too

    def expected(self, layer, x, scale):
        y = ops.conv(
            x,
            scale * layer.kernel,
            layer.strides,
            layer.padding,
            data_format="channels_last",
        )
        return array(y + layer.bias)


class TestDropIn:
    def test_arguments_are_those_of_conv2d(self):
        ours = list(inspect.signature(AWConv2D).parameters.values())
        theirs = list(inspect.signature(keras.layers.Conv2D).parameters.values())
        count = len(theirs) - 1  # without **kwargs
        assert [(p.name, p.default) for p in ours[:count]] == [
            (p.name, p.default) for p in theirs[:count]
        ]
        more = {p.name: p.default for p in ours[count:-1]}
        assert more == {"reduction": 16, "input_sharing": "all"}
        assert {p.kind for p in ours[count:-1]} == {inspect.Parameter.KEYWORD_ONLY}

    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"strides": 2},
            {"strides": (2, 3), "padding": "same", "kernel_size": (4, 3)},
            {"dilation_rate": (2, 1), "activation": "tanh"},
            {"dilation_rate": 2, "padding": "same", "use_bias": False},
            {"groups": 8, "padding": "same", "strides": 2},
            {"groups": 2, "kernel_size": 1},
        ],
    )
    def test_closed_gates_leave_an_ordinary_convolution(self, arguments):
        arguments = {"filters": 16, "kernel_size": 3} | arguments
        x = features(2, 12, 13, 8)
        layer, weights = live(AWConv2D(**arguments), x.shape)
        layer.expand_norm.gamma.assign(np.zeros(16))
        layer.expand_norm.beta.assign(np.full(16, -100.0))  # sigmoid: 0
        conv = keras.layers.Conv2D(**arguments)
        conv.build(x.shape)
        bias = [layer.bias] if layer.use_bias else []
        conv.set_weights([array(w) for w in (layer.kernel, *bias)])
        assert difference(layer(x), conv(x)) <= CLOSE
        assert layer.compute_output_shape(x.shape) == conv(x).shape

    def test_options_reach_the_weights(self):
        layer = AWConv2D(
            12,
            3,
            kernel_initializer="zeros",
            bias_initializer="ones",
            kernel_regularizer=keras.regularizers.L2(1.0),
            kernel_constraint="non_neg",
        )
        layer.build((None, 9, 9, 512))
        assert not np.any(array(layer.kernel))
        assert np.all(array(layer.bias) == 1)
        assert layer.kernel.constraint is not None
        assert layer.reduce.kernel.constraint is None
        penalties = sorted(float(loss) for loss in layer.losses)
        # He initialization: sum of squares of (in, out) numbers is near 2 * out, known
        # to 1 % for 16384 of them and to 7 % for 384
        assert penalties[0] == 0
        assert penalties[1] == pytest.approx(2 * 12, rel=0.3)
        assert penalties[2] == pytest.approx(2 * 32, rel=0.05)

    @pytest.mark.parametrize(
        ("arguments", "c", "m", "runs"),
        [
            ({}, 64, 4, 1),
            ({"input_sharing": 16}, 64, 4, 4),
            ({"groups": 4, "input_sharing": 8, "reduction": 8}, 16, 8, 2),
            ({"groups": 64, "reduction": 100}, 1, 1, 1),
        ],
    )
    def test_parameter_count(self, arguments, c, m, runs):
        layer = AWConv2D(128, (3, 5), **arguments)
        layer.build((None, 9, 9, 64))
        trainable = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        expected = 15 * c * 128 + 128 + m * (64 + 2) + (m + 2) * 128 * runs
        assert trainable == expected
        assert layer.count_params() == trainable + 2 * (m + 128 * runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "filters must be a positive integer; received 0"),
        ({"filters": None}, "filters must be a positive integer; received None"),
        ({"reduction": 0}, "reduction must be a positive integer; received 0"),
        ({"reduction": 2.5}, "reduction must be a positive.*received 2.5"),
        ({"input_sharing": 0}, 'input_sharing.*"all".*positive integer; received 0'),
        ({"input_sharing": "none"}, "input_sharing.*positive.*received 'none'"),
        ({"groups": 3}, "filters must be evenly divisible.*groups=3"),
        ({"strides": 2, "dilation_rate": 2}, "strides > 1.*dilation_rate > 1"),
        ({"padding": "causal"}, "padding.*causal"),
        ({"padding": "full"}, "padding.*full"),
        ({"activation": "swoosh"}, "swoosh"),
        ({"data_format": "nchw"}, "data_format.*nchw"),
        ({"kernel_size": 0}, "kernel_size"),
    ],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AWConv2D(**{"filters": 8, "kernel_size": 3} | arguments)


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({}, (None, 8, 8), r"'aw' needs an input of rank 4.*8, 8"),
        ({}, (None, 8, 8, None), r"static number of channels \(axis 3"),
        (
            {"data_format": "channels_first"},
            (None, None, 8, 8),
            r"static number of channels \(axis 1",
        ),
        ({"groups": 4}, (None, 8, 8, 6), "channels must be.*divisible.*groups=4"),
        ({"input_sharing": 5}, (None, 8, 8, 16), "'aw'.*input_sharing.*received 5"),
        (
            {"input_sharing": 8, "groups": 4},
            (None, 8, 8, 16),
            r"input_sharing must divide.*16 / 4 = 4; received 8",
        ),
        ({}, (None, 2, 8, 16), "output size"),
    ],
)
def test_refuses_shapes(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        AWConv2D(8, 3, name="aw", **arguments).build(shape)

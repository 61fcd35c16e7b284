"""CoordAttention: parity with the authors' code and with numpy, and what it refuses."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import coord_attention as reference
from support.comparing import CLOSE, array, difference, features
from support.gradients import FLOAT64_CLOSE, double_precision, gradients
from support.live_coord_attention import deployed, live_layer, set_weights
from support.torch_weights import apply
from support.warm_start_suite import NoWarmStart, Warm, WarmStart

from keras_attention import CoordAttention

FORMATS = ("channels_last", "channels_first")


@pytest.fixture(scope="module")
def golden_file(golden):
    return golden("coord_attention")


@pytest.fixture
def golden_layer(golden_file):
    layer = CoordAttention(**json.loads(str(golden_file["config_json"])))
    layer.build(golden_file["x"].shape)
    keys = {
        "f1": "conv1.weight",
        "f1_bias": "conv1.bias",
        "gamma": "bn1.weight",
        "beta": "bn1.bias",
        "mean": "bn1.running_mean",
        "variance": "bn1.running_var",
        "f_h": "conv_h.weight",
        "f_h_bias": "conv_h.bias",
        "f_w": "conv_w.weight",
        "f_w_bias": "conv_w.bias",
    }
    weights = {ours: golden_file[f"param/{theirs}"] for ours, theirs in keys.items()}
    for kernel in ("f1", "f_h", "f_w"):
        weights[kernel] = weights[kernel][:, :, 0, 0].T
    set_weights(layer, weights)
    return layer


class TestGolden:
    def test_inference(self, golden_layer, golden_file):
        y = golden_layer(golden_file["x"], training=False)
        assert difference(y, golden_file["y_inference"]) <= CLOSE

    def test_training(self, golden_layer, golden_file):
        variables = {
            "conv1.weight": golden_layer.reduce.kernel,
            "conv1.bias": golden_layer.reduce.bias,
            "bn1.weight": golden_layer.norm.gamma,
            "bn1.bias": golden_layer.norm.beta,
            "conv_h.weight": golden_layer.expand_h.kernel,
            "conv_h.bias": golden_layer.expand_h.bias,
            "conv_w.weight": golden_layer.expand_w.kernel,
            "conv_w.bias": golden_layer.expand_w.bias,
        }
        y, dx, found = gradients(
            golden_layer, golden_file["x"], golden_file["cotangent"]
        )
        assert difference(y, golden_file["y_training"]) <= CLOSE
        assert difference(dx, golden_file["dx_training"]) <= CLOSE
        expected = {name: golden_file[f"grad/{name}"] for name in variables}
        largest = max(np.abs(gradient).max() for gradient in expected.values())
        for name, variable in variables.items():
            gradient = found[id(variable)]
            if gradient.ndim == 4:
                gradient = gradient.transpose(3, 2, 0, 1)
            # the bias in front of a normalization has gradient 0 by definition
            scale = largest if name == "conv1.bias" else None
            assert difference(gradient, expected[name], scale) <= CLOSE, name

    def test_running_statistics_after_one_step(self, golden_layer, golden_file):
        x = golden_file["x"]
        golden_layer(x, training=True)
        mean, variance = (
            array(golden_layer.norm.moving_mean),
            array(golden_layer.norm.moving_variance),
        )
        assert difference(mean, golden_file["after_step/bn1.running_mean"]) <= CLOSE
        # PyTorch averages the unbiased variance, Keras the biased one
        positions = x.shape[0] * (x.shape[1] + x.shape[2])
        kept = 0.9 * golden_file["param/bn1.running_var"]
        unbiased = kept + (variance - kept) * positions / (positions - 1)
        assert difference(unbiased, golden_file["after_step/bn1.running_var"]) <= CLOSE


class TestNumpyParity:
    @pytest.mark.parametrize("data_format", FORMATS)
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize(
        "shape",
        [(2, 14, 9, 64), (1, 8, 8, 16), (3, 5, 7, 20), (2, 1, 6, 8), (2, 1, 1, 8)],
    )
    def test_output(self, shape, training, data_format):
        layer, weights = live_layer(shape[-1])
        if data_format == "channels_first":
            layer = CoordAttention(data_format=data_format)
            layer.build((None, shape[-1], None, None))
            set_weights(layer, weights)
        x = features(*shape)
        y = apply(layer, x, training)
        assert y.shape == shape
        assert difference(y, reference.coord_attention(x, weights, training)) <= CLOSE

    def test_gradients_match_finite_differences(self):
        x = features(2, 4, 3, 6).astype("float64")
        cotangent = features(2, 4, 3, 6, seed=2).astype("float64")
        with double_precision():
            layer, weights = live_layer(6, min_channels=3, dtype="float64")
            _, _, found = gradients(layer, x, cotangent)
        variables = {
            "f1": layer.reduce.kernel,
            "gamma": layer.norm.gamma,
            "beta": layer.norm.beta,
            "f_h": layer.expand_h.kernel,
            "f_h_bias": layer.expand_h.bias,
            "f_w": layer.expand_w.kernel,
            "f_w_bias": layer.expand_w.bias,
        }

        def loss_at(name, index, step):
            moved = weights[name].copy()
            moved.flat[index] += step
            y = reference.coord_attention(x, weights | {name: moved}, training=True)
            return (y * cotangent).sum()

        for name, variable in variables.items():
            gradient = found[id(variable)].ravel()
            step = 1e-5  # error of a central difference: step**2 and 1e-16 / step
            numeric = [
                (loss_at(name, i, step) - loss_at(name, i, -step)) / (2 * step)
                for i in range(gradient.size)
            ]
            # the swish has kinks at -3 and 3, none of them within a step here
            assert difference(gradient, numeric) <= FLOAT64_CLOSE, name

    @pytest.mark.parametrize("data_format", FORMATS)
    def test_dynamic_height_and_width(self, data_format):
        last, weights = live_layer(12)
        layer = CoordAttention(data_format=data_format)
        first = data_format == "channels_first"
        x = keras.Input((12, None, None) if first else (None, None, 12))
        model = keras.Model(x, layer(x))
        set_weights(layer, weights)
        for size in [(5, 8), (9, 3)]:
            x = features(2, *size, 12)
            y = model.predict(x.transpose(0, 3, 1, 2) if first else x, verbose=0)
            y = y.transpose(0, 2, 3, 1) if first else y
            assert difference(y, reference.coord_attention(x, weights)) <= CLOSE
        assert model.output_shape == model.input_shape

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
        layer, weights = live_layer(
            channels, seed, reduction=reduction, min_channels=min_channels
        )
        x = features(*size, channels, seed=seed)
        y = apply(layer, x)
        # relative to x: with few channels all gates may be closed
        scale = np.abs(x).max()
        assert difference(y, reference.coord_attention(x, weights), scale) <= CLOSE
        assert difference(deployed(layer, x.shape[1:])(x), y, scale) <= CLOSE
        assert (np.abs(y) <= np.abs(x)).all()  # both gates are in [0, 1]


class TestWarmStart(WarmStart):
    layer_class = CoordAttention
    warm = tuple(
        Warm(scale, ("expand_h/kernel", "expand_w/kernel"), arguments)
        for scale, arguments in (
            (0.25, {"bias_initializer": "ones"}),
            (0.25, {"gate": "hard_sigmoid", "activation": "relu"}),
            (1, {"gate": "exponential"}),
        )
    )


class TestNoWarmStart(NoWarmStart):
    layer_class = CoordAttention
    refused = {
        "positive at 0; received 0 there": {"gate": "relu"},
        "positive at 0; received -0.69": {"gate": "log_sigmoid"},
    }


class TestProperties:
    def test_samples_are_independent_at_inference(self):
        layer, _ = live_layer(24)
        x = features(4, 6, 5, 24)
        together = apply(layer, x)
        alone = np.concatenate([apply(layer, x[i : i + 1]) for i in range(4)])
        # other batch sizes may take another matrix product: rounding only
        assert difference(alone, together) <= 1e-6

    def test_rows_and_columns_are_treated_alike(self):
        layer, weights = live_layer(24)
        swapped = CoordAttention()
        swapped.build((None, None, None, 24))
        names = {"f_h": "f_w", "f_w": "f_h", "f_h_bias": "f_w_bias"}
        names["f_w_bias"] = "f_h_bias"
        set_weights(swapped, {names.get(k, k): v for k, v in weights.items()})
        x = features(2, 6, 9, 24)
        for training in (False, True):
            y = apply(layer, x, training)
            turned = apply(swapped, x.swapaxes(1, 2), training)
            assert difference(turned.swapaxes(1, 2), y) <= CLOSE

    def test_every_weight_gets_a_gradient(self):
        layer, _ = live_layer(24)
        x = features(4, 6, 5, 24)
        _, _, found = gradients(layer, x, features(4, 6, 5, 24, seed=2))
        assert len(found) == 8
        largest = max(np.abs(gradient).max() for gradient in found.values())
        for variable in layer.trainable_variables:
            gradient = np.abs(found[id(variable)])
            if variable is layer.reduce.bias:
                # the normalization behind it subtracts it again
                assert gradient.max() <= CLOSE * largest
            else:
                assert (gradient > 0).all(), variable.path

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    def test_mixed_precision(self, policy):
        layer, weights = live_layer(24, dtype=policy)
        half = policy.removeprefix("mixed_")
        # a row sums up to 3e5, far over float16's largest number
        x = 1000 + 300 * features(2, 300, 4, 24)
        for training in (False, True):
            y = layer(x, training=training)
            assert keras.backend.standardize_dtype(y.dtype) == half
            y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
            assert np.isfinite(y).all()
        assert {w.dtype for w in layer.weights} == {"float32"}
        x = features(2, 9, 4, 24)
        y = apply(layer, x, training=True)
        # 8 significant bits in bfloat16 (11 in float16), through five operations
        tolerance = 0.04 if half == "bfloat16" else 0.005
        expected = reference.coord_attention(x, weights, training=True)
        assert difference(y, expected) <= tolerance

    def test_frozen_layer_keeps_its_statistics(self):
        layer = CoordAttention(trainable=False)
        x = features(2, 6, 5, 16)
        y = layer(x, training=True)
        assert layer.trainable_weights == []
        np.testing.assert_array_equal(array(layer.norm.moving_mean), np.zeros(8))
        assert difference(layer(x, training=False), y) == 0

    def test_initial_weights_are_the_authors(self):
        layer = CoordAttention(min_channels=64)
        layer.build((None, None, None, 512))
        for conv, outputs in [
            (layer.reduce, 64),
            (layer.expand_h, 512),
            (layer.expand_w, 512),
        ]:
            # 32768 normal numbers: their deviation is known to 0.4 %
            assert np.std(array(conv.kernel)) == pytest.approx(
                np.sqrt(2 / outputs), rel=0.02
            )
            assert not np.any(array(conv.bias))
        assert difference(layer.expand_h.kernel, layer.expand_w.kernel) > 0.5

    @pytest.mark.parametrize(
        ("arguments", "channels", "bottleneck"),
        [({}, 64, 8), ({}, 960, 30), ({"reduction": 16}, 960, 60), ({}, 8, 8)],
    )
    def test_parameter_count(self, arguments, channels, bottleneck):
        layer = CoordAttention(**arguments)
        layer.build((None, None, None, channels))
        trainable = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
        c, m = channels, bottleneck
        assert trainable == 3 * c * m + 3 * m + 2 * c
        assert layer.count_params() == trainable + 2 * m


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduction": 0}, "reduction must be a positive integer; received 0"),
        ({"reduction": 2.5}, "reduction must be a positive integer; received 2.5"),
        ({"min_channels": True}, "min_channels must be a positive.*received True"),
        ({"data_format": "nchw"}, "data_format must be one of.*received 'nchw'"),
        ({"activation": "swoosh"}, "swoosh"),
        ({"gate": "swoosh"}, "swoosh"),
    ],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoordAttention(**arguments)


@pytest.mark.parametrize(
    ("data_format", "shape", "message"),
    [
        ("channels_last", (None, 4, 8), r"'coord' needs an input of rank 4.*4, 8"),
        ("channels_last", (None, 4, 4, None), r"static number of channels \(axis 3"),
        ("channels_first", (None, None, 4, 4), r"static number of channels \(axis 1"),
    ],
)
def test_refuses_shapes(data_format, shape, message):
    with pytest.raises(ValueError, match=message):
        CoordAttention(data_format=data_format, name="coord").build(shape)


def test_refuses_other_channels_after_build():
    layer, _ = live_layer(16)
    with pytest.raises(ValueError, match="expected axis 3.*value 16"):
        layer(features(1, 4, 4, 8))

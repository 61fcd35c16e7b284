"""AWConv2D: its equal forms, its mobile form, and the int8 files of it."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from support.comparing import CLOSE, difference, features
from support.deploy_suite import Deploy, Int8, deployed, int8_file
from support.layer_suite import Suite

from keras_attention import AWConv2D, mobile
from keras_attention.layers import _aw_forms

FORMS = {
    "patches": _aw_forms.by_patches,
    "samples": _aw_forms.by_samples,
    "static": _aw_forms.by_static_kernels,
    "channels": _aw_forms.by_channels,
    "chosen": _aw_forms.convolve,
}
ONCE = {"strides": (1, 1), "padding": "same", "dilation": (1, 1)}
GEOMETRIES = (
    ONCE,
    {"strides": (3, 2), "padding": "same", "dilation": (1, 1)},
    {"strides": (2, 3), "padding": "valid", "dilation": (1, 1)},
    {"strides": (1, 1), "padding": "valid", "dilation": (2, 3)},
    {"strides": (1, 1), "padding": "same", "dilation": (3, 2)},
    {"strides": (2, 2), "padding": "same", "dilation": (1, 1)},
)


def geometries(form):
    """Returns what a form is for: depthwise convolutions have equal strides."""
    equal = [g for g in GEOMETRIES if len(set(g["strides"])) == 1]
    return equal if form == "channels" else GEOMETRIES


def inputs(kernel_size, channels, filters, runs, groups=1):
    rng = np.random.default_rng(0)
    x = features(3, 11, 12, channels)
    kernel = features(*kernel_size, channels // groups, filters, seed=2)
    gates = rng.uniform(size=(3, *kernel_size, filters * runs)).astype("float32")
    return x, kernel, gates


def one_by_one(x, kernel, gates, groups, strides, padding, dilation):
    """Convolves each sample in turn with (1 + A) * K; groups one after the other."""
    channels, filters = kernel.shape[2:]
    runs = gates.shape[-1] // filters
    samples = []
    for sample, a in zip(x, gates, strict=True):
        a = a.reshape(*kernel.shape[:2], filters, runs)
        a = a.repeat(channels // runs, axis=-1).swapaxes(2, 3)
        own, each = (1 + a) * kernel, filters // groups
        outputs = [
            ops.conv(
                sample[None, ..., g * channels : (g + 1) * channels],
                own[..., g * each : (g + 1) * each],
                strides=strides,
                padding=padding,
                dilation_rate=dilation,
            )
            for g in range(groups)
        ]
        samples.append(np.concatenate(outputs, axis=-1))
    return np.concatenate(samples)


class TestForms:
    @pytest.mark.parametrize("kernel_size", [(3, 3), (1, 1), (2, 4)])
    @pytest.mark.parametrize(
        ("form", "channels", "filters", "runs", "groups"),
        [
            ("chosen", 6, 12, 1, 6),
            ("patches", 8, 6, 1, 1),
            ("patches", 8, 6, 4, 1),
            ("patches", 8, 6, 2, 2),
            ("patches", 6, 12, 1, 6),
            ("samples", 8, 6, 1, 1),
            ("samples", 8, 6, 8, 1),
            ("static", 8, 6, 1, 1),
            ("channels", 6, 6, 1, 6),
        ],
    )
    def test_equals_a_loop_over_the_batch(
        self, form, channels, filters, runs, groups, kernel_size
    ):
        arrays = inputs(kernel_size, channels, filters, runs, groups)
        for geometry in geometries(form):
            expected = one_by_one(*arrays, groups, **geometry)
            tensors = map(tf.constant, arrays)
            y = FORMS[form](*tensors, groups, **geometry)
            assert y.shape == expected.shape
            assert difference(y, expected) <= CLOSE, geometry

    @pytest.mark.parametrize("form", FORMS)
    def test_with_all_sizes_dynamic(self, form):
        groups = 6 if form == "channels" else 1
        x, kernel, gates = inputs((3, 2), 6, 12, 1, groups)
        for geometry in geometries(form):
            signature = [
                tf.TensorSpec((None, None, None, 6)),
                tf.TensorSpec((None,) * 4),
            ]

            @tf.function(input_signature=signature)
            def function(x, gates, geometry=geometry):
                gates = tf.ensure_shape(gates, (None, 3, 2, 12))
                return FORMS[form](x, tf.constant(kernel), gates, groups, **geometry)

            for part in (x, x[:2, :8, 1:]):
                count = len(part)
                y = function(part, gates[:count])
                expected = one_by_one(part, kernel, gates[:count], groups, **geometry)
                assert difference(y, expected) <= CLOSE, geometry

    @pytest.mark.parametrize(
        ("form", "channels", "runs", "groups"),
        [
            ("samples", 8, 1, 1),
            ("samples", 8, 4, 1),
            ("static", 8, 1, 1),
            ("channels", 6, 1, 6),
        ],
    )
    def test_gradients_are_equal(self, form, channels, runs, groups):
        arrays = inputs((3, 3), channels, 6, runs, groups)
        x, kernel, gates = map(tf.constant, arrays)
        for geometry in geometries(form):
            found = []
            for each in (form, "patches"):
                with tf.GradientTape() as tape:
                    tape.watch([x, kernel, gates])
                    y = FORMS[each](x, kernel, gates, groups, **geometry)
                    loss = tf.reduce_sum(y * y)
                found.append(tape.gradient(loss, [x, kernel, gates]))
            for actual, expected in zip(*found, strict=True):
                assert difference(actual, expected) <= CLOSE, geometry

    @pytest.mark.parametrize(
        ("form", "size", "kernel_size", "runs", "groups"),
        [
            ("by_samples", 5, 3, 1, 1),  # 25 positions, 16 channels
            ("by_samples", 5, 3, 4, 1),
            ("by_static_kernels", 4, 3, 1, 1),
            ("by_static_kernels", 5, 1, 1, 1),
            ("by_static_kernels", None, 3, 1, 1),
            ("by_patches", 4, 3, 4, 1),
            ("by_patches", 5, 3, 1, 2),
            ("by_channels", 5, 3, 1, 16),
        ],
    )
    def test_choice_on_a_cpu(self, form, size, kernel_size, runs, groups, monkeypatch):
        chosen = []
        monkeypatch.setattr(_aw_forms._common, "on_tensorflow_cpu", lambda: True)
        monkeypatch.setattr(_aw_forms, form, lambda *args, **geometry: chosen.append(1))
        x = keras.KerasTensor((None, size, size, 16))
        kernel = np.zeros((kernel_size, kernel_size, 16 // groups, 16))
        gates = np.zeros((1, kernel_size, kernel_size, 16 * runs))
        _aw_forms.convolve(x, kernel, gates, groups, **ONCE)
        assert chosen == [1]


class Block(Suite):
    layer_class = AWConv2D
    required = {"filters": 24, "kernel_size": 3, "padding": "same", "reduction": 4}
    sizes = ((8, 7), (1, 1))
    cases = (
        {},
        {"kernel_size": 1, "input_sharing": 1, "padding": "valid"},
        {"kernel_size": (2, 5), "strides": (3, 2), "filters": 10},
        {"groups": 24, "filters": 48, "strides": (2, 1)},
        {"groups": 24, "dilation_rate": (2, 1)},
        {"groups": 4, "input_sharing": 2, "dilation_rate": (1, 2)},
        {"groups": 4, "activation": "relu", "use_bias": False},
        {"input_sharing": 8, "strides": 2, "activation": "tanh"},
        {"kernel_size": 2, "dilation_rate": 3},  # of (1, 1) it sees padding alone
    )


def kinds(model):
    return collections.Counter(type(op).__name__ for op in model.operations)


class TestDeploy(Block, Deploy):
    def test_gates_are_those_of_the_layer(self):
        layer, _ = self.live((4, 8, 7, 24), name="aw", filters=12)
        x = features(4, 8, 7, 24)
        model = deployed(layer, x.shape[1:])
        gate = keras.Model(model.input, model.get_layer("aw_gate").output)(x).numpy()
        a = attention(layer, x)
        assert difference(gate, np.reshape(a, (4, 9, 1, 12))) <= CLOSE
        assert gate.std(0).mean() >= 0.05 * gate.mean()

    def test_shared_gates_are_products_behind_convolutions(self):
        layer, _ = self.live((2, 8, 8, 24), use_bias=False)
        found = kinds(deployed(layer, (8, 8, 24)))
        assert found["Conv2D"] == 9 + 2
        assert found["Multiply"] == 9
        assert found["Add"] == 8 + 1
        assert found["Mean"] == 9
        assert "Matmul" not in found and "DepthwiseConv2D" not in found

    @pytest.mark.parametrize(("sharing", "products"), [(48, 0), (24, 1), (1, 1)])
    def test_long_runs_of_channels_are_convolved(self, sharing, products):
        layer, _ = self.live((2, 6, 5, 96), input_sharing=sharing)
        x = features(2, 6, 5, 96)
        model = deployed(layer, x.shape[1:])
        assert kinds(model)["Matmul"] == products
        assert kinds(model)["Conv2D"] == (2 if products else 2 * 9 + 2)
        assert difference(model(x), layer(x)) <= CLOSE

    def test_grouped_kernels_stay_block_diagonal(self):
        layer, _ = self.live((2, 8, 8, 24), groups=4, name="aw")
        tap = deployed(layer, (8, 8, 24)).get_layer("aw_tap_4")
        kernel = np.asarray(tap.kernel)[0, 0]
        blocks = kernel.reshape(4, 6, 4, 6)
        assert np.array_equal(np.asarray(layer.kernel)[1, 1, :, :6], blocks[0, :, 0])
        assert np.count_nonzero(kernel) == 24 * 6
        assert np.array_equal(
            tap.kernel_constraint(np.ones((24, 24))) != 0, kernel != 0
        )

    def test_normalization_behind_it_is_folded_into_the_bias(self):
        shape = (3, 8, 8, 24)
        layer, _ = self.live(shape, name="aw")
        norm = keras.layers.BatchNormalization(name="norm")
        x = keras.Input(shape[1:])
        model = keras.Model(x, norm(layer(x)))
        rng = np.random.default_rng(0)
        norm.set_weights(rng.uniform(0.5, 1.5, (4, 24)))
        images = features(*shape)
        flat = mobile.deploy(model)
        assert difference(flat(images), model(images)) <= CLOSE
        assert len(flat.weights) == len(deployed(layer, shape[1:]).weights)

    def test_inherits_trainable(self):
        layer, _ = self.live((2, 8, 8, 24), name="aw", kernel_size=1)
        layer.reduce.trainable = False
        model = deployed(layer, (8, 8, 24))
        trained = {inner.name for inner in model.layers if inner.trainable_weights}
        assert trained == {"aw_expand", "aw_tap_0", "aw_bias"}


def attention(layer, x):
    """Returns A of an image, (N, h, w, F * J)."""
    a = layer.reduce_norm(layer.reduce(_aw_forms.adaptive_mean(x, layer.kernel_size)))
    return ops.sigmoid(layer.expand_norm(layer.expand(ops.relu(a))))


def convolved(layer, x, a):
    """Returns what a layer gives for x with this attention."""
    a = ops.broadcast_to(a, (len(x), *a.shape[1:]))
    geometry = {"padding": layer.padding, "dilation": layer.dilation_rate}
    geometry["strides"] = layer.strides
    y = _aw_forms.convolve(x, layer.kernel, a, layer.groups, **geometry)
    return layer.activation(y + layer.bias if layer.use_bias else y)


class LiveInt8(Block, Int8):
    """Nets whose attention differs from sample to sample by more than int8's error.

    Else, the files could hold any mean of A: normal numbers have nearly the same means
    in all samples, and A the same values.
    """

    required = Block.required | {"filters": 32}
    channels = 32
    gain = 1.5

    def live(self, shape, seed=0, **arguments):
        layer, weights = super().live(shape, seed, **arguments)
        weights["bn2.weight"] *= 4
        layer.expand_norm.gamma.assign(weights["bn2.weight"])
        return layer, weights

    def data(self, kind, shape, seed=3):
        rng = np.random.default_rng(seed)
        means = rng.uniform(-1.5, 1.5, (shape[0], 1, 1, shape[-1]))
        x = (features(*shape, seed=seed) + means).astype("float32")
        if kind != "normal":
            x = np.maximum(x, 0)
            x[..., shape[-1] // 2] = 0
        if kind == "weak":
            # In order, they would be weak groups, a quarter of the map with all of the
            # signal: the error with groups=4 is then up to 6.8 %.
            order = np.random.default_rng(9).permutation(shape[-1])
            x *= np.geomspace(0.05, 1, shape[-1], dtype="float32")[order]
        return x

    def net(self, kind, shape, case):
        """Returns data, the net, and the net with the attention at its mean over x."""
        x, model, _ = super().net(kind, shape, case)
        layer = model.get_layer("block")
        before = keras.Model(model.input, layer.input)
        mean = ops.mean(attention(layer, before(x)), axis=0, keepdims=True)

        def held(x):
            a, y = attention(layer, before(x)).numpy(), before(x)
            assert difference(convolved(layer, y, a), model(x)) <= CLOSE
            assert a.std(0).mean() >= 0.05 * a.mean(), case
            return convolved(layer, y, mean)

        return x, model, held


class TestInt8(LiveInt8):
    kernels = 12  # nine places, two of the gates, the bias as scale and shift
    int8_cases = (
        {},
        {"groups": 4, "strides": 2, "activation": "relu"},
        {"groups": 32, "use_bias": False},
        {"input_sharing": 1, "use_bias": False},
    )


class TestInt8OfOtherShapes(LiveInt8):
    required = LiveInt8.required | {"groups": 32, "filters": 64, "kernel_size": (2, 3)}
    kernels = 5  # of 1.5 K, of K, two of the gates, the bias
    int8_cases = (
        {"dilation_rate": (1, 2)},  # depthwise, with a multiplier
        {"filters": 32, "kernel_size": 3, "strides": (2, 1)},
        {"groups": 1, "kernel_size": 1},
        {"groups": 1, "filters": 24, "kernel_size": (2, 4), "dilation_rate": 2},
        {"groups": 1, "filters": 24, "kernel_size": (1, 2), "strides": (1, 2)},
    )

    @pytest.mark.parametrize("kind", ["dead"])
    def test_int8(self, kind, tmp_path):
        super().test_int8(kind, tmp_path)


class TestInt8OfLongRuns(LiveInt8):
    channels = 96
    required = LiveInt8.required | {"input_sharing": 48, "kernel_size": (1, 3)}
    kernels = 3 * 2 + 3

    @pytest.mark.parametrize("kind", ["dead"])
    def test_int8(self, kind, tmp_path):
        super().test_int8(kind, tmp_path)


class TestInt8File:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (
                {},
                {
                    "CONV_2D": 9 + 2,
                    "DEPTHWISE_CONV_2D": 1,  # the bias
                    "MUL": 9,
                    "ADD": 8 + 1,  # and 1 + A; no kernel is made
                    "STRIDED_SLICE": 9 + 9 + 9,  # windows, places, gates
                },
            ),
            (
                {"groups": 24},
                {
                    "CONV_2D": 2,
                    "DEPTHWISE_CONV_2D": 3,  # by 1.5 K, the kernels, the bias
                    "SUB": 1,  # A - 0.5
                    "MUL": 9,
                    "ADD": 9,
                    "STRIDED_SLICE": 9 + 9 + 9,
                },
            ),
        ],
    )
    def test_operators(self, arguments, expected, tmp_path):
        layer, _ = Block().live((1, 10, 12, 24), **arguments)
        x = features(4, 10, 12, 24)
        *_, runner = int8_file(deployed(layer, x.shape[1:]), x, tmp_path / "aw.tflite")
        operators = dict(runner.file.operators)
        operators.pop("RESHAPE")
        windows = {"MEAN": 9, "CONCATENATION": 4}
        assert operators == windows | {"LOGISTIC": 1, "PAD": 1} | expected

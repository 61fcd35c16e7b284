"""`warm_start=True`: what constants are divided out of, and what bars their way."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.inserting import UNCHANGED, change
from support.mobile_nets import randomize
from support.small_networks import images

from keras_attention import models
from keras_attention.grouped import BlockDiagonal
from keras_attention.layers._grouped_conv import GroupedConv2D


@keras.saving.register_keras_serializable("test_insertion_warm_start")
class Gate(layers.Layer):
    """x * sigmoid(w * x): any rank, and a constant gate where w is 0."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), initializer="ones", name="w")

    def call(self, x):
        return x * ops.sigmoid(self.w * x)

    def warm_start(self):
        self.w.assign(ops.zeros_like(self.w))
        return 0.5


def network(behind, before=(), shape=(6, 6, 4)):
    """input, `before`, "here", `behind`, of layers or functions; random weights."""
    x = inputs = keras.Input(shape, name="image")
    for stage in (*before, layers.Identity(name="here"), *behind):
        x = stage(x)
    return randomize(keras.Model(inputs, x))


def warm(model, at="here", block=Gate):
    return models.insert(model, block, at=at, warm_start=True)


def data(model, seed=0):
    shapes = [(3, *tensor.shape[1:]) for tensor in model.inputs]
    values = [images(*shape, seed=seed + n) for n, shape in enumerate(shapes)]
    return values if len(values) > 1 else values[0]


def check(model, **arguments):
    x, result = data(model), warm(model, **arguments)
    assert change(result, model, x) <= UNCHANGED
    assert change(models.insert(model, Gate, at="here"), model, x) >= 0.01
    return result


def dense(**arguments):
    return layers.Dense(5, name="dense", **arguments)


def flat(x):
    return layers.Flatten()(x)


def squeezed(x):
    """x times a gate computed from x: squeeze-and-excitation of separate layers."""
    z = layers.GlobalAveragePooling2D(keepdims=True)(x)
    z = layers.Conv2D(2, 1, activation="swish", name="squeeze")(z)
    z = layers.Conv2D(4, 1, activation="sigmoid", name="excite")(z)
    return layers.Multiply()([x, z])


BEHIND = {
    "Conv1D": ((4, 4), [layers.Conv1D(3, 3, activation="swish")]),
    "Conv2D": ((6, 6, 4), [layers.Conv2D(3, 3, padding="same", activation="relu6")]),
    "Conv3D": ((4, 4, 4, 2), [layers.Conv3D(3, 3, activation="tanh")]),
    "Conv1DTranspose": ((4, 4), [layers.Conv1DTranspose(3, 3, activation="swish")]),
    "Conv2DTranspose": ((4, 4, 4), [layers.Conv2DTranspose(3, 3), ops.sigmoid]),
    "Conv3DTranspose": ((3, 3, 3, 2), [layers.Conv3DTranspose(3, 3), ops.sigmoid]),
    "DepthwiseConv1D": ((6, 4), [layers.DepthwiseConv1D(3), ops.sigmoid]),
    "DepthwiseConv2D": ((6, 6, 4), [layers.DepthwiseConv2D(3), ops.sigmoid]),
    "SeparableConv1D": ((6, 4), [layers.SeparableConv1D(3, 3), ops.sigmoid]),
    "SeparableConv2D": ((6, 6, 4), [layers.SeparableConv2D(3, 3), ops.sigmoid]),
    "EinsumDense": ((4,), [layers.EinsumDense("ab,bc->ac", 3, bias_axes="c")]),
    "GroupedConv2D": ((6, 6, 4), [GroupedConv2D(4, 3, groups=2), ops.sigmoid]),
    "BlockDiagonal": (
        (6, 6, 4),
        [layers.Conv2D(4, 1, kernel_constraint=BlockDiagonal(2)), ops.sigmoid],
    ),
    "BatchNormalization": ((6, 6, 4), [layers.BatchNormalization(), ops.sigmoid]),
    "BatchNormalization, no center": (
        (6, 6, 4),
        [layers.BatchNormalization(center=False), ops.sigmoid],
    ),
    "BatchNormalization, no scale": (
        (6, 6, 4),
        [layers.BatchNormalization(scale=False), ops.sigmoid],
    ),
    **{
        type(layer).__name__ + str(number): ((6, 6, 4), [layer, flat, dense()])
        for number, layer in enumerate(
            [
                layers.ReLU(),
                layers.ReLU(negative_slope=0.2),
                layers.LeakyReLU(),
                layers.PReLU(shared_axes=(1, 2)),
                layers.Activation("relu"),
                layers.Activation("linear"),
                layers.AveragePooling2D(2),
                layers.MaxPooling2D(2, padding="same"),
                layers.GlobalAveragePooling2D(),
                layers.GlobalMaxPooling2D(),
                layers.ZeroPadding2D(),
                layers.Cropping2D(),
                layers.UpSampling2D(interpolation="bilinear"),
                layers.Dropout(0.5),
                layers.SpatialDropout2D(0.5),
                layers.Permute((2, 3, 1)),
                layers.Reshape((36, 4)),
                layers.Rescaling(3.0),
            ]
        )
    },
    **{
        f"operation {number}": ((6, 6, 4), [function, flat, dense()])
        for number, function in enumerate(
            [
                ops.relu,
                ops.abs,
                lambda x: ops.mean(x, axis=(1, 2), keepdims=True),
                lambda x: ops.max(x, axis=-1),
                lambda x: ops.transpose(x, (0, 3, 1, 2)),
                lambda x: ops.reshape(x, (-1, 4, 36)),
                lambda x: x[:, ::2],
                lambda x: 3.0 * x,
                lambda x: ops.concatenate([x, ops.relu(x)], axis=-1),
                lambda x: ops.add(x, ops.relu(x)),
                lambda x: x - ops.average_pool(x, 3, 1, "same"),
                lambda x: ops.max_pool(x, 2),
            ]
        )
    },
    "squeeze and excitation": ((6, 6, 4), [squeezed, flat, dense()]),
    "all operands": (
        (6, 6, 4),
        [lambda x: layers.Add()([x, layers.ReLU()(x), x]), flat, dense()],
    ),
    "concatenation": (
        (6, 6, 4),
        [lambda x: layers.Concatenate()([x, layers.ReLU()(x)]), flat, dense()],
    ),
}


class TestBehind:
    """The constant is divided out of what follows; the input keeps its size."""

    @pytest.mark.parametrize("name", BEHIND)
    def test_is_absorbed(self, name):
        shape, behind = BEHIND[name]
        check(network(behind, shape=shape))

    def test_normalizations_follow_their_input(self):
        """As training would have it, which gamma / c alone would not survive."""
        model = network([layers.BatchNormalization(name="bn"), ops.sigmoid])
        old = model.get_layer("bn")
        new = check(model).get_layer("bn")
        for name, factor in (("moving_mean", 0.5), ("moving_variance", 0.25)):
            expected = factor * np.asarray(getattr(old, name))
            np.testing.assert_allclose(getattr(new, name), expected, rtol=1e-6)
        # gamma makes up for epsilon, 1e-3 beside a variance of at least 0.5 / 4
        np.testing.assert_allclose(new.gamma, old.gamma, rtol=1e-2)
        x = data(model)
        assert change(warm(model), model, x, training=True) <= 2e-2

    def test_a_shared_layer_absorbs_once(self):
        shared = dense()

        def twice(x):
            return layers.Add()([shared(x), shared(layers.ReLU()(x))])

        check(network([flat, twice]))

    def test_across_nested_models(self):
        x = inner = keras.Input((6, 6, 4))
        x = layers.ReLU()(layers.Identity(name="here")(x))
        base = keras.Model(inner, x, name="base")
        check(network([base, layers.MaxPooling2D(), flat, dense()]))

    def test_a_nested_model_called_twice(self):
        x = inner = keras.Input((6, 6, 4))
        x = layers.Conv2D(3, 3, name="after")(layers.Identity(name="here")(x))
        base = keras.Model(inner, layers.Activation("swish")(x), name="base")
        a, b = (keras.Input((6, 6, 4), name=name) for name in "ab")
        check(randomize(keras.Model([a, b], layers.Subtract()([base(a), base(b)]))))


def swish(x):
    return layers.Activation("swish", name="swish")(x)


def skip(*branch):
    """x + branch(x)."""

    def function(x):
        y = x
        for layer in branch:
            y = layer(y)
        return layers.Add(name="sum")([x, y])

    return function


class TestBefore:
    """Where what follows can't, what comes before makes the input larger."""

    @pytest.mark.parametrize(
        ("before", "behind"),
        [
            ([layers.Conv2D(4, 3, name="conv")], [swish]),
            ([layers.Conv2D(4, 3, activation="relu")], [layers.ReLU(6.0)]),
            ([layers.SeparableConv2D(4, 3)], [swish]),
            ([layers.DepthwiseConv2D(3), layers.ReLU()], [layers.LayerNormalization()]),
            ([layers.BatchNormalization()], [swish]),
            ([layers.BatchNormalization(center=False), layers.ReLU()], [ops.sigmoid]),
            ([layers.Conv2D(4, 3), layers.MaxPooling2D(), ops.relu], [swish]),
            # The model's output.
            ([layers.Conv2D(4, 3, name="conv")], []),
        ],
    )
    def test_is_made_larger(self, before, behind):
        before, behind = (
            [
                type(x).from_config(x.get_config()) if hasattr(x, "get_config") else x
                for x in stages
            ]
            for stages in (before, behind)
        )
        check(network(behind, before))

    def test_before_a_sum(self):
        branch = [
            layers.Conv2D(4, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.Identity(name="here"),
        ]
        x = inputs = keras.Input((6, 6, 4))
        model = randomize(keras.Model(inputs, skip(*branch)(x)))
        result = check(model)
        for name in ("gamma", "beta"):
            old, new = (getattr(m.get_layer("bn"), name) for m in (model, result))
            np.testing.assert_allclose(new, 2 * np.asarray(old), rtol=1e-6)

    def test_both_operands_of_a_sum(self):
        def total(x):
            y = layers.Conv2D(4, 1, name="one")(x)
            return layers.Add()([y, layers.Conv2D(4, 1, name="two")(x)])

        check(network([swish], [total]))


class Bare(layers.Layer):
    def call(self, x):
        return x


@keras.saving.register_keras_serializable("test_insertion_warm_start")
class Negative(Bare):
    def warm_start(self):
        return -1.0


@keras.saving.register_keras_serializable("test_insertion_warm_start")
class OwnConv(layers.Conv2D):
    """A subclass: whether it is linear is not known."""


def constrained():
    return layers.Conv2D(4, 3, name="conv", kernel_constraint="unit_norm")


class TestRefuses:
    @pytest.mark.parametrize(
        ("before", "behind", "message"),
        [
            ([], [], "behind it .it reaches an output.*before it .it reaches an input"),
            ([], [swish], r"behind it .'swish' .Activation. does not pass it on"),
            (
                [layers.Activation("tanh", name="tanh")],
                [swish],
                r"before it .'tanh' .Activation. does not pass it on",
            ),
            ([], [skip(dense())], "'sum' joins it with something else"),
            ([], [lambda x: layers.Multiply(name="p")([x, x])], "'p' multiplies it by"),
            ([], [OwnConv(4, 3, name="own")], r"'own' .OwnConv. does not pass it on"),
            ([], [constrained()], "'kernel' of 'conv' has a constraint"),
            ([dense(activation="swish")], [], "activation of 'dense' does not pass"),
            (
                [layers.BatchNormalization(scale=False, name="bn")],
                [],
                "'bn' has no scale",
            ),
            (
                [lambda x: layers.BatchNormalization(name="bn")(x, training=True)],
                [],
                r"'bn' .BatchNormalization. does not pass it on",
            ),
            ([], [lambda x: x + 1.0], r"behind it .'add.*. .Add. does not pass it on"),
            (
                [],
                [lambda x: ops.max(x, axis=-1, initial=0.5), dense()],
                r"behind it .'max.*. .Max. does not pass it on",
            ),
            (
                [],
                [lambda x: ops.cast(ops.cast(9 * x, "int32"), "float32"), dense()],
                r"behind it .'cast.*. .Cast. does not pass it on",
            ),
        ],
    )
    def test_what_bars_both_ways(self, before, behind, message):
        model = network(behind, before, shape=(6, 6, 5))
        weights = model.get_weights()
        message = f"no warm start for layer 'here_attention'.* 0.5, can't.*{message}"
        with pytest.raises(ValueError, match=message):
            warm(model)
        for old, new in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_variances_that_are_too_small(self):
        norm = layers.BatchNormalization(scale=False, name="bn")
        model = network([norm])
        norm.moving_variance.assign(np.zeros(4))
        with pytest.raises(ValueError, match="'bn' has no scale, and too small a vari"):
            warm(model)

    def test_shared_layers(self):
        shared = layers.Conv2D(4, 1, name="shared")

        def one_branch(x):
            here = layers.Identity(name="here")(x)
            return layers.Add()([shared(here), shared(swish(x))])

        x = inputs = keras.Input((6, 6, 4))
        with pytest.raises(ValueError, match="'shared' is called on something else"):
            warm(keras.Model(inputs, one_branch(x)))

        def made_by(x):
            here = layers.Identity(name="here")(shared(x))
            return [swish(here), shared(here)]

        with pytest.raises(ValueError, match="'shared' is called elsewhere, too"):
            warm(keras.Model(inputs, made_by(x)))

    def test_other_readers(self):
        x = inputs = keras.Input((6, 6, 4))
        y = layers.Conv2D(4, 1, name="conv")(x)
        here = swish(layers.Identity(name="here")(y))
        model = keras.Model(inputs, [here, y])
        with pytest.raises(ValueError, match="the model's caller reads 'conv', too"):
            warm(model)
        model = keras.Model(inputs, [here, layers.ReLU(name="other")(y)])
        with pytest.raises(ValueError, match="'other' reads 'conv', too"):
            warm(model)

    def test_low_rank_updates(self):
        model = network([dense()], shape=(4,))
        model.get_layer("dense").enable_lora(2)
        with pytest.raises(ValueError, match="'dense' is quantized, or has a low-rank"):
            warm(model)

    def test_quantized_kernels(self):
        model = network([dense()], shape=(4,))
        model.get_layer("dense").quantize("int8")
        with pytest.raises(ValueError, match="'dense' is quantized, or has a low-rank"):
            warm(model)

    @pytest.mark.parametrize(
        ("block", "message"),
        [
            (Bare, r"layer 'here_attention' .Bare. has no method warm_start"),
            (Negative, "warm_start.. of layer 'here_attention' must.*received -1"),
        ],
    )
    def test_blocks(self, block, message):
        with pytest.raises(ValueError, match=message):
            warm(network([dense()]), block=block)

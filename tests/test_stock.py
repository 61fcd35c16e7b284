import keras
import numpy as np
import pytest

from keras_attention import stock

RNG = np.random.default_rng(0)


def features(*shape):
    return RNG.normal(0, 1, shape).astype("float32")


def check(layer, name, kind):
    assert type(layer) is kind
    assert layer.name == name
    assert layer.built
    assert layer.dtype_policy.name == "float32"


@pytest.mark.parametrize("bias", [features(6), None])
def test_pointwise(bias):
    kernel, x = features(4, 6), features(2, 5, 3, 4)
    layer = stock.pointwise(kernel, bias, name="mix", trainable=False)
    check(layer, "mix", keras.layers.Conv2D)
    expected = np.einsum("nhwi,io->nhwo", x, kernel) + (0 if bias is None else bias)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)  # sums of 4 terms
    assert layer.trainable_weights == []
    assert len(layer.weights) == (1 if bias is None else 2)


@pytest.mark.parametrize("shift", [features(4), None])
def test_scale_shift(shift):
    scale, x = features(4), features(2, 5, 3, 4)
    layer = stock.scale_shift(scale, shift, name="affine")
    check(layer, "affine", keras.layers.DepthwiseConv2D)
    expected = x * scale + (0 if shift is None else shift)
    np.testing.assert_allclose(layer(x), expected, atol=1e-6)  # one product, one sum
    assert len(layer.trainable_weights) == (1 if shift is None else 2)


def test_group_sum_and_spread():
    x = features(2, 5, 3, 12)
    total = stock.group_sum(12, 4, name="sum")
    spread = stock.group_spread(4, 12, name="spread")
    check(total, "sum", keras.layers.Conv2D)
    check(spread, "spread", keras.layers.Conv2D)
    expected = x.reshape(2, 5, 3, 4, 3).sum(-1)
    np.testing.assert_allclose(total(x), expected, atol=1e-5)  # sums of 3 terms
    np.testing.assert_array_equal(spread(x[..., :4]), x[..., :4].repeat(3, -1))
    for layer in (total, spread):
        assert layer.trainable_weights == []
        assert set(np.unique(layer.kernel)) == {0.0, 1.0}
        assert not layer.use_bias
        assert type(layer).from_config(layer.get_config()).trainable is False


def test_groups_must_divide():
    with pytest.raises(ValueError, match="groups=5, channels=12"):
        stock.group_sum(12, 5, name="sum")
    with pytest.raises(ValueError, match="groups=0, channels=12"):
        stock.group_spread(0, 12, name="spread")


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_batch_norm_affine(scale, center):
    layer = keras.layers.BatchNormalization(scale=scale, center=center, epsilon=0.01)
    layer.build((None, 4, 4, 6))
    for variable in layer.weights:
        variable.assign(RNG.uniform(0.1, 2, 6))
    a, b = stock.batch_norm_affine(layer)
    assert a.dtype == b.dtype == "float32"
    assert a.shape == b.shape == (6,)
    x = features(2, 4, 4, 6)
    # Keras divides by the deviation in another order: a rounding per operation
    np.testing.assert_allclose(layer(x), x * a + b, atol=1e-5)


def test_batch_norm_affine_of_half_precision_weights():
    layer = keras.layers.BatchNormalization(dtype="bfloat16")
    layer.build((None, 4, 4, 6))
    layer.gamma.assign(np.full(6, 0.5))
    scale, shift = stock.batch_norm_affine(layer)
    np.testing.assert_allclose(scale, 0.5 / np.sqrt(1.001), rtol=1e-6)
    assert not shift.any()


def test_batch_norm_affine_refuses_an_unbuilt_layer():
    with pytest.raises(ValueError, match="'bn' must be built"):
        stock.batch_norm_affine(keras.layers.BatchNormalization(name="bn"))


@pytest.mark.parametrize("use_bias", [True, False])
def test_fold(use_bias):
    conv = keras.layers.Conv2D(6, 1, use_bias=use_bias)
    norm = keras.layers.BatchNormalization()
    conv.build((None, 4, 4, 3))
    norm.build((None, 4, 4, 6))
    for variable in conv.weights + norm.weights:
        variable.assign(RNG.uniform(0.1, 2, variable.shape))
    kernel, bias = stock.fold(conv, norm)
    assert kernel.dtype == bias.dtype == "float64"
    x = features(2, 4, 4, 3)
    # a rounding per operation, on values up to 10
    np.testing.assert_allclose(norm(conv(x)), x @ kernel + bias, atol=1e-5)


def randomized(layer, channels):
    layer.build((None, None, None, channels))
    for variable in layer.weights:
        variable.assign(RNG.uniform(0.1, 2, variable.shape))
    return layer


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("use_bias", [True, False])
def test_convolution(groups, use_bias):
    kernel, bias = features(3, 2, 8 // groups, 12), features(12) if use_bias else None
    layer = stock.convolution(
        kernel, bias, groups, name="conv", strides=2, padding="same", trainable=False
    )
    check(layer, "conv", keras.layers.Conv2D)
    assert layer.groups == 1 and layer.kernel.shape == (3, 2, 8, 12)
    assert np.count_nonzero(layer.kernel) == kernel.size
    assert layer.trainable_weights == [] and layer.use_bias is use_bias
    constraint = layer.kernel_constraint
    assert constraint is None if groups == 1 else constraint.groups == groups
    x = features(2, 5, 6, 8)
    own, made = 8 // groups, 12 // groups
    expected = [
        keras.ops.conv(
            x[..., g * own : (g + 1) * own],
            kernel[..., g * made : (g + 1) * made],
            strides=2,
            padding="same",
        )
        for g in range(groups)
    ]
    expected = np.concatenate(expected, -1) + (bias if use_bias else 0)
    # sums of up to 48 terms in another order
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: keras.layers.Conv2D(8, (3, 2), **options),
        lambda **options: keras.layers.Conv2D(8, (3, 2), groups=2, **options),
        lambda **options: keras.layers.DepthwiseConv2D(
            (3, 2), depth_multiplier=2, **options
        ),
    ],
    ids=["dense", "groups", "depthwise"],
)
def test_folded(make, use_bias):
    conv = make(use_bias=use_bias, dilation_rate=2, padding="same", dtype="float32")
    randomized(conv, 4)
    norm = randomized(keras.layers.BatchNormalization(), 8)
    layer = stock.folded(conv, norm, name="folded")
    depthwise = isinstance(conv, keras.layers.DepthwiseConv2D)
    kind = keras.layers.DepthwiseConv2D if depthwise else keras.layers.Conv2D
    check(layer, "folded", kind)
    assert layer.use_bias and len(layer.trainable_weights) == 2
    x = features(2, 7, 6, 4)
    expected = np.asarray(norm(conv(x)))
    # a rounding per operation, on sums of up to 24 terms
    scale = np.abs(expected).max()
    np.testing.assert_allclose(layer(x), expected, atol=1e-5 * scale)
    valid = stock.folded(conv, norm, name="valid", padding="valid")
    inner = expected[:, 2:-2, 1:-1]  # of padding by the dilation
    np.testing.assert_allclose(valid(x), inner, atol=1e-5 * scale)


def test_folded_is_frozen_as_the_convolution():
    norm = randomized(keras.layers.BatchNormalization(), 4)
    for kind, arguments in (
        (keras.layers.Conv2D, (4, 3)),
        (keras.layers.DepthwiseConv2D, (3,)),
    ):
        conv = randomized(kind(*arguments, trainable=False), 4)
        assert stock.folded(conv, norm, name="frozen").trainable_weights == []


def test_folded_refuses_an_unbuilt_normalization():
    conv = randomized(keras.layers.Conv2D(4, 3), 4)
    norm = keras.layers.BatchNormalization(name="bn")
    with pytest.raises(ValueError, match="'bn' must be built"):
        stock.folded(conv, norm, name="folded")


def test_activation():
    layer = stock.activation("sigmoid", name="gate")
    check(layer, "gate", keras.layers.Activation)
    np.testing.assert_allclose(layer(np.zeros((1, 2), "float32")), 0.5)

import json

import keras
import numpy as np
import pytest

from keras_attention import stock

RNG = np.random.default_rng(0)


def features(*shape):
    return RNG.normal(0, 1, shape).astype("float32")


def between_groups(shape, groups):
    """Returns a mask of the (in, out) entries that connect different groups."""
    inputs, outputs = shape
    left = np.arange(inputs) // (inputs // groups)
    right = np.arange(outputs) // (outputs // groups)
    return left[:, None] != right[None]


class TestBlockDiagonal:
    def test_keeps_the_blocks_and_clears_the_rest(self):
        kernel = features(3, 3, 8, 12)
        kernel[0, 0, 0, 11] = np.inf
        result = np.asarray(stock.BlockDiagonal(4)(kernel))
        mask = between_groups((8, 12), 4)
        assert mask.sum() == 8 * 12 * 3 / 4
        assert not result[..., mask].any()
        np.testing.assert_array_equal(result[..., ~mask], kernel[..., ~mask])

    def test_dense_convolution_equals_the_grouped_one(self):
        kernel = np.asarray(stock.BlockDiagonal(2)(features(3, 3, 4, 6)))
        x = features(2, 5, 5, 4)
        halves = [
            keras.ops.conv(x[..., 2 * g : 2 * g + 2], kernel[:, :, 2 * g : 2 * g + 2])
            for g in range(2)
        ]
        grouped = np.concatenate(
            [half[..., 3 * g : 3 * g + 3] for g, half in enumerate(halves)], axis=-1
        )
        # sums of 18 terms in another order
        np.testing.assert_allclose(keras.ops.conv(x, kernel), grouped, atol=1e-5)

    def test_zeros_stay_zero_under_fit_and_reload(self, tmp_path):
        constraint = stock.BlockDiagonal(2)
        kernel = np.asarray(constraint(features(4, 6)))
        layer = stock.pointwise(
            kernel, np.zeros(6), name="blocks", kernel_constraint=constraint
        )
        x = keras.Input((3, 3, 4))
        model = keras.Model(x, layer(x))
        mask = between_groups((4, 6), 2)
        path = tmp_path / "model.keras"
        for optimizer in ("sgd", "adam"):
            before = layer.kernel.numpy()[0, 0]
            model.compile(optimizer, "mse", jit_compile=False)
            model.fit(features(8, 3, 3, 4), features(8, 3, 3, 6), verbose=0)
            after = layer.kernel.numpy()[0, 0]
            assert (after[~mask] != before[~mask]).all()
            assert not after[mask].any()
            model.save(path)
            model = keras.models.load_model(path)
            layer = model.get_layer("blocks")
            assert isinstance(layer.kernel_constraint, stock.BlockDiagonal)
            np.testing.assert_array_equal(layer.kernel.numpy()[0, 0], after)

    def test_config_round_trip(self):
        config = keras.constraints.serialize(stock.BlockDiagonal(3))
        again = keras.constraints.deserialize(json.loads(json.dumps(config)))
        assert type(again) is stock.BlockDiagonal
        assert again.groups == 3

    @pytest.mark.parametrize("groups", [0, -1, 1.5, None, True])
    def test_refuses_groups(self, groups):
        with pytest.raises(ValueError, match="groups must be a positive integer"):
            stock.BlockDiagonal(groups)

    def test_refuses_channels(self):
        message = r"groups=3 must divide.*\(1, 1, 6, 4\)"
        with pytest.raises(ValueError, match=message):
            stock.BlockDiagonal(3)(np.zeros((1, 1, 6, 4), "float32"))


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


def test_activation():
    layer = stock.activation("sigmoid", name="gate")
    check(layer, "gate", keras.layers.Activation)
    np.testing.assert_allclose(layer(np.zeros((1, 2), "float32")), 0.5)

"""Kernels of grouped convolutions made dense, and what they are cut into."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from support.comparing import features

from keras_attention import grouped, stock


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
        result = np.asarray(grouped.BlockDiagonal(4)(kernel))
        mask = between_groups((8, 12), 4)
        assert mask.sum() == 8 * 12 * 3 / 4
        assert not result[..., mask].any()
        np.testing.assert_array_equal(result[..., ~mask], kernel[..., ~mask])

    def test_dense_convolution_equals_the_grouped_one(self):
        kernel = np.asarray(grouped.BlockDiagonal(2)(features(3, 3, 4, 6)))
        x = features(2, 5, 5, 4)
        halves = [
            keras.ops.conv(x[..., 2 * g : 2 * g + 2], kernel[:, :, 2 * g : 2 * g + 2])
            for g in range(2)
        ]
        expected = np.concatenate(
            [half[..., 3 * g : 3 * g + 3] for g, half in enumerate(halves)], axis=-1
        )
        # sums of 18 terms in another order
        np.testing.assert_allclose(keras.ops.conv(x, kernel), expected, atol=1e-5)

    def test_zeros_stay_zero_under_fit_and_reload(self, tmp_path):
        constraint = grouped.BlockDiagonal(2)
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
            assert isinstance(layer.kernel_constraint, grouped.BlockDiagonal)
            np.testing.assert_array_equal(layer.kernel.numpy()[0, 0], after)

    def test_config_round_trip(self):
        config = keras.constraints.serialize(grouped.BlockDiagonal(3))
        again = keras.constraints.deserialize(json.loads(json.dumps(config)))
        assert type(again) is grouped.BlockDiagonal
        assert again.groups == 3

    @pytest.mark.parametrize("groups", [0, -1, 1.5, None, True])
    def test_refuses_groups(self, groups):
        with pytest.raises(ValueError, match="groups must be a positive integer"):
            grouped.BlockDiagonal(groups)

    def test_refuses_channels(self):
        message = r"groups=3 must divide.*\(1, 1, 6, 4\)"
        with pytest.raises(ValueError, match=message):
            grouped.BlockDiagonal(3)(np.zeros((1, 1, 6, 4), "float32"))


def test_dense_kernel():
    kernel = features(3, 2, 5, 8)
    dense = ops.convert_to_numpy(grouped.dense_kernel(kernel, 4))
    assert dense.shape == (3, 2, 20, 8)
    for group in range(4):
        block = dense[:, :, 5 * group : 5 * group + 5, 2 * group : 2 * group + 2]
        np.testing.assert_array_equal(block, kernel[..., 2 * group : 2 * group + 2])
    assert np.count_nonzero(dense) == np.count_nonzero(kernel)
    np.testing.assert_array_equal(grouped.grouped_kernel(dense, 4), kernel)


def test_one_group_is_dense():
    kernel = features(3, 2, 5, 8)
    assert grouped.dense_kernel(kernel, 1) is kernel
    np.testing.assert_array_equal(grouped.grouped_kernel(kernel, 1), kernel)


@pytest.mark.parametrize(
    ("size", "channels", "filters", "groups", "count"),
    [
        (3, 128, 128, 32, 8),
        (3, 512, 512, 32, 32),
        (3, 96, 96, 32, 8),
        (3, 23, 23, 23, 1),
        (3, 80, 80, 2, 2),
        (3, 128, 32, 8, 4),
        (3, 32, 128, 8, 4),
        (1, 128, 128, 32, 4),
        (1, 48, 48, 24, 1),
        (3, 999, 999, 1, 1),
    ],
)
def test_run_count(size, channels, filters, groups, count):
    shape = (size, size, channels // groups, filters)
    assert grouped.run_count(shape, groups) == count


@given(
    size=st.integers(1, 3),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    groups=st.integers(1, 64),
)
def test_runs_are_not_cut_again(size, inputs, outputs, groups):
    count = grouped.run_count((size, size, inputs, groups * outputs), groups)
    assert groups % count == 0
    rest = groups // count
    assert grouped.run_count((size, size, inputs, rest * outputs), rest) == 1

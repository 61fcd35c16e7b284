"""Grouped convolutions in `mobile.deploy`: runs of groups, and the ReLU behind them."""

import keras
import numpy as np
import pytest
from keras import layers
from support.comparing import CLOSE, difference, features
from support.deploy_suite import int8_file

from keras_attention import grouped, mobile
from keras_attention.layers._gam_mobile import ShuffledBlockDiagonal

X = features(4, 7, 6, 48)


def net(*steps):
    """Returns a model of a chain of layers with live weights."""
    x = y = keras.Input((7, 6, 48), name="x")
    for step in steps:
        y = step(y)
    return randomized(keras.Model(x, y))


def randomized(model):
    for seed, weight in enumerate(model.weights):
        value = features(*weight.shape, seed=seed) * np.prod(weight.shape[:-1]) ** -0.5
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]


def named(model):
    return [layer.name for layer in model.layers if layer.name != "x"]


def grouped_conv(**options):
    return layers.Conv2D(48, 3, padding="same", groups=8, name="conv", **options)


def block_diagonal(kernel_size=3, constraint=grouped.BlockDiagonal):
    """Returns a dense convolution of eight groups."""
    conv = layers.Conv2D(
        48, kernel_size, padding="same", kernel_constraint=constraint(8), name="conv"
    )
    conv.build((None, None, None, 48))
    return conv


def projected(model):
    conv = model.get_layer("conv")
    conv.kernel.assign(conv.kernel_constraint(conv.kernel))
    return model


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_runs_and_their_relus(activation, tmp_path):
    norm, relu = layers.BatchNormalization(), layers.Activation(activation, name="act")
    model = net(grouped_conv(use_bias=False), norm, relu)
    deployed = mobile.deploy(model)
    assert difference(deployed(X), model(X)) <= CLOSE
    for run, conv in enumerate(convolutions(deployed)):
        assert conv.name == f"conv_{run}"
        assert conv.kernel.shape == (3, 3, 12, 12)
        assert conv.kernel_constraint.groups == 2
        assert np.count_nonzero(conv.kernel) == 9 * 6 * 12
        (following,) = deployed.get_layer(f"act_{run}")._inbound_nodes
        assert following.arguments.args[0] is conv.output
    assert run == 3
    # Of a deployed model, nothing is left to be cut.
    assert named(mobile.deploy(deployed)) == named(deployed)
    *_, runner = int8_file(model, X, tmp_path / "net.tflite")
    operators = {"CONV_2D": 4, "STRIDED_SLICE": 4, "CONCATENATION": 1}
    assert dict(runner.file.operators) == operators


def test_concatenations_stay_in_xnnpack():
    """It takes up to five tensors."""
    conv = layers.Conv2D(80, 3, groups=40)
    x = keras.Input((7, 6, 80))
    deployed = mobile.deploy(randomized(keras.Model(x, conv(x))))
    assert len(convolutions(deployed)) == 5
    joined = [op for op in deployed.operations if "concatenate" in op.name]
    assert [len(op._inbound_nodes[0].input_tensors) for op in joined] == [4, 2]


def test_a_relu_that_is_not_alone_stays():
    x = keras.Input((7, 6, 48), name="x")
    y = grouped_conv()(x)
    model = randomized(keras.Model(x, layers.ReLU(name="act")(y) - y))
    deployed = mobile.deploy(model)
    assert difference(deployed(X), model(X)) <= CLOSE
    assert "act" in named(deployed) and "act_0" not in named(deployed)


def test_a_convolution_that_is_called_twice():
    """Its runs are made once, whatever stands behind each call."""
    x = keras.Input((7, 6, 48), name="x")
    conv = grouped_conv()
    y = layers.ReLU(name="first")(conv(x))
    model = randomized(keras.Model(x, [conv(y), layers.ReLU(6, name="last")(conv(x))]))
    deployed = mobile.deploy(model)
    for actual, expected in zip(deployed(X), model(X), strict=True):
        assert difference(actual, expected) <= CLOSE
    assert len(convolutions(deployed)) == 4


def test_dense_ones_of_zeros_between_groups():
    model = projected(net(block_diagonal(), layers.ReLU(name="act")))
    deployed = mobile.deploy(model)
    assert difference(deployed(X), model(X)) <= CLOSE
    assert [conv.kernel.shape for conv in convolutions(deployed)] == [
        (3, 3, 12, 12)
    ] * 4
    assert "act_0" in named(deployed)


@pytest.mark.parametrize(
    "model",
    [
        projected(net(block_diagonal(1))),  # too narrow for 1x1
        net(block_diagonal()),  # the constraint has not been applied
        projected(net(block_diagonal(constraint=ShuffledBlockDiagonal))),
    ],
    ids=["1x1", "not applied", "other order"],
)
def test_left_as_it_is(model):
    (conv,) = convolutions(mobile.deploy(model))
    assert conv.name == "conv"
    np.testing.assert_array_equal(conv.kernel, model.get_layer("conv").kernel)


def test_inherits_trainable_and_regularizers():
    model = net(grouped_conv(kernel_regularizer="l2", bias_regularizer="l1"))
    deployed = mobile.deploy(model)
    assert len(deployed.losses) == 8
    actual, expected = float(sum(deployed.losses)), float(sum(model.losses))
    assert actual == pytest.approx(expected, rel=CLOSE)
    model.get_layer("conv").trainable = False
    assert mobile.deploy(model).trainable_weights == []

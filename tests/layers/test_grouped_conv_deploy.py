"""GroupedConv2D: what it computes on TensorFlow's CPU, and its dense mobile form."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.comparing import CLOSE, difference, features, relative_error
from support.deploy_suite import int8_file

from keras_attention import grouped, mobile
from keras_attention.layers._grouped_conv import GroupedConv2D


def model(*layers, channels=80):
    """Returns a model of a chain of layers with random weights."""
    x = y = keras.Input((9, 8, channels))
    for layer in layers:
        y = layer(y)
    made = keras.Model(x, y)
    for seed, weight in enumerate(made.weights):
        scale = np.prod(weight.shape[:-1]) ** -0.5
        value = scale * features(*weight.shape, seed=seed)
        weight.assign(np.abs(value) if "variance" in weight.path else value)
    return made


@pytest.mark.parametrize(
    ("channels", "groups", "runs"),
    [(16, 8, 1), (80, 2, 2), (80, 40, 5), (640, 32, 32), (80, 1, 1)],
)
def test_runs_of_groups_without_xla(channels, groups, runs):
    layer = GroupedConv2D(channels, 3, groups=groups)
    layer.build((None, None, None, channels))
    spec = tf.TensorSpec((1, 5, 5, channels))
    graph = tf.function(layer).get_concrete_function(spec).graph
    kinds = [op.type for op in graph.get_operations()]
    assert kinds.count("Conv2D") == runs
    # What Keras compiles by XLA is a function of its own.
    assert not {"PartitionedCall", "StatefulPartitionedCall"} & set(kinds)


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": "same", "strides": 2, "activation": "relu6"},
        {"dilation_rate": 2, "use_bias": False},
    ],
)
def test_deployed_equals_call(arguments):
    layer = GroupedConv2D(8, 3, groups=4, name="grouped", **arguments)
    norms = () if "activation" in arguments else (keras.layers.BatchNormalization(),)
    net = model(layer, *norms)
    deployed = mobile.deploy(net)
    x = features(2, 9, 8, 80)
    assert difference(deployed(x), net(x)) <= CLOSE
    convs = [inner for inner in deployed.layers if inner.weights]
    assert [conv.name for conv in convs] == ["grouped_dense_0", "grouped_dense_1"]
    for conv in convs:
        assert type(conv) is keras.layers.Conv2D and conv.groups == 1
        assert conv.kernel_constraint.get_config() == {"groups": 2}
        assert conv.kernel.shape[2:] == (40, 4)


def test_a_narrow_one_is_one_convolution():
    layer = GroupedConv2D(8, 3, groups=4, name="grouped")
    (conv,) = mobile.deploy(model(layer, channels=16)).layers[1:]
    assert conv.kernel_constraint.get_config() == {"groups": 4}
    assert conv.kernel.shape[2:] == (16, 8)


def test_one_group_has_no_constraint():
    layer = GroupedConv2D(8, 3, name="grouped")
    (conv,) = mobile.deploy(model(layer)).layers[1:]
    assert conv.kernel_constraint is None


def test_frozen():
    layer = GroupedConv2D(8, 3, groups=4, trainable=False)
    assert mobile.deploy(model(layer)).trainable_weights == []


def test_int8_keeps_the_zeros_in_training(tmp_path):
    layer = GroupedConv2D(16, 3, groups=4, activation="relu6", name="grouped")
    net = model(layer)
    x = features(8, 9, 8, 80)
    quantized, y, runner = int8_file(net, x, tmp_path / "grouped.tflite")
    # No ReLU: each is part of a convolution.
    operators = {"CONV_2D": 2, "STRIDED_SLICE": 2, "CONCATENATION": 1}
    assert dict(runner.file.operators) == operators
    steps = np.abs(y - quantized(x).numpy()) / runner.outputs[0].scale
    assert (steps > 1.1).mean() <= 0.001
    # one convolution: 1/256 of the input's range, by kernels of 8 bits
    assert relative_error(y, net(x).numpy()) <= 0.02
    quantized.compile("sgd", "mse")
    kernels = [v for v in quantized.trainable_variables if v.name == "kernel"]
    before = [kernel.numpy() for kernel in kernels]
    quantized.fit(x, features(8, 7, 6, 16, seed=2), verbose=0)
    assert len(kernels) == 2
    for kernel, old in zip(kernels, before, strict=True):
        assert np.count_nonzero(kernel.numpy() - old) > 0
        zeros = grouped.BlockDiagonal(2)(tf.ones(kernel.shape)).numpy() == 0
        assert zeros.mean() == 0.5 and not kernel.numpy()[zeros].any()


def test_refuses_to_deploy():
    layer = GroupedConv2D(8, 3, groups=4, data_format="channels_first", name="first")
    layer.build((None, 8, 4, 4))
    with pytest.raises(ValueError, match="'first'.*channels_first.*channels_last"):
        layer.deploy()
    with pytest.raises(ValueError, match="'raw' must be built"):
        GroupedConv2D(8, 3, name="raw").deploy()

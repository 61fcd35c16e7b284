"""Where fake quantization stands, for graphs small enough to list it."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.placing import (
    DATA,
    conv,
    image,
    kernels,
    quantized,
    rounded,
    span,
    value,
)

from keras_attention import graph as graphs
from keras_attention.mobile import placement, rules

UNIT = (0.0, 255 / 256)


@pytest.mark.parametrize(
    ("relu", "name"),
    [
        (layers.ReLU(6.0, name="relu"), "relu"),
        (layers.ReLU(name="relu"), "relu"),
        (layers.Activation("relu6", name="relu"), "relu"),
    ],
)
def test_a_relu_is_part_of_the_convolution_in_front_of_it(relu, name):
    x = image()
    model = quantized(x, relu(conv(x, "conv")))
    assert rounded(model) == {"x_quant": ["x"], f"{name}_quant": [name]}
    assert kernels(model) == ["conv"]
    low, high = span(model, f"{name}_quant")
    assert low == 0 and high == pytest.approx(value(model, name).max(), rel=0.02)


def test_operations_fuse_as_layers_do():
    x = image()
    model = quantized(x, ops.relu6(conv(x, "conv") + 0.5))
    kinds = [name.split("_")[0] for name in rounded(model)]
    assert kinds == ["x", "conv", "relu6"]  # not the sum


@pytest.mark.parametrize(
    "layer",
    [layers.DepthwiseConv2D(3, name="linear"), layers.Dense(4, name="linear")],
)
def test_every_layer_with_a_kernel_fuses(layer):
    x = image()
    model = quantized(x, layers.ReLU(name="relu")(layer(x)))
    assert rounded(model) == {"x_quant": ["x"], "relu_quant": ["relu"]}
    assert kernels(model) == ["linear"]


@pytest.mark.parametrize("kind", [layers.Add, layers.Multiply, layers.Subtract])
def test_arithmetic_fuses(kind):
    x = image()
    both = kind(name="both")([x, conv(x, "conv")])
    model = quantized(x, layers.ReLU(name="relu")(both))
    assert rounded(model) == {
        "x_quant": ["x"],
        "conv_quant": ["conv"],
        "relu_quant": ["relu"],
    }


def test_a_convolution_with_two_readers_is_rounded_itself():
    x = image()
    y = conv(x, "conv")
    model = quantized(x, layers.Add(name="add")([layers.ReLU(name="relu")(y), y]))
    assert rounded(model) == {
        "x_quant": ["x"],
        "conv_quant": ["conv"],
        "relu_quant": ["relu"],
        "add_quant": ["add"],
    }
    assert span(model, "conv_quant")[0] < 0 == span(model, "relu_quant")[0]


def test_a_convolution_that_is_an_output_is_rounded_itself():
    x = image()
    y = conv(x, "conv")
    model = quantized(x, [layers.ReLU(name="relu")(y), y])
    assert rounded(model).keys() == {"x_quant", "conv_quant", "relu_quant"}


def test_only_a_relu_fuses_and_only_into_what_computes():
    x = image()
    pooled = layers.MaxPooling2D(name="pool")(conv(x, "conv"))
    mean = layers.GlobalAveragePooling2D(name="mean")(layers.ReLU(name="r1")(pooled))
    model = quantized(x, layers.ReLU(name="r2")(mean))
    assert rounded(model) == {
        "x_quant": ["x"],
        "conv_quant": ["conv"],  # behind it stands a pooling
        "r1_quant": ["r1"],
        "mean_quant": ["mean"],  # a mean has no ReLU inside
        "r2_quant": ["r2"],
    }


def test_a_layer_called_twice_is_placed_call_by_call():
    x, layer = image(), layers.Conv2D(3, 3, padding="same", name="conv")
    model = quantized(x, layer(layers.ReLU(name="relu")(layer(x))))
    assert rounded(model) == {
        "x_quant": ["x"],
        "relu_quant": ["relu"],
        "conv_quant": ["conv"],
    }
    calls = [n.name for n in graphs.trace_model(model).nodes if n.name == "conv"]
    assert len(calls) == 2 and kernels(model) == ["conv"]


@pytest.mark.parametrize(
    ("activation", "fixed"),
    [("sigmoid", UNIT), ("softmax", UNIT), ("tanh", (-1.0, 127 / 128))],
)
def test_fixed_ranges(activation, fixed):
    x = image()
    model = quantized(x, layers.Activation(activation, name="act")(conv(x, "conv")))
    assert rounded(model) == {
        "x_quant": ["x"],
        "conv_quant": ["conv"],
        "act_quant": ["act"],
    }
    assert span(model, "act_quant") == fixed
    step = (fixed[1] - fixed[0]) / 255
    steps = value(model, "act_quant") / step
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert np.ptp(steps) > 20


def test_inputs_of_a_concatenation_share_one_range():
    x = image()
    a, b = conv(x, "a"), layers.ReLU(name="b_relu")(conv(x, "b"))
    model = quantized(x, conv(layers.Concatenate(name="cat")([a, b]), "c"))
    assert rounded(model) == {
        "x_quant": ["x"],
        "a_quant": ["a", "b_relu"],
        "c_quant": ["c"],
    }
    assert model.get_layer("a_quant").shared and not model.get_layer("c_quant").shared
    low, high = span(model, "a_quant")
    reach = [value(model, name) for name in ("a", "b_relu")]
    assert low == pytest.approx(min(r.min() for r in reach), rel=0.02)
    assert high == pytest.approx(max(r.max() for r in reach), rel=0.02)


def test_sharing_reaches_through_what_keeps_a_scale():
    x = image()
    a = layers.ZeroPadding2D(1, name="pad")(
        layers.MaxPooling2D(2, name="p")(conv(x, "a"))
    )
    b = layers.AveragePooling2D(3, 1, name="q")(conv(x, "b"))
    model = quantized(x, layers.Concatenate(name="cat")([a, b]))
    assert rounded(model) == {"x_quant": ["x"], "a_quant": ["a", "b"]}


def test_a_chain_of_concatenations_shares_one_range():
    x = image()  # as in DenseNet
    y = conv(x, "stem")
    for unit in range(3):
        y = layers.Concatenate(name=f"cat_{unit}")([y, conv(y, f"grow_{unit}")])
    model = quantized(x, conv(y, "last"))
    stem = ["stem", "grow_0", "grow_1", "grow_2"]
    assert rounded(model) == {
        "x_quant": ["x"],
        "stem_quant": stem,
        "last_quant": ["last"],
    }


def test_groups_that_meet_late_share_one_range():
    x = image()
    pairs = [
        layers.Concatenate(name=f"pair_{p}")([conv(x, f"{p}1"), conv(x, f"{p}2")])
        for p in "ab"
    ]
    model = quantized(x, layers.Concatenate(name="all")(pairs))
    (shared,) = [by for name, by in rounded(model).items() if name != "x_quant"]
    assert sorted(shared) == ["a1", "a2", "b1", "b2"]


def test_a_concatenation_with_the_input():
    x = image()
    both = layers.Concatenate(name="cat")([x, conv(x, "conv")])
    assert rounded(quantized(x, both)) == {"x_quant": ["x", "conv"]}
    # A fixed range can't follow the convolution's.
    model = quantized(x, both, input_range=(-1, 127 / 128))
    assert rounded(model) == {
        "x_quant": ["x"],
        "conv_quant": ["cat_rescale", "conv"],
    }
    assert span(model, "x_quant") == (-1, 127 / 128)


@pytest.mark.parametrize(
    ("fixed", "kind"), [(UNIT, "sigmoid"), ((-1, 127 / 128), "tanh")]
)
def test_a_fixed_range_is_rescaled_where_it_meets_another(fixed, kind):
    x = image()
    gate = layers.Activation(kind, name="gate")(conv(x, "g"))
    other = conv(x, "a")
    kept = conv(gate, "reader")  # reads the gate on its own grid
    both = layers.Concatenate(name="cat")([gate, other])
    model = quantized(x, [both, kept])
    assert rounded(model) == {
        "x_quant": ["x"],
        "g_quant": ["g"],
        "gate_quant": ["gate"],
        "a_quant": ["cat_rescale", "a"],
        "reader_quant": ["reader"],
    }
    assert span(model, "gate_quant") == fixed
    low, high = span(model, "a_quant")
    output = ops.convert_to_numpy(model(DATA, training=False)[0])
    steps = output * 255 / (high - low)  # all of it on the common grid
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    half = (high - low) / 255 / 2 * 1.001
    assert np.abs(output[..., :3] - value(model, "gate_quant")).max() <= half


def test_two_equal_fixed_ranges_need_no_rescaling():
    x = image()
    gates = [layers.Activation("sigmoid", name=n)(conv(x, f"{n}_in")) for n in "ab"]
    model = quantized(x, conv(layers.Concatenate(name="cat")(gates), "c"))
    assert rounded(model)["a_quant"] == ["a"] and rounded(model)["b_quant"] == ["b"]
    assert not any("rescale" in str(by) for by in rounded(model).values())


def test_two_different_fixed_ranges_meet_on_a_third():
    x = image()
    gates = [
        layers.Activation(a, name=a)(conv(x, f"{a}_in")) for a in ("sigmoid", "tanh")
    ]
    model = quantized(x, layers.Concatenate(name="cat")(gates))
    assert rounded(model)["cat_quant"] == ["cat_rescale", "cat_rescale_1"]
    low, high = span(model, "cat_quant")
    assert low == pytest.approx(value(model, "tanh").min(), rel=0.02)
    reach = max(value(model, name).max() for name in ("sigmoid", "tanh"))
    assert high == pytest.approx(reach, rel=0.02)


def test_names_of_all_that_share_a_range():
    x = image()
    both = layers.Concatenate(name="cat")([conv(x, "a"), conv(x, "b")])
    graph = graphs.trace_model(keras.Model(x, both))
    placed = placement.place(graph, [None])
    assert [grid.names for grid in placed.all_ranges()] == [["x"], ["a", "b"]]
    assert [len(grid.tensors) for grid in placed.all_ranges()] == [1, 2]


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (layers.Activation("relu"), "Relu"),
        (layers.Activation("relu6"), "Relu6"),
        (layers.Activation("hard_sigmoid"), "HardSigmoid"),
        (layers.Activation(ops.sigmoid), "Sigmoid"),
        (layers.ReLU(), "Relu"),
        (layers.ReLU(6), "Relu6"),
        (layers.Softmax(), "Softmax"),
        (layers.Softmax(axis=(1, 2)), "SoftmaxOverAxes"),
        (layers.Activation("exponential"), "Exp"),
        (layers.Activation("hard_tanh"), "HardTanh"),
        (layers.LeakyReLU(), "LeakyRelu"),
        (layers.ReLU(1.0), "ReLU(max_value=1.0, negative_slope=0.0, threshold=0.0)"),
        (layers.Conv2DTranspose(2, 2), "Conv2DTranspose"),
    ],
)
def test_operation_names(op, name):
    assert rules.operation_name(op) == name

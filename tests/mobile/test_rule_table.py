"""Every line of the table of rules: the grid that an operation's result stands on."""

import pytest
from keras import layers, ops
from support.placing import conv, image, quantized, rounded

from keras_attention.mobile import rules

SAME = {
    "AveragePooling2D": layers.AveragePooling2D(2, name="op"),
    "AveragePool": lambda x: ops.average_pool(x, 2),
    "CropImages": lambda x: ops.image.crop_images(x, 1, 1, 1, 1),
    "Cropping1D": lambda x: layers.Cropping1D(1)(ops.reshape(x, (-1, 64, 3))),
    "Cropping2D": layers.Cropping2D(1, name="op"),
    "DepthToSpace": lambda x: ops.nn.depth_to_space(ops.tile(x, (1, 1, 1, 4)), 2),
    "ExpandDims": lambda x: ops.expand_dims(x, 1),
    "Flatten": layers.Flatten(name="op"),
    "GetItem": lambda x: x[:, 1:, ::2],
    "GlobalMaxPooling2D": layers.GlobalMaxPooling2D(name="op"),
    "Max": lambda x: ops.max(x, axis=(1, 2), keepdims=True),
    "MaxPool": lambda x: ops.max_pool(x, 2),
    "MaxPooling2D": layers.MaxPooling2D(2, name="op"),
    "Maximum": lambda x: ops.maximum(x, ops.transpose(x, (0, 2, 1, 3))),
    "Min": lambda x: ops.min(x, axis=(1, 2), keepdims=True),
    "Minimum": lambda x: ops.minimum(x, 0.5),
    "Pad": lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 2), (0, 0))),
    "PadImages": lambda x: ops.image.pad_images(x, 1, 1, 1, 1),
    "Permute": layers.Permute((3, 1, 2), name="op"),
    "Reshape": layers.Reshape((64, 3), name="op"),
    "Resize": lambda x: ops.image.resize(x, (5, 5)),
    "Roll": lambda x: ops.roll(x, 1, axis=2),
    "SpaceToDepth": lambda x: ops.nn.space_to_depth(x, 2),
    "Squeeze": lambda x: ops.squeeze(x[:, :1], 1),
    "Stack": lambda x: ops.stack([x[:, :, 0], x[:, :, 1]], axis=1),
    "Take": lambda x: ops.take(x, [2, 0, 0], axis=1),
    "Tile": lambda x: ops.tile(x, (1, 1, 2, 1)),
    "Transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "ZeroPadding1D": lambda x: layers.ZeroPadding1D(1)(ops.reshape(x, (-1, 64, 3))),
    "ZeroPadding2D": layers.ZeroPadding2D(1, name="op"),
}


def test_the_operations_that_keep_a_scale():
    same = {name for name, rule in rules.RULES.items() if rule.output == "same"}
    assert same == {*SAME, "Concatenate"}


@pytest.mark.parametrize("name", SAME)
def test_nothing_is_rounded_behind_what_keeps_its_scale(name):
    x = image()
    model = quantized(x, SAME[name](conv(x, "conv")))
    assert rounded(model) == {"x_quant": ["x"], "conv_quant": ["conv"]}


OWN = {
    "Add": lambda x: ops.add(x, x),
    "Subtract": lambda x: ops.subtract(x, 2.0),
    "Multiply": lambda x: ops.multiply(x, x),
    "Divide": lambda x: ops.divide(x, x * x + 1.0),
    "Abs": ops.abs,
    "Exp": ops.exp,
    "Gelu": ops.gelu,
    "HardTanh": ops.hard_tanh,
    "LeakyRelu": layers.LeakyReLU(name="op"),
    "Log": lambda x: ops.log(x + 2.0),
    "Matmul": lambda x: ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
    "Mean": lambda x: ops.mean(x, axis=1, keepdims=True),
    "Prod": lambda x: ops.prod(x, axis=1),
    "Rsqrt": lambda x: ops.rsqrt(x + 2.0),
    "Sqrt": lambda x: ops.sqrt(x + 2.0),
    "Sum": lambda x: ops.sum(x, axis=1, keepdims=True),
    "GlobalAveragePooling2D": layers.GlobalAveragePooling2D(name="op"),
    "Conv2D": layers.Conv2D(2, 1, name="op"),
    "Conv2DTranspose": layers.Conv2DTranspose(2, 2, name="op"),
    "DepthwiseConv2D": layers.DepthwiseConv2D(1, name="op"),
    "Dense": layers.Dense(2, name="op"),
    "Relu": layers.ReLU(name="op"),
    "Relu6": layers.ReLU(6.0, name="op"),
}


@pytest.mark.parametrize("name", OWN)
def test_what_has_a_range_of_its_own(name):
    x = image()
    model = quantized(x, OWN[name](layers.MaxPooling2D(2, name="pool")(x)))
    first, *_, last = rounded(model).items()
    assert first == ("x_quant", ["x"]) and last[1] != ["x"]
    assert not model.get_layer(last[0]).shared


def test_the_table_is_covered():
    fixed = {"Sigmoid", "Softmax", "Tanh"}
    assert {*SAME, *OWN, *fixed, "Concatenate"} == set(rules.RULES)

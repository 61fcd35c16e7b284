"""The deployed model computes the same; the given one stays as it is."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.deploying import CLOSE, difference, features, layer_calls, names, outputs
from support.mobile_nets import (
    NETWORKS,
    PHOTOS,
    Branches,
    all_layers,
    composite,
    in_bfloat16,
    mobilenet,
    network,
    randomize,
    residual,
    scaled,
    settle,
    small,
    twice,
)

from keras_attention import CoordAttention, image_input
from keras_attention import graph as graphs
from keras_attention.mobile import deploy

TRAINING_ONLY = (
    layers.BatchNormalization,
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.GaussianNoise,
    layers.RandomFlip,
    layers.RandomRotation,
)


def input_of(model):
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


@dataclasses.dataclass
class State:
    """All of a model that `deploy` must not change."""

    weights: list
    outputs: list
    config: dict
    names: list
    trainable: list

    @classmethod
    def of(cls, model, data):
        inside = all_layers(model)
        return cls(
            [ops.convert_to_numpy(weight) for weight in model.weights],
            outputs(model, data),
            model.get_config(),
            [layer.name for layer in inside],
            [layer.trainable for layer in inside],
        )


@dataclasses.dataclass
class Case:
    model: keras.Model
    data: Any
    before: State
    deployed: keras.Model


@functools.cache
def cased(name):
    model, data = network(name)
    return Case(model, data, State.of(model, data), deploy(model))


@pytest.fixture(params=NETWORKS)
def case(request):
    """A network that no test changes, and what `deploy` makes of it."""
    return cased(request.param)


def test_equal(case):
    assert difference(case.model, case.deployed, case.data) <= CLOSE
    for output in case.before.outputs:  # and it is no constant
        assert output.std(0).mean() >= 0.02 * np.abs(output).mean()


def test_the_given_model_is_untouched(case):
    after = State.of(case.model, case.data)
    for one, other in zip(after.weights, case.before.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(after.outputs, case.before.outputs, strict=True):
        np.testing.assert_array_equal(one, other)
    for field in ("config", "names", "trainable"):
        assert getattr(after, field) == getattr(case.before, field)
    inner = [x for x in case.model.layers if not isinstance(x, keras.Model)]
    tensors = [layer.output for layer in inner]
    keras.Model(input_of(case.model), tensors)(case.data, training=False)


def test_only_stock_layers_and_their_kernels(case):
    nodes = graphs.trace_model(case.deployed).nodes
    for op in [*case.deployed.layers, *(node.op for node in nodes)]:
        if isinstance(op, layers.InputLayer):
            continue  # ImageInput marks the range of the pixels
        assert type(op).__module__.startswith("keras."), op
        assert not isinstance(op, TRAINING_ONLY), op
        assert getattr(op, "compute_dtype", "float32") == "float32"
    found = set()
    for layer in case.deployed.layers:
        if layer.weights:
            kinds = layers.Conv2D | layers.DepthwiseConv2D | layers.Dense
            assert isinstance(layer, kinds) and getattr(layer, "groups", 1) == 1
            found |= {id(layer.kernel), id(layer.bias)}
    assert {id(weight) for weight in case.deployed.weights} <= found


def test_deployed_again(case):
    again = deploy(case.deployed)
    assert names(again) == names(case.deployed)
    assert again.name == case.model.name
    for one, other in zip(
        outputs(again, case.data), outputs(case.deployed, case.data), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_names_are_the_same_each_time(case):
    other = deploy(case.model)
    assert names(other) == names(case.deployed)
    paths = [weight.path for weight in case.deployed.weights]
    assert [weight.path for weight in other.weights] == paths
    ops_of = [
        [n.name for n in graphs.trace_model(m).nodes] for m in (other, case.deployed)
    ]
    assert ops_of[0] == ops_of[1]


def test_structures_are_kept(case):
    keras.tree.assert_same_structure(input_of(case.model), case.deployed.input)
    given = case.model(case.data, training=False)
    made = case.deployed(case.data, training=False)
    keras.tree.assert_same_structure(given, made)


def test_a_pair_that_is_called_twice_is_folded_once():
    deployed = cased("twice").deployed
    assert len(layer_calls(deployed, "conv")) == 2
    for role in ("reduce", "expand_h", "expand_w"):  # one attention block, called twice
        assert len(layer_calls(deployed, f"attention_{role}")) == 2
    weights = [(w.path, tuple(w.shape)) for w in deployed.weights if "conv" in w.path]
    assert weights == [("conv/kernel", (3, 3, 8, 8)), ("conv/bias", (8,))]


def test_nested_names():
    deployed = cased("nested").deployed
    assert names(deployed)[1:] == [
        "inner_blur",
        "inner_backbone_conv",
        "inner_backbone_relu",
        "inner_both",
        "inner_mix",
        "relu",
        "pool",
        "classifier",
    ]
    assert len(layer_calls(deployed, "inner_backbone_conv")) == 2


def test_names_inside_of_a_composite_layer():
    case = cased("composite")
    model, data, deployed = case.model, case.data, case.deployed
    assert {name for name in names(deployed) if name.startswith("block")} == {
        "block_convs_0",
        "block_convs_1",
        "block_norms_last",  # alone: its input is a sum
        "block_squeeze_0",
        "block_squeeze_0_relu",
        "block_squeeze_1",
        "block_multiply_1",  # gamma
    }
    gamma = deployed.get_layer("block_multiply_1")
    assert isinstance(gamma, layers.DepthwiseConv2D) and gamma.kernel_size == (1, 1)
    assert gamma.trainable and not gamma.use_bias
    block = model.get_layer("block")
    np.testing.assert_array_equal(gamma.kernel[0, 0, :, 0], block.gamma)
    assert len(layer_calls(deployed, "block_multiply_1")) == 2
    # The gate behind the nested Sequential is live.
    gate = [n for n in graphs.trace_model(deployed).nodes if "sigmoid" in n.name][0]
    gate = keras.Model(deployed.input, gate.output_tensors[0])(data)
    assert np.std(gate) >= 0.05 * np.mean(gate)


def test_attention_is_live_and_matters():
    case = cased("mobilenet_coord")
    model, data, deployed = case.model, case.data, case.deployed
    gates = [
        layer.output for layer in deployed.layers if "_attention_gate_" in layer.name
    ]
    assert len(gates) == 32
    for gate in map(np.asarray, keras.Model(deployed.input, gates)(data)):
        assert gate.std() >= 0.05 * gate.mean() > 0
    bypassed = mobilenet(attention=None)
    for layer in bypassed.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    with_it, without = outputs(model, data)[0], outputs(bypassed, data)[0]
    assert np.linalg.norm(without - with_it) >= 0.05 * np.linalg.norm(with_it)


def test_the_range_of_the_pixels_is_kept():
    deployed = cased("mobilenet_coord").deployed
    assert image_input.input_range_of(deployed) == (-1.0, 127 / 128)
    assert isinstance(deployed.layers[0], image_input.ImageInput)


@pytest.mark.parametrize("make", [residual, composite, twice])
def test_mixed_precision(make):
    model, twin, data = randomize(in_bfloat16(make)), randomize(make()), scaled(PHOTOS)
    settle(twin, data)
    model.set_weights(twin.get_weights())
    twin.set_weights(model.get_weights())
    assert any(layer.compute_dtype == "bfloat16" for layer in model.layers)
    deployed = deploy(model)
    assert {layer.compute_dtype for layer in deployed.layers} == {"float32"}
    assert {weight.dtype for weight in deployed.weights} == {"float32"}
    assert all(tensor.dtype == "float32" for tensor in deployed.outputs)
    assert difference(twin, deployed, data) <= CLOSE
    assert keras.config.dtype_policy().name == "float32"


def test_the_global_policy_is_restored_after_an_error():
    def make():
        inputs = keras.Input((4, 4, 2))
        pool = layers.MaxPooling2D(data_format="channels_first", name="pool")
        return keras.Model(inputs, pool(inputs))

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with pytest.raises(ValueError, match="pool"):
            deploy(make())
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


def frozen_by_name(model):
    return {layer.name: not layer.trainable for layer in model.layers if layer.weights}


def test_frozen_layers():
    model, _ = network("residual")
    for name in ("stem", "unit_0_norm_1", "unit_1_project", "unit_1_project_norm"):
        model.get_layer(name).trainable = False
    model.get_layer("alone").trainable = False
    model.get_layer("classifier").bias.trainable = False
    deployed = deploy(model)
    frozen = {name for name, yes in frozen_by_name(deployed).items() if yes}
    # A folded convolution is what the convolution was; the one in front of a frozen
    # normalization may be trained.
    assert frozen == {"stem", "unit_1_project", "alone"}
    classifier = deployed.get_layer("classifier")
    assert [weight.trainable for weight in classifier.weights] == [True, False]


def test_frozen_parents():
    model, _ = network("nested")
    backbone = model.layers[0].get_layer("backbone")
    backbone.trainable = False
    assert frozen_by_name(deploy(model)) == {
        "inner_backbone_conv": True,
        "inner_mix": False,
        "classifier": False,
    }
    model, _ = network("composite")
    model.get_layer("block").trainable = False
    frozen = frozen_by_name(deploy(model))
    assert {name for name, yes in frozen.items() if not yes} == {"stem", "classifier"}
    assert frozen["block_multiply_1"]
    model, _ = network("twice")
    model.get_layer("attention").trainable = False
    frozen = frozen_by_name(deploy(model))
    assert [name for name, yes in frozen.items() if yes] == [
        "attention_reduce",
        "attention_expand_h",
        "attention_expand_w",
    ]
    model.trainable = False
    assert all(frozen_by_name(deploy(model)).values())


def test_dynamic_size():
    inputs = image_input.make_input((None, None, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="conv")(inputs)
    x = CoordAttention(reduction=4, name="attention")(x)
    model = randomize(keras.Model(inputs, layers.GlobalMaxPooling2D(name="pool")(x)))
    deployed = deploy(model, input_shape=(16, 12, 3))
    assert deployed.input_shape == (None, 16, 12, 3)
    assert difference(model, deployed, scaled(PHOTOS)[:, :, :12]) <= CLOSE
    assert model.input_shape == (None, None, None, 3)
    assert image_input.input_range_of(deployed) == (-1.0, 127 / 128)


def test_dynamic_size_of_several_inputs():
    a, b = keras.Input((None, None, 3), name="a"), keras.Input((4,), name="b")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(a))
    model = randomize(keras.Model([a, b], layers.Add()([x, b])))
    deployed = deploy(model, input_shape=[(9, 7, 3), (4,)])
    assert deployed.input_shape == [(None, 9, 7, 3), (None, 4)]
    data = [features(2, 9, 7, 3), features(2, 4)]
    assert difference(model, deployed, data) <= CLOSE


def test_a_model_that_ends_inside_of_another():
    model = small()
    part = keras.Model(model.get_layer("norm").output, model.outputs)
    data = features(2, 6, 6, 6)
    assert difference(part, deploy(part), data) <= CLOSE


def test_composite_layers_stay_as_they_are():
    model = cased("composite").model
    block = model.get_layer("block")
    inner = [layer.name for layer in all_layers(block)]
    deploy(model)
    assert model.get_layer("block") is block and isinstance(block, Branches)
    assert [layer.name for layer in all_layers(block)] == inner
    assert len(graphs.trace_model(model).calls()[id(block)]) == 2

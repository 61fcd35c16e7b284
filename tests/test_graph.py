"""Reading and rebuilding functional models; the private contract with Keras."""

import pathlib
import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_attention
from keras_attention import graph as graphs

PACKAGE = pathlib.Path(keras_attention.__file__).parent


def test_what_graph_py_relies_on():
    """Fails first when Keras changes what the header of graph.py states."""
    inputs = keras.Input((4,), name="x")
    layer, scale = layers.Dense(4), ops.add
    once = layer(inputs)
    outputs = scale(layer(once), inputs)

    history = inputs._keras_history
    assert isinstance(history.operation, layers.InputLayer)
    assert history.operation._inbound_nodes[history.node_index].is_input is True

    for index, (given, result) in enumerate([(inputs, once), (once, None)]):
        node = layer._inbound_nodes[index]
        assert node.operation is layer and not node.is_input
        assert node.arguments.args == (given,) and node.arguments.kwargs == {}
        (made,) = node.outputs
        assert made._keras_history.operation is layer
        assert made._keras_history.node_index == index
        assert result is None or made is result
    history = outputs._keras_history
    assert not isinstance(history.operation, keras.Layer)
    node = history.operation._inbound_nodes[history.node_index]
    assert node.arguments.args == (layer._inbound_nodes[1].outputs[0], inputs)

    # A tensor that nothing made: what rewriting starts from.
    bare = keras.KerasTensor((None, 4))
    assert layer(bare)._keras_history.operation is layer
    assert bare._keras_history.operation is None

    # Outer layers first.
    wrapper = layers.TimeDistributed(layers.TimeDistributed(layer))
    assert wrapper._flatten_layers() == [wrapper, wrapper.layer, layer]


def test_what_is_private_is_touched_in_the_files_that_say_so():
    private = re.compile(
        r"_keras_history|_inbound_nodes|_flatten_layers|_symbolic_build|keras\.src"
    )
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if private.search(path.read_text())
    }
    # Of models, and of the training loop.
    assert found == {"graph.py", "training/multi_worker.py"}


def test_names_of_layers_do_not_depend_on_the_import():
    # The module makes a model to learn its class; it must not use up automatic names.
    keras.utils.clear_session()
    assert graphs._functional_class() is graphs._FUNCTIONAL
    tensor = keras.Input((1,))
    assert graphs.input_name(tensor) == "input_layer"
    assert keras.Model(tensor, tensor).name == "functional"


def shared_model():
    """A layer called three times, an operation, two inputs, dictionaries."""
    a, b = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    dense = layers.Dense(4, name="dense")
    x, y = dense(a), dense(b)
    z = layers.Concatenate(axis=1, name="both")([x, dense(y), ops.tanh(x)])
    return keras.Model({"second": b, "first": a}, {"z": z, "pair": [y, x]})


def values(model, *data):
    return [np.asarray(t) for t in keras.tree.flatten(model(*data, training=False))]


def test_trace_flat_opens_nested_models():
    a = keras.Input((4,), name="a")
    base = keras.Sequential(
        [a, layers.Dense(4, name="inner"), layers.ReLU()], name="base"
    )
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    middle = keras.Model({"x": x, "y": y}, base(x) + base(inputs=y), name="middle")
    first, second = keras.Input((4,)), keras.Input((4,))
    out = layers.Dense(2, name="out")(middle({"y": first, "x": second}))
    model = keras.Model([first, second], out)
    graph = graphs.trace_flat(model)
    kinds = [type(node.op).__name__ for node in graph.nodes]
    assert sorted(kinds) == sorted(["Dense", "ReLU"] * 2 + ["Add", "Dense"])
    inner = [node for node in graph.nodes if node.name == "inner"]
    assert inner[0].op is inner[1].op
    assert [node.input_tensors for node in inner] == [[second], [first]]
    data = [np.full((2, 4), value, "float32") for value in (1, -2)]
    result = graphs.replay(graph, data, lambda node, a, k: node.op(*a, **k))
    np.testing.assert_allclose(result, model(data), rtol=1e-6)
    assert graphs.opens(base) and not graphs.opens(keras.Sequential([layers.ReLU()]))


def test_copies_as_they_are():
    layer = layers.TimeDistributed(layers.BatchNormalization(dtype="mixed_bfloat16"))
    double = layers.Lambda(lambda x: 2 * x)
    x = keras.Input((3, 4))
    layer(double(x))
    layer.set_weights([np.arange(4.0) + n for n in range(4)])
    layer.layer.gamma.trainable = False
    copy = graphs.copy_as_it_is(layer)
    copy(graphs.copy_as_it_is(double)(x))
    graphs.copy_state(layer, copy)
    assert copy.name == layer.name
    assert copy.layer.dtype_policy.name == "mixed_bfloat16"
    assert [w.trainable for w in copy.weights] == [w.trainable for w in layer.weights]
    for old, new in zip(layer.weights, copy.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    layer.layer.trainable = False
    graphs.copy_state(layer, copy)
    assert copy.trainable and not copy.layer.trainable


def test_trace_finds_every_call_in_order():
    model = shared_model()
    graph = graphs.trace_model(model)
    names = [re.sub(r"_\d+$", "", node.name) for node in graph.nodes]
    assert sorted(names) == ["both", "dense", "dense", "dense", "tanh"]
    made = {id(tensor) for tensor in graph.inputs}
    for node in graph.nodes:  # nothing is read before it is made
        assert {id(tensor) for tensor in node.input_tensors} <= made
        made |= {id(tensor) for tensor in node.output_tensors}
    (dense,) = {id(node.op) for node in graph.nodes if node.name == "dense"}
    assert [node.name for node in graph.calls()[dense]] == ["dense"] * 3
    assert graph.inputs_structure.keys() == {"first", "second"}
    assert graph.outputs.keys() == {"z", "pair"}


def test_consumers_and_producers():
    model = shared_model()
    graph = graphs.trace_model(model)
    readers, makers = graph.consumers(), graph.producers()
    y, x = model.output["pair"]
    assert [r and r.name.split("_")[0] for r in readers[id(y)]] == ["dense", None]
    assert {r and r.name.split("_")[0] for r in readers[id(x)]} == {
        "tanh",
        "both",
        None,
    }
    assert makers[id(x)].input_tensors == [model.input["first"]]
    assert id(model.input["first"]) not in makers


def test_replay_computes_the_same_numbers():
    model = shared_model()
    graph = graphs.trace_model(model)
    rng = np.random.default_rng(0)
    data = {n: rng.normal(size=(3, 4)).astype("float32") for n in ("first", "second")}
    flat = [ops.convert_to_tensor(data[key]) for key in sorted(data)]
    result = graphs.replay(graph, flat, lambda node, a, k: node.op(*a, **k))
    assert result.keys() == {"z", "pair"}
    for one, other in zip(keras.tree.flatten(result), values(model, data), strict=True):
        np.testing.assert_array_equal(one, other)


def test_build_model_copies_structures_and_sharing():
    model = shared_model()
    graph = graphs.trace_model(model)
    inputs = [graphs.new_input(t, t.shape) for t in graph.inputs]
    copy = graphs.build_model(graph, inputs, name="copy")
    assert copy.name == "copy"
    assert [w.path for w in copy.weights] == ["dense/kernel", "dense/bias"]  # shared
    assert copy.input.keys() == model.input.keys()
    data = {name: np.ones((2, 4), "float32") for name in ("first", "second")}
    for one, other in zip(values(copy, data), values(model, data), strict=True):
        np.testing.assert_array_equal(one, other)
    copy.get_layer("dense").kernel.assign(np.zeros((4, 4)))  # a copy, not a view
    assert np.abs(model.get_layer("dense").kernel).max() > 0


def test_trace_stops_at_the_inputs_that_are_given():
    model = shared_model()
    y, x = model.output["pair"]
    graph = graphs.trace([x, y], model.output["z"])
    assert len(graph.nodes) == 3  # dense(y), tanh, both


def test_trace_of_an_output_that_is_an_input():
    tensor = keras.Input((2,))
    graph = graphs.trace([tensor], {"same": tensor})
    assert graph.nodes == [] and graph.outputs == {"same": tensor}


def test_trace_names_a_missing_input():
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    with pytest.raises(ValueError, match="'b' is an input of the graph, but not among"):
        graphs.trace([a], ops.add(a, b))
    bare = keras.KerasTensor((None, 2))
    with pytest.raises(ValueError, match="does not depend on the inputs"):
        graphs.trace([a], bare)


def test_copies_of_layers_are_float32_and_inherit_what_is_frozen():
    layer = layers.Conv2D(3, 1, dtype="mixed_bfloat16", name="conv")
    layer.build((None, 4, 4, 2))
    layer.bias.trainable = False
    copy = graphs.copy_operation(layer, "other", activation="relu")
    assert (copy.name, copy.compute_dtype) == ("other", "float32")
    assert copy.activation is keras.activations.relu
    assert [w.trainable for w in copy.weights] == [True, False]
    np.testing.assert_array_equal(copy.kernel, layer.kernel)
    assert copy.trainable and not graphs.is_frozen(copy)
    layer.trainable = False
    frozen = graphs.copy_operation(layer, "frozen")
    assert not frozen.trainable and graphs.is_frozen(frozen)


def test_named_calls():
    tensor = keras.Input((3,))
    result = graphs.call_named("mine", ops.maximum, tensor, 1.5)
    (node,) = graphs.trace([tensor], result).nodes
    assert node.name == "mine"
    model = keras.Model(tensor, result)
    np.testing.assert_array_equal(model(np.array([[1.0, 2, 3]])), [[1.5, 2, 3]])


def test_once_and_names():
    once, made = graphs.Once(), []
    keys = [object(), object()]
    for key in [*keys, *keys]:
        once(lambda: made.append(1), key)
    assert len(made) == 2
    first = once(object, keys[0], "channels", 1000)
    assert once(object, keys[0], "".join(["chan", "nels"]), 10**3) is first
    assert once(object, keys[0], "channels", 1001) is not first
    names = graphs.Names()
    assert [names.unique("x") for _ in range(3)] == ["x", "x_1", "x_2"]


@pytest.mark.parametrize(
    ("model", "functional"),
    [
        (lambda: shared_model(), True),
        (lambda: keras.Sequential([keras.Input((2,)), layers.Dense(1)]), False),
        (lambda: layers.Dense(1), False),
    ],
)
def test_is_functional(model, functional):
    assert graphs.is_functional(model()) is functional


def test_a_functional_model_of_a_users_class_is_functional():
    class Own(keras.Model):
        pass

    tensor = keras.Input((2,))
    assert graphs.is_functional(Own(tensor, layers.Dense(1)(tensor)))

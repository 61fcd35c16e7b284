"""Reads Keras functional models as flat lists of calls, and builds them again.

This is the one file that touches a private contract of Keras (3.15), because no
public API tells which operation made a symbolic tensor:

- ``KerasTensor._keras_history`` names the operation and the index of its call;
- ``Operation._inbound_nodes[index]`` is that call, with ``arguments.args``,
  ``arguments.kwargs``, ``outputs`` and ``is_input``;
- ``Layer._flatten_layers()`` is a layer and all layers in it, outer ones first.

``tests/test_graph.py`` fails first when Keras changes it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import tree

Tensor = keras.KerasTensor


@dataclasses.dataclass(eq=False)
class Node:
    """One call of an operation (a layer or a ``keras.ops`` operation).

    Attributes:
        op: the layer or operation. A layer called twice stands in two nodes.
        args: positional arguments, any structure, tensors and other values.
        kwargs: keyword arguments, likewise.
        outputs: structure of the tensors that the call returns.
        name: name that the operation gets in a model built from these nodes.
    """

    op: keras.Operation
    args: tuple
    kwargs: dict
    outputs: Any
    name: str = ""

    def __post_init__(self):
        self.name = self.name or self.op.name

    @property
    def input_tensors(self) -> list[Tensor]:
        """Tensors among the arguments, in the order of the call."""
        leaves = tree.flatten((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    @property
    def output_tensors(self) -> list[Tensor]:
        """Tensors that the call returns, flat."""
        return tree.flatten(self.outputs)


@dataclasses.dataclass
class Graph:
    """Nodes in an order in which they can be computed.

    Attributes:
        inputs: flat list of input tensors.
        outputs: structure of output tensors.
        nodes: calls between them; input layers are not among them.
        inputs_structure: structure in which a model takes the inputs, if not a list.
    """

    inputs: list[Tensor]
    outputs: Any
    nodes: list[Node]
    inputs_structure: Any = None

    def consumers(self) -> dict[int, list[Node | None]]:
        """Maps id(tensor) to the nodes that read it; None stands for the caller."""
        readers: dict[int, list[Node | None]] = {}
        for node in self.nodes:
            for tensor in node.input_tensors:
                readers.setdefault(id(tensor), []).append(node)
        for tensor in tree.flatten(self.outputs):
            readers.setdefault(id(tensor), []).append(None)
        return readers

    def producers(self) -> dict[int, Node]:
        """Maps id(tensor) to the node that made it; inputs have none."""
        return {id(t): node for node in self.nodes for t in node.output_tensors}

    def calls(self) -> dict[int, list[Node]]:
        """Maps id(operation) to its calls."""
        found: dict[int, list[Node]] = {}
        for node in self.nodes:
            found.setdefault(id(node.op), []).append(node)
        return found


def trace(inputs: Sequence[Tensor], outputs: Any) -> Graph:
    """Collects the calls that lead from `inputs` to `outputs`.

    Args:
        inputs: symbolic tensors at which the walk stops.
        outputs: structure of symbolic tensors.

    Raises:
        ValueError: if an output depends on a tensor that is not among the inputs.
    """
    inputs = list(inputs)
    known = {id(tensor) for tensor in inputs}
    nodes, stack = [], list(reversed(tree.flatten(outputs)))
    while stack:
        tensor = stack[-1]
        if id(tensor) in known:
            stack.pop()
            continue
        history = getattr(tensor, "_keras_history", None)
        if history is None or history.operation is None:
            raise ValueError(f"{tensor} does not depend on the inputs.")
        call = history.operation._inbound_nodes[history.node_index]
        if call.is_input:
            raise ValueError(
                f"'{history.operation.name}' is an input of the graph, "
                "but not among the given inputs."
            )
        arguments = (call.arguments.args, call.arguments.kwargs)
        pending = [
            leaf
            for leaf in tree.flatten(arguments)
            if isinstance(leaf, Tensor) and id(leaf) not in known
        ]
        if pending:
            stack.extend(reversed(pending))
            continue
        nodes.append(Node(call.operation, *arguments, list(call.outputs)))
        known.update(id(output) for output in call.outputs)
    return Graph(inputs, outputs, nodes)


def is_functional(model: Any) -> bool:
    """Whether `model` is a functional model (Sequential ones are not)."""
    return isinstance(model, _FUNCTIONAL)


def opens(op: Any) -> bool:
    """Whether `op` is a built model that computes its graph of layers, no more."""
    plain = is_functional(op) and type(op).call is _FUNCTIONAL.call
    return plain or isinstance(op, keras.Sequential) and op.built


def trace_model(model: keras.Model) -> Graph:
    """Traces a functional or Sequential model from its inputs to its outputs."""
    sequential = isinstance(model, keras.Sequential)
    graph = trace(model.inputs, model.outputs[0] if sequential else model.output)
    graph.inputs_structure = model.inputs[0] if sequential else model.input
    return graph


def trace_flat(model: keras.Model) -> Graph:
    """Traces a model and those nested in it, with new tensors for each of their calls.

    The tensors stand for those of the model; only its inputs are the same.
    """
    nodes = []

    def call(node, args, kwargs):
        if opens(node.op):
            values = model_inputs(node.op, args[0] if args else kwargs["inputs"])
            return replay(trace_model(node.op), values, call)
        outputs = [Tensor(t.shape, t.dtype) for t in node.output_tensors]
        nodes.append(Node(node.op, args, kwargs, outputs, node.name))
        return outputs

    outputs = replay(trace_model(model), model.inputs, call)
    return Graph(list(model.inputs), outputs, nodes)


def model_inputs(model: keras.Model, inputs: Any) -> list:
    """Returns what a nested model is called on, in the order of its inputs."""
    if isinstance(model, keras.Sequential) or not isinstance(inputs, dict):
        return tree.flatten(inputs)
    if isinstance(model.input, dict):
        return [inputs[key] for key in sorted(model.input)]
    return [inputs[tensor.name] for tensor in model.inputs]


def substitute(value: Any, env: dict[int, Any]) -> Any:
    """Replaces every tensor of a structure by what `env` holds under its id."""
    return tree.map_structure(
        lambda leaf: env[id(leaf)] if isinstance(leaf, Tensor) else leaf, value
    )


def replay(
    graph: Graph,
    values: Sequence[Any],
    apply: Callable[[Node, tuple, dict], Any],
) -> Any:
    """Computes a graph again: `apply(node, args, kwargs)` stands for each call.

    Args:
        graph: what to compute.
        values: what takes the place of the graph's inputs.
        apply: gets a node and its arguments, tensors replaced by values; returns
            what takes the place of the node's outputs, in the same structure.

    Returns:
        What took the place of the graph's outputs, in their structure.
    """
    env = {id(t): v for t, v in zip(graph.inputs, values, strict=True)}
    for node in graph.nodes:
        results = apply(node, substitute(node.args, env), substitute(node.kwargs, env))
        results = tree.flatten(results)
        for tensor, result in zip(node.output_tensors, results, strict=True):
            env[id(tensor)] = result
    return substitute(graph.outputs, env)


def input_layer(tensor: Tensor) -> keras.Operation:
    """Returns the input layer behind a model's input."""
    return tensor._keras_history.operation


def input_name(tensor: Tensor) -> str:
    """Returns the name of the input layer behind a model's input."""
    return input_layer(tensor).name


def new_input(tensor: Tensor, shape: tuple, dtype: str | None = None) -> Tensor:
    """Makes an input like that of `tensor`, same layer class, with another shape.

    Args:
        tensor: an input of a model.
        shape: whole shape, batch axis included.
        dtype: of the new input; None keeps that of `tensor`.
    """
    layer = input_layer(tensor)
    if not isinstance(layer, keras.layers.InputLayer):
        # A tensor inside of a model that was cut out with keras.Model(inputs, ...).
        return keras.Input(batch_shape=shape, dtype=dtype or tensor.dtype)
    config = layer.get_config() | {"batch_shape": shape}
    if dtype is not None:
        config["dtype"] = dtype
    return type(layer).from_config(config).output


class Names:
    """Gives every operation of a model a name of its own."""

    def __init__(self):
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        """Returns `name`, or `name` with a number if it is taken."""
        unique, number = name, 0
        while unique in self._taken:
            number += 1
            unique = f"{name}_{number}"
        self._taken.add(unique)
        return unique


class Once:
    """Makes one thing per key, and keeps the keys alive: their ids stay theirs."""

    def __init__(self):
        self._made: dict[tuple, tuple] = {}

    def __call__(self, make: Callable[[], Any], *key: Any) -> Any:
        """Returns what `make()` returned the first time the key's objects came."""
        ids = tuple(p if isinstance(p, int | str) else id(p) for p in key)
        if ids not in self._made:
            self._made[ids] = (make(), key)
        return self._made[ids][0]


def build_model(
    graph: Graph,
    inputs: Sequence[Tensor],
    apply: Callable[[Node, Callable, tuple, dict], Any] | None = None,
    values: Sequence[Tensor] | None = None,
    name: str | None = None,
) -> keras.Model:
    """Makes a functional model of a graph; its layers are copies with the weights.

    Args:
        graph: flat graph of leaf layers and operations.
        inputs: new inputs, in the order of the graph's.
        apply: computes one call on symbolic tensors; gets the node, the copy of its
            operation and the arguments. None calls the copy.
        values: made from the new inputs, in the place of the graph's; None: themselves.
        name: of the model.
    """
    once, names = Once(), Names()
    for tensor in inputs:
        names.unique(input_name(tensor))

    def call(node, args, kwargs):
        copy = once(lambda: copy_operation(node.op, names.unique(node.name)), node.op)
        if apply is None:
            return copy(*args, **kwargs)
        return apply(node, copy, args, kwargs)

    outputs = replay(graph, inputs if values is None else values, call)
    return keras.Model(pack_inputs(graph, inputs), outputs, name=name)


def copy_operation(op: keras.Operation, name: str, **changes: Any) -> keras.Operation:
    """Copies an operation; a layer comes in float32, built, frozen where it was.

    Args:
        op: a `keras.ops` operation or a built layer.
        name: of the copy.
        **changes: other entries of the layer's config to replace.
    """
    config = in_float32(op.get_config()) | {"name": name} | changes
    copy = type(op).from_config(config)
    if isinstance(op, keras.Layer) and op.weights:
        copy.build_from_config(op.get_build_config())
        copy_weights(op, copy)
    return copy


def copy_as_it_is(op: keras.Operation) -> keras.Operation:
    """Copies an operation with name and dtype policy; a layer comes without weights.

    Call the copy, which builds it as the original was built, and `copy_state`.
    """
    config = op.get_config() | {"name": op.name}
    # A Lambda's function comes from a layer that is in use here, not from a file.
    options = {"safe_mode": False} if isinstance(op, keras.layers.Lambda) else {}
    return type(op).from_config(config, **options)


def copy_state(original: keras.Layer, copy: keras.Layer) -> None:
    """Takes over weights, as saving does, and what is frozen, of all layers inside."""
    sublayers = original._flatten_layers(), copy._flatten_layers()
    for old, new in zip(*sublayers, strict=True):
        state = {}
        old.save_own_variables(state)
        new.load_own_variables(state)
        new.trainable = old.trainable  # before that of the layers inside
    for old, new in zip(original.weights, copy.weights, strict=True):
        new.trainable = old.trainable


def copy_weights(original: keras.Layer, copy: keras.Layer) -> None:
    """Takes over weights, and freezes in the copy what is frozen in the original."""
    copy.set_weights(original.get_weights())
    for old, new in zip(original.weights, copy.weights, strict=True):
        if new.trainable and not old.trainable:
            new.trainable = False
    if is_frozen(original):
        copy.trainable = False


def call_named(name: str, function: Callable, *args: Any) -> Any:
    """Calls a `keras.ops` function of symbolic tensors as an operation called `name`.

    Automatic names count up in a process, and may be taken in a model that was loaded.
    """
    given = [arg for arg in args if isinstance(arg, Tensor)]
    (node,) = trace(given, function(*args)).nodes
    return copy_operation(node.op, name)(*args)


def is_frozen(layer: keras.Layer) -> bool:
    """Whether training leaves every weight of the layer as it is."""
    return not layer.trainable or (
        bool(layer.weights) and not any(w.trainable for w in layer.weights)
    )


def in_float32(config: Any) -> Any:
    """Replaces the dtype policies in a layer's config by float32."""
    if isinstance(config, dict):
        return {
            key: _float32_policy(value) if key == "dtype" else in_float32(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(in_float32(value) for value in config)
    return config


def _float32_policy(value: Any) -> Any:
    name = value["config"].get("name") if isinstance(value, dict) else value
    return "float32" if name is None or "float" in name else value


def pack_inputs(graph: Graph, inputs: Sequence[Tensor]) -> Any:
    """Returns new inputs in the structure in which a model takes the graph's."""
    if graph.inputs_structure is None:
        return list(inputs)
    return tree.pack_sequence_as(graph.inputs_structure, list(inputs))


def _functional_class() -> type:
    # Named, or the user's first layers would be called "input_layer_1" and so on.
    tensor = keras.Input((1,), name="probe")
    return type(keras.Model(tensor, tensor, name="probe"))


_FUNCTIONAL = _functional_class()

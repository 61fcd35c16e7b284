"""Counts the multiply-adds of models and layers, on any backend."""

import contextlib
import dataclasses
import functools
import inspect
import random
from collections.abc import Mapping

import keras
from keras import tree

from keras_attention import graph as graphs
from keras_attention.models import _counting_rules as rules
from keras_attention.report import Report

_LOOPS = ("Map", "VectorizedMap")
_UNCOUNTED = ("AssociativeScan", "Cond", "ForiLoop", "Scan", "Switch", "WhileLoop")


@dataclasses.dataclass(frozen=True)
class MultiplyAdds(Report):
    """What `count_multiply_adds` found; `print()` shows a table.

    Attributes:
        model: Name of the model or layer.
        input_shapes: Of the inputs, without the batch axis.
        total: Multiply-adds of a forward pass of one image.
        layers: {name of a layer or operation: its multiply-adds}, in the order of the
            graph, those without any, too. Layers of a model inside the model are called
            "model/layer"; several calls of a layer are added up.
    """

    model: str
    input_shapes: tuple[tuple[int, ...], ...]
    total: int
    layers: Mapping[str, int]

    def __str__(self) -> str:
        found = {name: count for name, count in self.layers.items() if count}
        sizes = ", ".join("x".join(map(str, shape)) for shape in self.input_shapes)
        head = f"{self.model} at {sizes}"
        width = max(map(len, [head, *found]))
        lines = [f"{head:{width}} {'multiply-adds':>16}"]
        for name, count in found.items():
            share = count / self.total
            lines.append(f"{name:{width}} {count:16,} {share:7.1%}")
        rest = len(self.layers) - len(found)
        lines.append(f"{f'{rest} others':{width}} {0:16,}")
        lines.append(f"{'total':{width}} {self.total:16,}")
        return "\n".join(lines)


def count_multiply_adds(model, input_shape=None):
    """Counts the multiply-adds of convolutions and matrix products, as papers do.

    A multiply-add is one multiplication and one addition ("FLOPs" of many papers; twice
    as many operations). Counted are the products of Conv, DepthwiseConv, SeparableConv
    and transposed convolutions, Dense, EinsumDense and of matrix products in
    `keras.ops`, for one image, in inference; also where a kernel reaches over the
    border of the map. Not counted: products, sums and means of single elements,
    normalizations, activations, biases, and products of weights alone.

    What counts is the definition. A convolution in groups costs its groups alone, also
    where a dense kernel with zeros computes it (`GroupedConv2D`, kernels under
    `BlockDiagonal`); so do the blocks that compute their formula by another way
    (AWConv2D, EfficientMultiScaleAttention, GatherExcite).

    Models inside of the model are opened; of other layers that are made of layers
    (attention blocks, the user's own), a copy's `call` is traced on symbolic tensors.
    The model stays as it is.

    Args:
        model: A functional or Sequential `keras.Model`, or any layer or other model,
            whose own layers are then listed.
        input_shape: Shape of the input without the batch axis, e.g. (224, 224, 3), or a
            list of shapes, one for each input; None: that of the model.

    Returns:
        A `MultiplyAdds`.

    Raises:
        ValueError: The model has dynamic sizes, or is a layer, and `input_shape` is
            None; `input_shape` does not fit the model; or a layer can't be opened.
        TypeError: `model` is no Keras layer or model.

    Example:
        >>> report = count_multiply_adds(MobileNetV2())
        >>> report.total
        300774272
        >>> report.layers["stem_conv"]
        10838016
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a keras.Model or a layer; received {model!r}")
    counter = _Counter()
    inputs = _inputs(model, input_shape)
    if graphs.is_functional(model) or isinstance(model, keras.Sequential):
        counter.model(model, inputs, "")
    else:
        counter.root(model, inputs)
    return MultiplyAdds(
        model.name,
        tuple(tuple(x.shape[1:]) for x in inputs),
        sum(counter.counts.values()),
        counter.counts,
    )


class _Counter:
    """Walks calls on symbolic tensors of batch size 1, which no layer records."""

    def __init__(self):
        self.counts = {}  # name -> multiply-adds

    def model(self, model, inputs, prefix):
        """Counts a functional or Sequential model; returns its outputs."""
        if isinstance(model, keras.Sequential):
            (x,) = inputs
            for layer in model.layers:
                x = self.call(layer, layer.name, (x,), {}, prefix)
            return x
        return graphs.replay(
            graphs.trace_model(model),
            inputs,
            lambda node, args, kwargs: self.call(
                node.op, node.name, args, kwargs, prefix
            ),
        )

    def call(self, op, name, args, kwargs, prefix):
        """Counts one call of a layer or operation; returns its outputs."""
        if _is_model(op):
            inputs = _model_inputs(op, args, kwargs)
            return self.model(op, inputs, f"{prefix}{name}/")
        if isinstance(op, keras.Layer) and not op.built:
            op = _copy(op, prefix + name, args, kwargs)
        outputs = _outputs(op, args, kwargs)
        count = _count(op, args, kwargs, outputs, prefix + name)
        self.counts[prefix + name] = self.counts.get(prefix + name, 0) + count
        return outputs

    def root(self, layer, inputs):
        """Counts a layer, by its own layers if it is made of some."""
        built = _copy(layer, layer.name, inputs, {})
        count = _leaf(built, inputs, built.compute_output_spec(*inputs))
        if count is not None:
            self.counts[layer.name] = count
            return
        for node in _nodes(built, layer.name, inputs, {}):
            count = _node(node, layer.name)
            self.counts[node.name] = self.counts.get(node.name, 0) + count


def _count(op, args, kwargs, outputs, name):
    """Returns the multiply-adds of one call, leaving the layer as it is."""
    if not isinstance(op, keras.Layer):
        return _operation(op, args, outputs, name)
    count = _leaf(op, _positional(op, args, kwargs), outputs)
    if count is not None:
        return count
    copy = _copy(op, name, args, kwargs)
    return sum(_node(node, name) for node in _nodes(copy, name, args, kwargs))


def _leaf(layer, args, outputs):
    """Returns the multiply-adds of a layer that need not be opened, else None."""
    if rule := rules.definition(layer):
        return rule(layer, args, outputs)
    if rule := rules.layer_rule(layer):
        return rule(layer, args, outputs)
    return 0 if rules.is_free(layer) else None


def _operation(op, args, outputs, name):
    """Returns the multiply-adds of an operation of `keras.ops`."""
    kind = type(op).__name__
    if kind in _LOOPS:
        function, values = args if kind == "Map" else (op.function, args[0])
        leaves = tree.flatten(values)
        slices = [graphs.Tensor(x.shape[1:], x.dtype) for x in leaves]
        packed = tree.pack_sequence_as(values, slices)
        each = sum(_node(node, name) for node in _trace(slices, function(packed)))
        return leaves[0].shape[0] * each
    if kind in _UNCOUNTED:
        raise ValueError(
            f"'{name}' has a loop or a condition ({kind}), whose multiply-adds can't "
            "be counted"
        )
    rule = rules.OPERATIONS.get(kind)
    return rule(op, args, outputs) if rule else 0


def _node(node, name):
    """Returns the multiply-adds of one call inside of a traced copy."""
    outputs = node.outputs[0] if len(node.outputs) == 1 else node.outputs
    if not isinstance(node.op, keras.Layer):
        return _operation(node.op, node.args, outputs, name)
    if _is_model(node.op):
        counter = _Counter()
        inputs = _model_inputs(node.op, node.args, node.kwargs)
        counter.model(node.op, inputs, f"{name}/")
        return sum(counter.counts.values())
    count = _leaf(node.op, _positional(node.op, node.args, node.kwargs), outputs)
    if count is not None:
        return count
    inner = _nodes(node.op, f"{name}/{node.name}", node.args, node.kwargs)
    return sum(_node(each, name) for each in inner)


def _nodes(layer, name, args, kwargs):
    """Returns the calls inside of a layer's `call`; its layers note them."""
    args, kwargs = tree.map_structure(_fresh, (tuple(args), kwargs))
    if "training" in inspect.signature(layer.call).parameters:
        kwargs = kwargs | {"training": False}
    given = [x for x in tree.flatten((args, kwargs)) if isinstance(x, graphs.Tensor)]
    if not isinstance(layer, keras.layers.Lambda):
        _make_activations_symbolic(layer)
    with _explained(layer, name):
        return _trace(given, layer.call(*args, **kwargs))


def _outputs(op, args, kwargs):
    """Returns symbolic outputs of a call that no layer notes."""
    if isinstance(op, keras.layers.EinsumDense) and rules.is_stock(op):
        # Its own inference leaves sizes open that its equation gives.
        shapes = args[0].shape, op.kernel.shape
        return graphs.Tensor(rules.einsum_shape(op.equation, shapes), args[0].dtype)
    return op.compute_output_spec(*args, **kwargs)


def _make_activations_symbolic(copy):
    """Lets a layer call its activations on symbolic tensors, as not all can."""
    for attribute, value in list(vars(copy).items()):
        name = getattr(value, "__name__", "")
        if name and value is getattr(keras.activations, name, None):
            setattr(copy, attribute, functools.partial(_activate, value))


def _activate(function, x):
    return keras.layers.Activation(function, name="activation")(x)


def _trace(inputs, outputs):
    """Returns the calls that lead to those outputs that are symbolic, sizes static."""
    symbolic = [x for x in tree.flatten(outputs) if isinstance(x, graphs.Tensor)]
    graph, nodes = graphs.trace(inputs, symbolic), []
    if not any(None in x.shape for node in graph.nodes for x in node.output_tensors):
        return graph.nodes

    def again(node, args, kwargs):
        found = _outputs(node.op, args, kwargs)
        nodes.append(graphs.Node(node.op, args, kwargs, tree.flatten(found)))
        return found

    graphs.replay(graph, inputs, again)
    return nodes


def _copy(layer, name, args, kwargs):
    """Returns a built copy of a layer, for its symbolic calls to be noted there."""
    if isinstance(layer, keras.layers.Lambda):  # has no layers that would note them
        return layer
    args, kwargs = tree.map_structure(_fresh, (tuple(args), kwargs))
    with _explained(layer, name), _random_state():
        copy = type(layer).from_config(layer.get_config())
        copy(*args, **kwargs)
    return copy


def _fresh(leaf):
    """Returns a symbolic tensor that nothing knows of, in the place of another."""
    if not isinstance(leaf, graphs.Tensor):
        return leaf
    return graphs.Tensor(leaf.shape, leaf.dtype)


@contextlib.contextmanager
def _random_state():
    """Keeps the numbers that seed initializers: copies draw some of their own."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def _explained(layer, name):
    """Says which layer an error comes from."""
    try:
        yield
    except Exception as error:  # of anyone's code, of any kind
        reason = str(error).splitlines() or [type(error).__name__]
        raise ValueError(
            f"the multiply-adds of layer '{name}' ({type(layer).__name__}) can't be "
            "counted: get_config() must make a copy of it, whose call() must take "
            f"symbolic tensors. The error was: {reason[0]}"
        ) from error


def _is_model(op):
    return isinstance(op, keras.Sequential) or graphs.is_functional(op)


def _model_inputs(model, args, kwargs):
    """Returns what a model inside of a model is called on, in the order of its inputs.

    A dict can name the inputs of a model that takes a list.
    """
    given = _positional(model, args, kwargs)[0]
    if isinstance(given, dict) and not isinstance(model.input, dict):
        return [given[tensor.name] for tensor in model.inputs]
    return tree.flatten(given)


def _positional(layer, args, kwargs):
    """Returns the arguments of a call, the inputs first."""
    if args:
        return args
    first = next(iter(inspect.signature(layer.call).parameters))
    return (kwargs[first],)


def _inputs(model, input_shape):
    """Returns symbolic inputs of batch size 1.

    Raises:
        ValueError: Sizes are missing, or do not fit.
    """
    known = _known_inputs(model)
    shapes = [shape for shape, _ in known]
    if input_shape is not None:
        given = _shapes(input_shape)
        fits = len(given) == len(shapes) and all(map(_fits, given, shapes))
        if not given or (known and not fits):
            raise ValueError(
                f"input_shape must be the shape of an image, or a list of shapes, and "
                f"fit {model.name!r}, which takes {shapes or 'any'}; received "
                f"{input_shape!r}"
            )
        shapes = given
    if not shapes or any(None in shape for shape in shapes):
        raise ValueError(
            f"counting needs static sizes, and {model.name!r} takes "
            f"{shapes or 'any'}: give input_shape, e.g. (224, 224, 3)"
        )
    dtypes = [dtype for _, dtype in known] or ["float32"] * len(shapes)
    return [
        graphs.Tensor((1, *shape), dtype)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]


def _shapes(value):
    """Returns one shape or several as a list of tuples, empty for anything else."""
    values = value if isinstance(value, (list, tuple)) else ()
    if all(isinstance(size, int) for size in values):
        values = [values]
    shapes = [tuple(shape) for shape in values if isinstance(shape, (list, tuple))]
    sizes = [size for shape in shapes for size in shape]
    ok = all(isinstance(size, int) and size > 0 for size in sizes)
    return shapes if ok and sizes and len(shapes) == len(values) else []


def _known_inputs(model):
    """Returns (shape without batch axis, dtype) of each input, if they are known."""
    if not isinstance(model, keras.Model):
        return []
    inputs = getattr(model, "inputs", None) or []
    return [(tuple(x.shape[1:]), x.dtype) for x in inputs]


def _fits(given, known):
    return len(given) == len(known) and all(
        size in (None, own) for own, size in zip(given, known, strict=True)
    )

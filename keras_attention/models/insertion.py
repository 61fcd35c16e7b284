"""Puts attention blocks into any functional Keras model."""

import dataclasses
import re
from collections.abc import Callable

import keras
from keras import tree

from keras_attention import dtypes, registry
from keras_attention import graph as graphs
from keras_attention.models import _replacing, placement, sites
from keras_attention.models import warm_start as warming
from keras_attention.models._attention import REPLACE, Site, make_layer, resolve


def insert(model, attention, at, *, warm_start=False):
    """Returns a copy of a functional model with attention blocks in it.

    The layers of the copy keep names, arguments, dtype policies, weights and what is
    frozen; so do those of models nested in it, which stay nested. A block is a layer
    `<layer>_attention` behind a layer, which every reader of that layer reads instead;
    a layer that is called several times shares one block. Where a block of this package
    stands behind the layer already, the new one stands behind that. "aw" and "sk" are
    convolutions and take the place of one, under the name `<convolution>_attention`.

    - `AWConv2D` keeps kernel and bias of the `Conv2D` or `DepthwiseConv2D`; the layers
      that make its gates are new.
    - `SelectiveKernel` takes the place of k x k convolutions with as many outputs as
      inputs; the kernel is not kept. It pads itself: `ZeroPadding2D` before it goes.

    In EfficientNets the pretrained network keeps its own squeeze-and-excitation; blocks
    stand behind it. A block in a frozen model learns: the layers around it are frozen
    one by one.

    Args:
        model: A functional or built Sequential `keras.Model`, channels last. It stays
            as it is.
        attention: A registry name, {"name": ..., **arguments}, a Layer subclass or a
            callable `models.Site` -> Layer; the latter stands behind layers only.
            Groups and the like are fitted to the site where they are not given.
        at: Where. A preset, "mobilenet_v2", "mobilenext", "resnet", "resnet_3d" or
            "efficientnet": the block's own place and units (`models/placement.py`) in
            networks of `keras.applications` (ResNet V2, EfficientNet V2 as well) and of
            this package, nested ones too; "sk" only where it can stand. Or a regular
            expression that fits the whole name of layers (`re.fullmatch`, other than
            Keras' `re.search`), or a function layer -> bool. Nested models are layers,
            too; input layers and `keras.ops` operations are not. Of what matches, "aw"
            and "sk" take the place of every `Conv2D` and `DepthwiseConv2D`.
        warm_start: Whether the blocks start so that the model's inference output stays
            as it was (1e-3 of the largest output; measured, 1e-5; in half precision
            "aw" and "bam" change it by about as much as that rounds): gates constant,
            and that constant divided out of the next linear layer or normalization, or
            of the one before; residual branches zero.

    Returns:
        A new functional `keras.Model`, not compiled.

    Raises:
        TypeError: `model` is no functional or Sequential model, or `at` is neither a
            string nor callable.
        ValueError: `at` is no regular expression or matches nothing; `attention` is
            none of the above; the model is not built, or channels first; a block can't
            stand in a place; or with `warm_start`, a block has none or its constant
            can't be divided out.

    Example:
        >>> base = keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10)
        >>> model = insert(base, "coord", at="mobilenet_v2", warm_start=True)
        >>> sum(layer.name.endswith("_attention") for layer in model.layers)
        16
    """
    _check_model(model)
    allowed = isinstance(attention, (str, dict)) or callable(attention)
    if not allowed or isinstance(attention, keras.layers.Layer):
        raise ValueError(
            "attention must be a registry name, {'name': ..., **arguments}, a Layer "
            f"subclass or a callable Site -> Layer; received {attention!r}"
        )
    _check_at(at)
    make, name = resolve(attention)
    inserter = _Inserter(make, _places(model, name, at))
    result = inserter.model(model)
    if warm_start:
        warming.start(result, inserter.blocks)
    return result


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a block goes.

    Attributes:
        layer: The given model's layer behind which it stands, or that it replaces.
        where: Fields of the `Site`.
        block: Registry name of the block, if it has one.
        name: Name of the layer that was asked for.
    """

    layer: keras.layers.Layer
    where: dict
    block: str | None
    name: str

    @property
    def replaces(self):
        return self.where["position"] == REPLACE

    def refuse(self, reason):
        """Returns the error of a block that can't stand here."""
        how = "take the place of" if self.replaces else "stand behind"
        block = repr(self.block) if self.block else "the block"
        return ValueError(f"{block} can't {how} layer {self.name!r}: {reason}")


class _Inserter:
    """Builds a model and those nested in it anew, with blocks.

    Attributes:
        blocks: {id(block): block} of those made so far.
    """

    def __init__(self, make: Callable, places: dict[int, _Place]):
        self.blocks = {}
        self._make, self._places = make, places
        self._once = graphs.Once()

    def model(self, model, frozen=False):
        """Returns a copy of a model with the blocks that go into it."""
        graph = graphs.trace_model(model)
        inputs = [graphs.new_input(tensor, tensor.shape) for tensor in graph.inputs]
        names = graphs.Names()
        for name in {node.name for node in graph.nodes} | {
            graphs.input_name(tensor) for tensor in inputs
        }:
            names.unique(name)
        frozen = frozen or not model.trainable
        unpadded = {}  # id(what a ZeroPadding2D returns) -> (that, what it was given)
        before = len(self.blocks)

        def call(node, args, kwargs):
            place = self._places.get(id(node.op))
            if place is not None and place.replaces:
                return self._replaced(place, node, args, kwargs, names, unpadded)
            copy, y = self._copied(node, args, kwargs, frozen)
            if isinstance(copy, keras.layers.ZeroPadding2D):
                unpadded[id(y)] = y, tree.flatten((args, kwargs))[0]
            if place is None:
                return y
            (x,) = tree.flatten(y)
            block = self._block(place, x, names)
            y = _apply(block, x, place)
            _check_shape(place, y, x.shape)
            return [y]

        outputs = graphs.replay(graph, inputs, call)
        made = keras.Model(graphs.pack_inputs(graph, inputs), outputs, name=model.name)
        if frozen and len(self.blocks) == before:
            made.trainable = False  # else its layers are, one by one
        return made

    def _copied(self, node, args, kwargs, frozen):
        """Returns the copy of a node's operation, and what it computes."""
        op = node.op
        for leaf in tree.flatten((node.args, node.kwargs)):
            if isinstance(leaf, keras.Variable):
                raise ValueError(
                    f"operation {node.name!r} reads variable {leaf.path!r} of a layer, "
                    "which no copy of the model would share: put it into a layer"
                )
        if graphs.opens(op):
            copy = self._once(lambda: self.model(op, frozen), op)
            return copy, copy(*args, **kwargs)
        copy = self._once(lambda: _copy(op), op)
        y = copy(*args, **kwargs)
        if isinstance(op, keras.layers.Layer):
            self._once(lambda: _take_over(op, copy, frozen), op, "state")
        return copy, y

    def _block(self, place, x, names, conv=None):
        """Returns the block of a place, made at its layer's first call."""

        def make():
            name = names.unique(f"{place.name}_attention")
            if x.shape[-1] is None:
                raise place.refuse(f"the channels of {tuple(x.shape)} are not static")
            site = Site(name, shape=tuple(x.shape), conv=conv, **place.where)
            try:
                with _policy_of_new_layers(place.layer.dtype_policy):
                    block = make_layer(self._make, site)
            except ValueError as error:
                raise place.refuse(str(error)) from error
            own = registry.name_of(type(block))
            if not place.replaces and own in placement.REPLACING:
                raise place.refuse(
                    f"{type(block).__name__} is a convolution. Give it as attention "
                    f"{own!r}, and it takes the place of one"
                )
            self.blocks[id(block)] = block
            return block

        return self._once(make, place.layer, "block")

    def _replaced(self, place, node, args, kwargs, names, unpadded):
        """Returns what a block computes in the place of a convolution."""
        conv = place.layer
        x = tree.flatten((args, kwargs))[0]
        if place.block in placement.PADDING:
            _, x = unpadded.get(id(x), (None, x))
        arguments = _replacing.conv_arguments(conv)
        block = self._block(place, x, names, arguments)
        y = _apply(block, x, place)
        _check_shape(place, y, node.output_tensors[0].shape)
        if place.block not in placement.PADDING:
            self._once(lambda: _replacing.keep_kernel(conv, block), conv, "state")
        return [y]


def _apply(block, x, place):
    """Returns block(x); its own errors come with the name of the place."""
    try:
        return block(x)
    except (TypeError, ValueError) as error:
        raise place.refuse(str(error)) from error


def _check_shape(place, y, shape):
    if not isinstance(y, graphs.Tensor) or tuple(y.shape) != tuple(shape):
        received = [tuple(t.shape) for t in tree.flatten(y)]
        raise place.refuse(
            f"it must return one tensor of shape {tuple(shape)}, and returns {received}"
        )


def _copy(op):
    try:
        return graphs.copy_as_it_is(op)
    except Exception as error:  # of a user's class
        raise ValueError(
            f"layer {op.name!r} ({type(op).__name__}) can't be copied by get_config() "
            f"and from_config(): {error}"
        ) from error


def _take_over(original, copy, frozen):
    graphs.copy_state(original, copy)
    if frozen:
        copy.trainable = False


def _policy_of_new_layers(policy):
    """The policy that the layers had before `quantize`, also in a user's functions."""
    if isinstance(policy, keras.dtype_policies.QuantizedDTypePolicy):
        policy = policy.name.rpartition("_from_")[2]
    return dtypes.policy(policy)


def _places(model, block, at):
    """Returns {id(layer): _Place} of a model and those nested in it."""
    replaces = block in placement.REPLACING
    graphs_of = _graphs(model)
    found = {}
    for graph in graphs_of:
        layers = _layers(graph)
        for node, where in _matches(layers, block, at, replaces):
            place = _Place(node.op, where, block, node.name)
            if not replaces:
                place = dataclasses.replace(place, layer=_last_block(graph, node))
            if len(node.output_tensors) != 1:
                count = len(node.output_tensors)
                raise place.refuse(f"it has {count} outputs")
            if replaces and (reason := _replacing.refusal(node, block)):
                if isinstance(at, str) and at in sites.PATTERNS:
                    if block in placement.PADDING:
                        continue
                raise place.refuse(reason)
            found[id(place.layer)] = place
    if not found:
        names = [node.name for graph in graphs_of for node in _layers(graph)]
        kind = "Conv2D or DepthwiseConv2D" if replaces else "layer"
        raise ValueError(
            f"at={at!r} matches no {kind} of model {model.name!r}. It must be a preset "
            f"({', '.join(sites.PATTERNS)}), a regular expression that fits the whole "
            "name of a layer, or a function of a layer. Layers are "
            f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        )
    return found


def _last_block(graph, node):
    """Returns a layer, or the last of the blocks that alone read it one by one."""
    consumers, calls = graph.consumers(), graph.calls()
    layer = node.op
    while True:
        tensors = [t for call in calls[id(layer)] for t in call.output_tensors]
        readers = {id(r): r for t in tensors for r in consumers.get(id(t), [None])}
        ops = {id(r and r.op): r and r.op for r in readers.values()}
        (reader, *others) = ops.values()
        name = registry.name_of(type(reader))
        if others or name is None or name in placement.REPLACING:
            return layer
        layer = reader


def _matches(layers, block, at, replaces):
    """Returns (first call of a layer, fields of its `Site`) where `at` matches."""
    if isinstance(at, str) and at in sites.PATTERNS:
        position = placement.position_of(at, block)
        units = sites.find(at, position, [node.name for node in layers])
        where = {"backbone": at, "position": position}
        matches = [(n, where | units[n.name]) for n in layers if n.name in units]
        return [
            (node, where)
            for node, where in matches
            if placement.is_place(block, Site("", shape=(), **where))
        ]
    where = {"backbone": None, "unit": None}
    where["position"] = REPLACE if replaces else "after_layer"
    return [
        (node, where)
        for node in layers
        if (at(node.op) if callable(at) else re.fullmatch(at, node.name))
        and not (replaces and not isinstance(node.op, _replacing.CONVOLUTIONS))
    ]


def _graphs(model):
    """Returns the graphs of a model and of those nested in it, each once."""
    found, stack = {}, [model]
    while stack:
        model = stack.pop()
        if id(model) not in found:
            found[id(model)] = graph = graphs.trace_model(model)
            nested = [node.op for node in graph.nodes if graphs.opens(node.op)]
            stack.extend(reversed(nested))
    return list(found.values())


def _layers(graph):
    """Returns the first call of each layer of a graph."""
    nodes = {}
    for node in graph.nodes:
        if isinstance(node.op, keras.layers.Layer):
            nodes.setdefault(id(node.op), node)
    return list(nodes.values())


def _check_at(at):
    if isinstance(at, str):
        try:
            re.compile(at)
        except re.error as error:
            raise ValueError(f"at={at!r} is no regular expression: {error}") from error
    elif not callable(at):
        raise TypeError(
            f"at must be a string or a function of a layer; received {at!r}"
        )


def _check_model(model):
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            f"model {model.name!r} is not built: begin it with a keras.Input"
        )
    if not isinstance(model, keras.Model) or not graphs.opens(model):
        raise TypeError(
            f"model must be a functional or Sequential keras.Model; received {model!r}"
        )
    for graph in _graphs(model):
        for node in graph.nodes:
            if getattr(node.op, "data_format", None) == "channels_first":
                raise ValueError(
                    f"layer {node.name!r} is channels_first; blocks are inserted into "
                    "channels_last models only"
                )

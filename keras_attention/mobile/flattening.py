"""Opens nested models and composite layers until only leaf operations are left."""

import inspect
import re

import keras
from keras import ops, tree

from keras_attention import graph as graphs
from keras_attention.mobile import (
    affines,
    arithmetic,
    composites,
    fake_quant,
    opening,
    rules,
)
from keras_attention.mobile.folding import add_scale_shift
from keras_attention.mobile.rewriting import Rewriter

# Layers that do nothing at inference; image augmentations go by their names, since
# their common base class is not public.
_TRAINING_ONLY = (
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
_AUGMENTATION = re.compile(
    r"Random[A-Z]\w*|RandAugment|AugMix|CutMix|Equalization|MixUp|Solarization"
)
# Layers whose `activation` is applied to their output, and so can stand behind them; in
# a recurrent layer it is part of the recursion.
_ENDS_IN_ACTIVATION = (
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3D,
    keras.layers.Conv3DTranspose,
    keras.layers.Dense,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.EinsumDense,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_PUBLIC = frozenset(
    found for found in vars(keras.layers).values() if isinstance(found, type)
)
_NO_OPERATION = ("Copy", "Identity", "StopGradient")
_ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide")


class Flattener(Rewriter):
    """Writes a model as one flat graph of stock layers and operations.

    Attributes:
        input_ranges: id(tensor) -> the range that the model stores for it, or that a
            model nested in it does for its own input.
    """

    def __init__(self):
        super().__init__()
        self.input_ranges = {}
        self._names = {}  # id(layer inside of a composite layer's copy) -> its name

    def model(self, model, tensors, prefix=""):
        """Appends all calls of a functional or Sequential model; returns its outputs.

        Args:
            model: the model, or one nested in another.
            tensors: flat list of the input tensors.
            prefix: in front of the names of the model's layers.
        """
        for inner, tensor in zip(model.inputs, tensors, strict=True):
            stored = getattr(graphs.input_layer(inner), "input_range", None)
            if stored is not None:
                self.input_ranges.setdefault(id(tensor), stored)
        if isinstance(model, keras.Sequential):
            (x,) = tensors
            for layer in model.layers:
                x = self.call(layer, layer.name, (x,), {}, prefix)
            return x
        return graphs.replay(
            graphs.trace_model(model),
            tensors,
            lambda node, args, kwargs: self.call(
                node.op, node.name, args, kwargs, prefix
            ),
        )

    def call(self, op, name, args, kwargs, prefix, owner=None):
        """Appends one call, opened if it is not a leaf; returns its outputs.

        Args:
            op: layer or operation.
            name: of the operation, without the prefix.
            args: positional arguments.
            kwargs: keyword arguments.
            prefix: names of the layers around, each with "_".
            owner: the composite layer that calls it, if one does.
        """
        if _asks_for_training(op, kwargs):
            raise ValueError(
                f"Layer '{prefix}{name}' is called with training=True, which a file "
                "for phones can't do: call it without."
            )
        kwargs = {key: value for key, value in kwargs.items() if key != "training"}
        if kwargs.get("mask", 0) is None:
            del kwargs["mask"]
        name = prefix + self._names.get(id(op), name)
        if isinstance(op, fake_quant.QUANTIZING):
            raise ValueError(
                f"Layer '{name}' is quantized already: deploy or quantize the float "
                "model."
            )
        if isinstance(op, keras.Layer):
            args, kwargs = _inputs_first(op, args, kwargs)
        if _does_nothing(op, args):
            return args[0]
        if isinstance(op, keras.Sequential) or graphs.is_functional(op):
            return self.model(op, graphs.model_inputs(op, args[0]), f"{name}_")
        if isinstance(op, keras.layers.Pipeline):
            for layer in op.layers:
                args = (self.call(layer, layer.name, args, {}, f"{name}_"),)
            return args[0]
        if rules.registered(op) is not None:
            return self.add(op, name, *args, **kwargs)
        if isinstance(op, keras.layers.SpectralNormalization):
            return self.call(op.layer, op.layer.name, args, {}, f"{name}_")
        if isinstance(op, keras.layers.TimeDistributed):
            return self._time_distributed(op, name, args[0])
        if not isinstance(op, keras.Layer):
            return self._operation(op, name, args, kwargs, owner)
        if callable(getattr(op, "deploy", None)):
            return self._deployed(op, name, args, kwargs)
        if isinstance(op, keras.layers.Lambda):
            return self._lambda(op, name, args)
        if _is_stock(op):
            return self._stock_layer(op, name, args, kwargs)
        return self._composite(op, name, args, kwargs)

    def _deployed(self, layer, name, args, kwargs):
        """Appends a call of a layer that has a mobile form of its own."""
        function = self.once(layer.deploy, layer)

        def apply(node, a, k):
            # Called after the layer, whose name may be an automatic one.
            role = node.name.removeprefix(f"{layer.name}_")
            return self.call(node.op, role, a, k, f"{name}_")

        return self.inline(function, args, kwargs, apply, prefix=f"{layer.name}_")

    def _lambda(self, layer, name, args):
        """Opens the function of a Lambda layer."""

        def apply(node, a, k):
            return self.call(node.op, node.name, a, k, f"{name}_", owner=layer)

        function = composites.tracing(layer, name, composites.Reads())
        return self.inline(function, args, {}, apply)

    def _time_distributed(self, layer, name, x):
        """Calls the layer inside once, the steps of a sequence in the batch axis."""
        steps = x.shape[1]

        def add(node, a, k):
            return self.add(node.op, node.name, *a, **k)

        def reshaped(x, shape, role):
            return self.inline(
                lambda x: ops.reshape(x, shape), (x,), {}, add, prefix=f"{name}_{role}_"
            )

        x = reshaped(x, (-1, *x.shape[2:]), "in")
        x = self.call(layer.layer, layer.layer.name, (x,), {}, f"{name}_")
        return reshaped(x, (-1, steps, *x.shape[1:]), "out")

    def _heads(self, layer, name, query, value, key=None):
        """Appends a multi-head attention without masks, of sequences."""
        roles = {"query": query, "key": value if key is None else key, "value": value}
        heads = [
            self.call(getattr(layer, f"{role}_dense"), role, (x,), {}, f"{name}_")
            for role, x in roles.items()
        ]
        found = self.inline(
            lambda q, k, v: arithmetic.attention(q, k, v, layer.key_dim**-0.5),
            tuple(heads),
            {},
            prefix=f"{name}_",
        )
        return self.call(layer.output_dense, "output", (found,), {}, f"{name}_")

    def _opened(self, function, op, name, args, kwargs):
        """Appends what a stock layer or operation is made of."""

        def apply(node, a, k):
            role = node.name.removeprefix(op.name)
            return self.call(node.op, name + role, a, k, "")

        return self.inline(function, args, kwargs, apply, prefix=f"{op.name}_")

    def _stock_layer(self, layer, name, args, kwargs):
        _refuse_channels_first(layer, name, args)
        if isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization):
            (x,) = args
            scale, shift = affines.input_affine(layer, name, x)
            node = graphs.Node(layer, args, kwargs, None, name)
            return add_scale_shift(self, x, scale, shift, node, trainable=False)
        if isinstance(layer, keras.layers.Activation):
            return self._activation(layer.activation, layer, name, args[0])
        if isinstance(layer, keras.layers.Add | keras.layers.Multiply):
            return self._merge(layer, name, *args[0])
        if isinstance(layer, keras.layers.Average):
            return self._average(layer, name, *args[0])
        plain = not any(value is not None for value in kwargs.values())
        if isinstance(layer, keras.layers.MultiHeadAttention) and plain:
            if all(len(x.shape) == 3 for x in args):
                return self._heads(layer, name, *args)
        if type(layer) is keras.layers.Attention and plain:
            if layer.score_mode == "dot":
                return self._composite(layer, name, args, kwargs)
        function = None
        if isinstance(layer, _ENDS_IN_ACTIVATION):
            function = layer.activation
        if function is None or function is keras.activations.linear:
            return self._leaf(layer, name, args, kwargs)
        linear = self.once(
            lambda: graphs.copy_operation(layer, layer.name, activation="linear"), layer
        )
        x = self._leaf(linear, name, args, kwargs)
        label = getattr(function, "name", getattr(function, "__name__", "activation"))
        return self._activation(function, layer, f"{name}_{label}", x)

    def _leaf(self, op, name, args, kwargs):
        function = self.once(lambda: opening.opened(op), op, "opened")
        if function is None:
            return self.add(op, name, *args, **kwargs)
        return self._opened(function, op, name, args, kwargs)

    def _average(self, layer, name, *tensors):
        """Appends the sum of tensors, two at a time, and its division."""
        x, *others = tensors
        for index, other in enumerate(others):
            pair = self.once(lambda: keras.layers.Add(), layer, index)
            x = self.add(pair, f"{name}_{index}", [x, other])
        share = 1 / len(tensors)
        return self.inline(lambda x: x * share, (x,), {}, prefix=f"{name}_")

    def _merge(self, layer, name, x, *others):
        """Appends a sum or product of tensors, two at a time as phones compute it."""
        for index, other in enumerate(others[:-1]):
            pair = self.once(lambda: type(layer)(), layer, index)
            x = self.add(pair, f"{name}_{index}", [x, other])
        return self.add(layer, name, [x, *others[-1:]])

    def _activation(self, function, layer, name, x):
        """Appends an activation: a function of Keras or of the user, or a layer."""
        if function is keras.activations.linear:
            return x
        if isinstance(function, keras.Layer):
            return self.call(function, name, (x,), {}, "")
        known = getattr(keras.activations, getattr(function, "__name__", ""), None)
        if function is known:
            stock = self.once(
                lambda: keras.layers.Activation(function), layer, function
            )
            return self.add(stock, name, x)
        return self.inline(
            function,
            (x,),
            {},
            lambda node, a, k: self.call(node.op, node.name, a, k, "", owner=layer),
            prefix=f"{name}_",
        )

    def _composite(self, layer, name, args, kwargs):
        """Opens a layer made of others by calling its `call` on symbolic tensors."""
        if "training" in inspect.signature(layer.call).parameters:
            kwargs = kwargs | {"training": False}
        copy = self.once(lambda: composites.copy(layer, name, args, kwargs), layer)
        self._names |= composites.sublayer_names(layer, copy)
        seen = set()

        def apply(node, a, k):
            for leaf in tree.flatten((node.args, node.kwargs)):
                if isinstance(leaf, keras.Variable):
                    seen.add(id(leaf))
            return self.call(node.op, node.name, a, k, f"{name}_", owner=layer)

        reads = composites.Reads()
        function = composites.tracing(copy, name, reads)
        outputs = self.inline(function, args, kwargs, apply)
        unseen = [v for v in composites.own_variables(copy) if id(v) not in seen]
        for variable in reads.variables + unseen:
            raise ValueError(
                f"Layer '{name}' ({type(layer).__name__}) uses its variable "
                f"'{variable.name}' in a way that can't be traced: it would become a "
                f"frozen constant. {composites.HOW_TO_DEPLOY}"
            )
        return outputs

    def _operation(self, op, name, args, kwargs, owner):
        variables = [
            leaf
            for leaf in tree.flatten((args, kwargs))
            if isinstance(leaf, keras.Variable)
        ]
        if not variables:
            return self._leaf(op, name, args, kwargs)
        where = f"operation '{name}'" + (f" of layer '{owner.name}'" if owner else "")
        if len(args) == 2 and type(op).__name__ in _ARITHMETIC:
            affine = affines.variable_affine(type(op).__name__, *args)
            if affine is not None:
                x, scale, shift = affine
                node = graphs.Node(op, args, kwargs, None, name)
                return add_scale_shift(
                    self,
                    x,
                    scale,
                    shift,
                    node,
                    trainable=variables[0].trainable,
                    key=(variables[0], type(op), args[0] is x, x.shape[-1]),
                )
        raise ValueError(
            f"Variable '{variables[0].path}' is used directly in {where} "
            f"({type(op).__name__}), where it would become a frozen constant. Only a "
            f"scale or shift per channel can be rewritten. {composites.HOW_TO_DEPLOY}"
        )


def _asks_for_training(op, kwargs):
    """Whether a call has training=True that is not the layer's own default.

    Keras notes the default in the call: True for augmentations, which obey the mode of
    the model all the same.
    """
    if kwargs.get("training") is not True:
        return False
    return inspect.signature(op.call).parameters["training"].default is not True


def _does_nothing(op, args):
    """Whether an operation returns its first argument at inference, in float32."""
    if isinstance(op, _TRAINING_ONLY):
        return _is_stock(op)
    name = type(op).__name__
    if not type(op).__module__.startswith("keras."):
        return False
    if name == "Cast":
        dtypes = args[0].dtype, op.compute_output_spec(*args).dtype
        return all(map(keras.backend.is_float_dtype, dtypes))
    return name in _NO_OPERATION or bool(_AUGMENTATION.fullmatch(name))


def _is_stock(layer):
    """Whether a layer computes what one of Keras' own layers computes."""
    stock = next(c for c in type(layer).__mro__ if c.__module__.startswith("keras."))
    # Networks of Keras have layers of their own: ConvNeXt's LayerScale.
    return (
        stock is not keras.Layer
        and stock in _PUBLIC
        and all(
            getattr(type(layer), method, None) is getattr(stock, method, None)
            for method in ("call", "convolution_op")
        )
    )


def _inputs_first(layer, args, kwargs):
    """Returns the arguments of a call with the inputs as the first positional one."""
    if args:
        return args, kwargs
    first = next(iter(inspect.signature(layer.call).parameters))
    kwargs = dict(kwargs)
    return (kwargs.pop(first),), kwargs


def _refuse_channels_first(layer, name, args):
    first = getattr(layer, "data_format", None) == "channels_first"
    if isinstance(layer, keras.layers.BatchNormalization):
        rank = len(args[0].shape)
        first = layer.axis not in (-1, rank - 1)
    if first:
        raise ValueError(
            f"Layer '{name}' is channels_first, which phones do not run: build the "
            "model with data_format='channels_last' and load its weights."
        )

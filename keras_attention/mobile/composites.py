"""Looks into layers that are made of other layers."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_attention import graph as graphs

HOW_TO_DEPLOY = (
    "Give the layer a method deploy(self) that returns a function of a symbolic tensor "
    "made of stock Keras layers."
)
_CALL_FAILS = "its call() fails on symbolic tensors"
# What every layer has: its bookkeeping of sub-layers is there, too.
_BOOKKEEPING = frozenset(vars(keras.layers.Identity(name="probe")))


def copy(layer: keras.Layer, name: str, args: tuple, kwargs: dict) -> keras.Layer:
    """Returns a float32 copy of a composite layer with its weights.

    Args:
        layer: a built layer.
        name: in the message of an error.
        args: symbolic arguments to build the copy for.
        kwargs: likewise.

    Raises:
        ValueError: its configuration or its `call` fails, or the copy computes
            something else.
    """
    problem = "get_config() and from_config() make no copy of it"
    try:
        config = graphs.in_float32(layer.get_config())
        made = type(layer).from_config(config)
        problem = _CALL_FAILS
        made(*args, **kwargs)
        problem = "its copy has other weights"
        graphs.copy_weights(layer, made)
        problem = "it can't be compared with its copy"
        difference = _difference(layer, made, args, kwargs)
    except Exception as error:
        raise _not_opened(layer, name, problem, error) from error
    if not difference <= (1e-3 if layer.compute_dtype == "float32" else 0.1):
        raise ValueError(
            f"Layer '{name}' ({type(layer).__name__}) can't be opened: what "
            "from_config(get_config()) makes computes something else (by "
            f"{difference:.1%} of the largest output). get_config() must return every "
            "argument, nothing may be set behind the constructor's back, and call() "
            f"may not be random at inference. {HOW_TO_DEPLOY}"
        )
    return made


def _difference(layer, made, args, kwargs):
    """Returns how far a copy is from its original, relative to the largest output."""
    rng = np.random.default_rng(0)

    def example(leaf):
        if not isinstance(leaf, graphs.Tensor):
            return leaf
        shape = [size or 2 for size in leaf.shape]
        return ops.convert_to_tensor(rng.standard_normal(shape), "float32")

    args, kwargs = tree.map_structure(example, (args, kwargs))
    kwargs = kwargs | {"training": False}
    wanted, got = (
        [
            ops.convert_to_numpy(ops.cast(y, "float32"))
            for y in tree.flatten(each(*args, **kwargs))
        ]
        for each in (layer, made)
    )
    return max(
        float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6))
        for a, b in zip(wanted, got, strict=True)
    )


class Reads(keras.StatelessScope):
    """Notes which float variables are read by value while a layer is traced.

    What is computed from a value alone is a constant to the trace. The variables of
    leaf layers are not noted: Keras infers their shapes in a scope of its own.
    """

    def __init__(self):
        super().__init__()
        self.variables = []

    def get_current_value(self, variable):
        """Returns the value that `variable` has in this scope."""
        if keras.backend.is_float_dtype(variable.dtype):
            self.variables.append(variable)
        return super().get_current_value(variable)


def tracing(layer: keras.Layer, name: str, reads: Reads) -> Callable:
    """Returns the layer's `call`, which notes reads and tells what went wrong.

    Args:
        layer: a built composite layer.
        name: in the message of an error.
        reads: gets the variables that are read.
    """

    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            with reads:
                return layer.call(*args, **kwargs)
        except Exception as error:
            problem = _CALL_FAILS
            if reads.variables:
                used = reads.variables[-1].name
                problem += (
                    f", where it uses its variable '{used}' (write x * {used}, "
                    f"x + {used} with the tensor first)"
                )
            raise _not_opened(layer, name, problem, error) from error

    return function


def _not_opened(layer, name, problem, error):
    return ValueError(
        f"Layer '{name}' ({type(layer).__name__}) can't be opened: {problem}. "
        f"{HOW_TO_DEPLOY} The error was: {error}"
    )


def sublayer_names(layer: keras.Layer, copy: keras.Layer) -> dict[int, str]:
    """Names the layers inside of a copy: as the user did, or by their attributes.

    Automatic names count up in a process; an attribute's name is the same in every
    process. The layers of a model that is an attribute are numbered.

    Returns:
        Maps id(layer inside of the copy) to a name.
    """
    names = {}

    def add(old, new, label):
        if isinstance(new, keras.Layer):
            given = getattr(old, "name", None) == new.name
            names.setdefault(id(new), new.name if given else label)
            if isinstance(new, keras.Sequential) or graphs.is_functional(new):
                add(getattr(old, "layers", ()), new.layers, "")
            return
        if isinstance(new, list | tuple):
            old, new = dict(enumerate(old or ())), dict(enumerate(new))
        if isinstance(new, dict):
            for key, value in new.items():
                add((old or {}).get(key), value, f"{label}_{key}".strip("_"))

    # What TensorFlow notes in a layer begins with "_self_".
    attributes = sorted(vars(copy).items(), key=lambda item: item[0].startswith("_"))
    for attribute, value in attributes:
        if attribute not in _BOOKKEEPING and not attribute.startswith("_self_"):
            add(getattr(layer, attribute, None), value, attribute.strip("_"))
    return names


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the float variables of the layer itself, not of its sub-layers."""
    return [
        variable
        for variable in layer.variables
        if variable.path == f"{layer.path}/{variable.name}"
        and keras.backend.is_float_dtype(variable.dtype)
    ]

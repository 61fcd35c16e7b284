"""Loads a PyTorch state dict into a layer or a network, by the authors' names."""

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from keras_attention import report
from keras_attention.weights import torch_networks
from keras_attention.weights.checkpoints import read_state_dict
from keras_attention.weights.torch_names import NAMES, block_of, part_of

_PARTS = {"weight": "kernel", "bias": "bias"}
_NORM_PARTS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
# PyTorch counts batches for an option that neither the blocks nor Keras have.
_COUNTER = "num_batches_tracked"
# So many missing or unexpected names stand in a message.
_LISTED = 8


@dataclasses.dataclass(frozen=True)
class LoadReport(report.Report):
    """What `load_torch` did.

    Attributes:
        loaded: names of the parameters that were loaded.
        missing: names that the target has and the state dict has not.
        unexpected: names that the state dict has and the target has not.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def load_torch(
    target: keras.Layer,
    state_dict_or_path: Mapping[str, Any] | str | os.PathLike,
    strict: bool = True,
) -> LoadReport:
    """Gives a layer or a network the parameters of the authors' PyTorch module.

    Args:
        target: a built attention layer of this package, or a network of one of its
            builders (ResNet, MobileNetV2, MobileNeXt, EfficientNet).
        state_dict_or_path: {name: array or torch tensor}, names and layouts as in the
            authors' code, e.g. "conv1.weight" (out, in, h, w); or a checkpoint file,
            which `read_state_dict` reads without PyTorch. A matrix (out, in) or a
            kernel (out, in, 1, 1, 1) fits a 1x1 convolution, an array (1, C, 1, 1) a
            weight (C,). `num_batches_tracked` is ignored.
        strict: whether missing and unexpected names are an error.

    Returns:
        A `LoadReport`.

    Raises:
        OSError: the file cannot be opened.
        TypeError: there are no names for this class of layer, or for a layer of the
            network; or the second argument is neither a mapping nor a path.
        ValueError: the layer is not built; the file is no readable checkpoint; a shape
            does not fit; or, if strict, a name is missing or unexpected. The target is
            then as it was.
    """
    state_dict = state_dict_or_path
    if isinstance(state_dict, str | os.PathLike):
        state_dict = read_state_dict(state_dict)
    elif not isinstance(state_dict, Mapping):
        raise TypeError(
            "load_torch needs {name: array} or the path of a checkpoint. Received: "
            f"{type(state_dict).__name__}"
        )
    given = {
        name: _array(value)
        for name, value in state_dict.items()
        if name.rsplit(".", 1)[-1] != _COUNTER
    }
    parameters = torch_parameters(target, given)
    result = LoadReport(
        loaded=tuple(name for name in parameters if name in given),
        missing=tuple(name for name in parameters if name not in given),
        unexpected=tuple(name for name in given if name not in parameters),
    )
    if strict and (result.missing or result.unexpected):
        raise ValueError(
            f"The state dict does not fit {_described(target)}: missing "
            f"{_listed(result.missing)}, unexpected {_listed(result.unexpected)}. "
            "strict=False loads the rest."
        )
    # All are checked before the first is assigned.
    values = {
        name: _to_keras(given[name], parameters[name], name, target)
        for name in result.loaded
    }
    for name, value in values.items():
        parameters[name].variable.assign(value)
    return result


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A weight of a Keras layer, seen from PyTorch.

    Attributes:
        variable: the weight.
        depthwise: whether it is the kernel of a depthwise convolution.
    """

    variable: keras.Variable
    depthwise: bool = False

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape of the parameter in PyTorch."""
        shape = tuple(self.variable.shape)
        if len(shape) < 2:
            return shape
        *window, inputs, outputs = shape
        if self.depthwise:
            return (inputs * outputs, 1, *window)
        return (outputs, inputs, *window)

    def to_keras(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of `torch_shape` in Keras' layout."""
        if array.ndim < 2:
            return array
        if self.depthwise:
            array = array.reshape(self.variable.shape[-2:] + array.shape[2:])
            return np.moveaxis(array, (0, 1), (-2, -1))
        return np.moveaxis(array, (1, 0), (-2, -1))

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Returns an array in Keras' layout (a weight, its gradient) in PyTorch's."""
        if array.ndim < 2:
            return array
        axes = (-2, -1) if self.depthwise else (-1, -2)
        return np.moveaxis(array, axes, (0, 1)).reshape(self.torch_shape)


def torch_parameters(
    layer: keras.Layer, given: Collection[str] = ()
) -> dict[str, Parameter]:
    """Returns the parameters of a built layer or network by the authors' names.

    Args:
        layer: the layer or network.
        given: names of a state dict: they decide whose names a network's are, if
            several packages have it.

    Raises:
        TypeError: there are no names for this class of layer, or for a layer of the
            network.
        ValueError: the layer is not built.
    """
    if isinstance(layer, keras.Model):
        found = {}
        for module, part in torch_networks.modules(layer, given).items():
            if block_of(part) is None:
                found |= _parts(module, part)
            else:
                own = torch_parameters(part)
                found |= {f"{module}.{name}": own[name] for name in own}
        return found
    block = block_of(layer)
    if block is None:
        raise TypeError(
            f"load_torch knows the blocks {', '.join(sorted(NAMES))}. Received: "
            f"{type(layer).__name__}"
        )
    if not layer.built:
        raise ValueError(
            f"Layer '{layer.name}' must be built before weights are loaded into it."
        )
    found = {}
    for name, attribute in NAMES[block].items():
        part = part_of(layer, attribute)
        if isinstance(part, keras.Variable):
            found[name] = Parameter(part)
        elif part is not None:
            found |= _parts(name, part)
    return found


def _parts(name, layer):
    """Returns the parameters of a module: a convolution or a normalization."""
    norm = isinstance(layer, keras.layers.BatchNormalization)
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    parts = _NORM_PARTS if norm else _PARTS
    return {
        f"{name}.{theirs}": Parameter(variable, depthwise and ours == "kernel")
        for theirs, ours in parts.items()
        if (variable := getattr(layer, ours, None)) is not None
    }


def _array(value):
    """Returns a parameter as an array; torch tensors may be on any device."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    return np.asarray(value)


def _to_keras(array, parameter, name, layer):
    wanted = parameter.torch_shape
    if len(wanted) == 1 and array.size == max(array.shape, default=0) == wanted[0]:
        array = array.reshape(wanted)  # (1, C, 1, 1), as authors scale maps
    ones = {1}
    if len(wanted) > 2 and set(wanted[2:]) == ones and set(array.shape[2:]) <= ones:
        # A fully connected layer, or a 1x1x1 convolution of video.
        if array.shape[:2] == wanted[:2]:
            array = array.reshape(wanted)
    if array.shape != wanted:
        raise ValueError(
            f"'{name}' has the shape {array.shape}, but {_described(layer)} needs "
            f"{wanted}."
        )
    return parameter.to_keras(array)


def _described(target):
    kind = "model" if isinstance(target, keras.Model) else "layer"
    return f"{kind} '{target.name}'"


def _listed(names):
    """Returns the first names, and how many more there are."""
    more = len(names) - _LISTED
    return f"{list(names[:_LISTED])}" + (f" and {more} more" if more > 0 else "")

"""Lets tensorflow-model-optimization's quantizers work inside Keras 3 layers.

A tfmot `Quantizer` says how a tensor is fake-quantized and which variables that takes;
its `build` makes them with a legacy Keras layer, which a Keras 3 layer is not. Here the
variables are made by the Keras 3 layer and handed to the quantizer's own `__call__`.

tfmot is imported on first use: it brings tf_keras along and takes seconds.
"""

import functools
import warnings
from typing import Any

import keras
import numpy as np


@functools.cache
def tfmot_quantizers():
    """Returns the module `tfmot.quantization.keras.quantizers`.

    Raises:
        RuntimeError: Keras does not run on TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Quantization needs the TensorFlow backend, not "
            f"{keras.backend.backend()!r}: save the model, set "
            "KERAS_BACKEND=tensorflow and load it there."
        )
    with warnings.catch_warnings():
        # tfmot compares versions with distutils, which is deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        import tensorflow_model_optimization as tfmot
    return tfmot.quantization.keras.quantizers


def fixed(bits: int, low: float, high: float) -> Any:
    """Returns the quantizer of a range that never changes.

    tfmot's own, `FixedQuantizer`, rounds to 8 bits whatever it is told. In its place
    stands one whose range must be set, by a layer that never lets it follow the data.
    """
    module = tfmot_quantizers()
    if bits == 8:
        return module.FixedQuantizer(bits, low, high, narrow_range=False)
    return module.MovingAverageQuantizer(
        bits, per_axis=False, symmetric=True, narrow_range=False
    )


def serialize(quantizer: Any) -> dict:
    """Returns a JSON-compatible description of a quantizer."""
    registered = keras.saving.get_registered_name(type(quantizer))
    return {"class_name": registered, "config": quantizer.get_config()}


def deserialize(config: dict) -> Any:
    """Makes a quantizer from its description.

    Args:
        config: {"class_name": a class of tfmot.quantization.keras.quantizers, or the
            name under which keras.saving.register_keras_serializable knows the
            user's own class, "config": its arguments}.

    Raises:
        ValueError: the class is unknown.
    """
    name = config["class_name"]
    cls = getattr(tfmot_quantizers(), name, None)
    cls = cls or keras.saving.get_registered_object(name)
    if cls is None:
        raise ValueError(
            f"Unknown quantizer {name!r}: import the module that registers it with "
            "keras.saving.register_keras_serializable before loading the model."
        )
    return cls.from_config(config["config"])


def is_config(value: Any) -> bool:
    """Whether `value` is a tfmot `QuantizeConfig`."""
    tfmot_quantizers()
    import tensorflow_model_optimization as tfmot

    return isinstance(value, tfmot.quantization.keras.QuantizeConfig)


def check(quantizer: Any, where: str) -> Any:
    """Returns `quantizer` if it is a tfmot `Quantizer`.

    Raises:
        TypeError: it is something else; `where` tells the user what was given.
    """
    if not isinstance(quantizer, tfmot_quantizers().Quantizer):
        raise TypeError(
            f"{where} must be a tfmot.quantization.keras.quantizers.Quantizer. "
            f"Received: {quantizer!r}"
        )
    return quantizer


def add_variables(layer: keras.Layer, quantizer: Any, shape: tuple) -> dict:
    """Makes the variables of a quantizer as weights of a Keras 3 layer.

    Args:
        layer: owner of the variables.
        quantizer: a tfmot `Quantizer`.
        shape: of the tensor that is quantized.

    Returns:
        The dictionary that the quantizer's `build` returns, of Keras 3 variables.
    """
    return quantizer.build(shape, "range", _LegacyLayer(layer)) or {}


class _LegacyLayer:
    """What `Quantizer.build` needs of a legacy layer: `add_weight`."""

    def __init__(self, layer):
        self._layer = layer

    def add_weight(self, name=None, shape=(), initializer=None, **kwargs):
        if shape is None:
            shape = ()
        shape = (shape,) if isinstance(shape, int) else tuple(shape)

        def initial(shape, dtype=None):
            if initializer is None:
                return keras.ops.zeros(shape, dtype)
            if isinstance(initializer, str):
                return keras.initializers.get(initializer)(shape, dtype)
            return keras.ops.convert_to_tensor(initializer(shape), dtype)

        return self._layer.add_weight(
            name=name,
            shape=shape,
            initializer=initial,
            dtype="float32",
            trainable=False,
        )


def raw(variables: dict) -> dict:
    """Returns the TensorFlow variables that a quantizer's `__call__` works on."""
    return {name: variable.value for name, variable in variables.items()}


def has_range(variables: dict) -> bool:
    """Whether the quantizer keeps its range as `min_var` and `max_var`."""
    return "min_var" in variables and "max_var" in variables


def set_range(quantizer: Any, variables: dict, low: Any, high: Any) -> None:
    """Sets a quantizer's range: 0 inside of it, symmetric if the quantizer is.

    A quantizer that does not keep its range as `min_var` and `max_var` stays as it is.

    Args:
        quantizer: a tfmot `Quantizer`.
        variables: as returned by `add_variables`.
        low: smallest value, a scalar or one per channel.
        high: largest value, likewise.
    """
    if not has_range(variables):
        return
    low = np.minimum(np.asarray(low, "float32"), 0)
    high = np.maximum(np.asarray(high, "float32"), 0)
    if getattr(quantizer, "symmetric", False):
        steps = 1 << quantizer.num_bits
        ratio = 1.0 if quantizer.narrow_range else (steps - 2) / steps
        low, high = np.minimum(low, -high / ratio), np.maximum(high, -low * ratio)
    variables["min_var"].assign(low)
    variables["max_var"].assign(high)


def get_range(quantizer: Any, variables: dict) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns (low, high) as float32 arrays, or None for a quantizer without."""
    found = bounds(quantizer, variables)
    return found and tuple(keras.ops.convert_to_numpy(bound) for bound in found)


def bounds(quantizer: Any, variables: dict) -> tuple[Any, Any] | None:
    """Returns (low, high) as they are: variables or numbers; None without a range."""
    if has_range(variables):
        return variables["min_var"], variables["max_var"]
    if hasattr(quantizer, "init_min"):  # tfmot's FixedQuantizer
        return np.float32(quantizer.init_min), np.float32(quantizer.init_max)
    return None

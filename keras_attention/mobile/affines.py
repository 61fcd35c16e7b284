"""Reads layers and operations as a scale and a shift per channel."""

import keras
import numpy as np

from keras_attention import graph as graphs


def input_affine(layer, name, x):
    """Returns (scale, shift) per channel of a Rescaling or Normalization layer."""
    channels = x.shape[-1]
    if isinstance(layer, keras.layers.Rescaling):
        scale, shift = np.asarray(layer.scale), np.asarray(layer.offset)
    else:
        if layer.invert or layer.mean is None:
            raise ValueError(
                f"Normalization layer '{name}' must be adapted, and not inverted."
            )
        if not set(layer.axis) <= {-1, len(x.shape) - 1}:
            raise ValueError(
                f"Normalization layer '{name}' must have axis=-1, the channels, or "
                f"axis=None. Its axis is {layer.axis}."
            )
        mean = keras.ops.convert_to_numpy(layer.mean).astype("float64").ravel()
        variance = keras.ops.convert_to_numpy(layer.variance).astype("float64").ravel()
        scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
        shift = -mean * scale
    if scale.size not in (1, channels) or shift.size not in (1, channels):
        raise ValueError(
            f"Layer '{name}' does not scale per channel: {scale.size} scales for "
            f"{channels} channels."
        )
    return np.broadcast_to(scale.ravel(), channels), np.broadcast_to(
        shift.ravel(), channels
    )


def variable_affine(operation, left, right):
    """Reads `left <operation> right` as x * scale + shift, one of them a variable.

    Returns:
        (x, scale, shift), or None if the variable is no value per channel.
    """
    x, variable = (right, left) if isinstance(left, keras.Variable) else (left, right)
    if not isinstance(x, graphs.Tensor):
        return None
    channels, shape = x.shape[-1], tuple(variable.shape)
    per_channel = not shape or (
        set(shape[:-1]) <= {1} and shape[-1] in (1, channels) and len(shape) <= 4
    )
    if not per_channel or len(shape) > len(x.shape):
        return None
    value = keras.ops.convert_to_numpy(variable).astype("float32").ravel()
    value, one = np.broadcast_to(value, channels), np.ones(channels, "float32")
    if operation == "Multiply":
        return x, value, None
    if operation == "Add":
        return x, one, value
    if operation == "Subtract":
        return (x, one, -value) if x is left else (x, -one, value)
    return (x, 1 / value, None) if x is left else None

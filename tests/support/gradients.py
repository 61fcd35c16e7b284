"""Gradients of layers, with respect to their input and their weights."""

import numpy as np
import tensorflow as tf


def gradients(layer, x, cotangent, training=True):
    """Differentiates sum(y * cotangent), y = layer(x).

    Args:
        layer: a built layer.
        x: array, its input.
        cotangent: array of the shape of its output.
        training: the mode of the call.

    Returns:
        y, dx, {id(variable): gradient} of the trainable variables, all as arrays.
    """
    x = tf.constant(x)
    values = {id(variable): variable.value for variable in layer.trainable_variables}
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        loss = tf.reduce_sum(y * cotangent)
    dx, found = tape.gradient(loss, [x, values])
    missing = [key for key, gradient in found.items() if gradient is None]
    names = [v.path for v in layer.trainable_variables if id(v) in missing]
    assert not names, f"no gradient reaches {names}"
    return y.numpy(), dx.numpy(), {key: np.asarray(g) for key, g in found.items()}

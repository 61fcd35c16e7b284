"""Gradients of layers, with respect to their input and their weights."""

import contextlib

import keras
from keras import ops

# Of gradients against finite differences in float64. Keras' means take float64 as
# float32 on PyTorch.
FLOAT64_CLOSE = 1e-5 if keras.backend.backend() == "torch" else 1e-6


def double_precision():
    """Returns a context in which JAX, too, knows float64."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def gradients(layer, x, cotangent, training=True):
    """Differentiates sum(y * cotangent), y = layer(x).

    The layer's state (moving statistics) is afterwards what a call leaves.

    Args:
        layer: a built layer.
        x: array, its input.
        cotangent: array of the shape of its output.
        training: the mode of the call.

    Returns:
        y, dx, {id(variable): gradient} of the trainable variables, all as arrays.
    """
    backward = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    y, dx, found = backward[keras.backend.backend()](layer, x, cotangent, training)
    pairs = list(zip(layer.trainable_variables, found, strict=True))
    names = [variable.path for variable, gradient in pairs if gradient is None]
    assert not names, f"no gradient reaches {names}"
    array = ops.convert_to_numpy
    return array(y), array(dx), {id(v): array(gradient) for v, gradient in pairs}


def _tensorflow(layer, x, cotangent, training):
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        loss = tf.reduce_sum(y * cotangent)
    values = [variable.value for variable in layer.trainable_variables]
    dx, found = tape.gradient(loss, [x, values])
    return y, dx, found


def _jax(layer, x, cotangent, training):
    """JAX gives zeros where no gradient arrives: that shows on the other backends."""
    import jax

    trainable, state = layer.trainable_variables, layer.non_trainable_variables

    def loss(x, values):
        mapping = list(zip(trainable, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            y = layer(x, training=training)
            after = [scope.get_current_value(variable) for variable in state]
        return (y * cotangent).sum(), (y, after)

    # One compilation is faster than one for each operation.
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    values = [variable.value for variable in trainable]
    (dx, found), (y, after) = gradient(ops.convert_to_tensor(x), values)
    for variable, value in zip(state, after, strict=True):
        if value is not None:
            variable.assign(value)
    return y, dx, found


def _torch(layer, x, cotangent, training):
    import torch

    x = ops.convert_to_tensor(x).requires_grad_()
    with torch.enable_grad():
        y = layer(x, training=training)
        loss = (y * ops.convert_to_tensor(cotangent)).sum()
    values = [variable.value for variable in layer.trainable_variables]
    dx, *found = torch.autograd.grad(loss, [x, *values], allow_unused=True)
    return y, dx, found

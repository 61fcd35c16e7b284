"""The Keras half of `gpu`: a worker that trains networks and blocks on JAX."""

import functools
import os
import platform
import time

os.environ["KERAS_BACKEND"] = "jax"

import _weights
import _workers
import jax
import keras
import numpy as np
from formulas import FORMULAS

import keras_attention
from keras_attention import models
from keras_attention.weights.torch_state import torch_parameters

POLICY = "mixed_bfloat16"
CLASSES = 100
CHECKED = 8  # samples: batch statistics of fewer multiply the rounding

_steps = {}  # name: a function without arguments, compiled


def device():
    """Returns where JAX computes, and the versions."""
    (found, *_) = jax.devices()
    versions = {"Python": platform.python_version(), "Keras": keras.__version__}
    return {
        "platform": found.platform,
        "name": found.device_kind,
        "versions": versions | {"JAX": jax.__version__},
    }


def network(name, builder, size, batch, attention):
    """Compiles the training step of a network with SGD; returns its parameters."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(POLICY)
    model = getattr(models, builder)(
        (size, size, 3), CLASSES, stem="cifar", attention=attention
    )
    keras.config.set_dtype_policy("float32")
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def objective(trainable, others, x, y):
        logits, others = model.stateless_call(trainable, others, x, training=True)
        return loss(y, logits), others

    gradient = jax.value_and_grad(objective, has_aux=True)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, x, y):
        trainable, others, slots = state
        (value, others), found = gradient(trainable, others, x, y)
        trainable, slots = optimizer.stateless_apply(slots, found, trainable)
        return (trainable, others, slots), value

    state = [*_values(model), [v.value for v in optimizer.variables]]
    rng = np.random.default_rng(0)
    x = jax.device_put(rng.uniform(-1, 1, (batch, size, size, 3)).astype("float32"))
    y = jax.device_put(rng.integers(0, CLASSES, batch).astype("int32"))

    def run():
        nonlocal state
        state, value = step(state, x, y)
        return value

    _steps[name] = run
    value = float(run())
    if not np.isfinite(value):
        raise ValueError(f"the loss of {name} is {value}")
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def numbers(kind, shape, path):
    """Writes what a block computes in float32, to a file like the golden ones.

    Args:
        kind: registry name, or "conv": a 3x3 convolution.
        shape: (H, W, C).
        path: of the file: param/..., x, cotangent, y_training, dx_training.
    """
    layer = _layer(kind, shape, "float32")
    rng = np.random.default_rng(1)
    means = rng.normal(0, 1, (CHECKED, 1, 1, shape[-1]))
    x = (rng.normal(0, 1, (CHECKED, *shape)) + means).astype("float32")
    cotangent = rng.normal(0, 1, x.shape).astype("float32")
    with jax.default_matmul_precision("highest"):
        y, (_, dx), _ = _step(layer)(*_values(layer), x, cotangent)
    arrays = {f"param/{name}": array for name, array in _torch_arrays(layer).items()}
    np.savez(path, x=x, cotangent=cotangent, y_training=y, dx_training=dx, **arrays)


def block(name, kind, shape, batch):
    """Compiles forward and backward of a block with the same weights, as `name`."""
    layer = _layer(kind, shape, POLICY)
    keys = jax.random.split(jax.random.key(0))
    noise = [jax.random.normal(key, (batch, *shape), "bfloat16") for key in keys]
    _steps[name] = functools.partial(_step(layer), *_values(layer), *noise)
    seconds(name, 1)


def _layer(kind, shape, policy):
    """Returns a built layer with random weights."""
    channels = shape[-1]
    if kind == "conv":
        layer = keras.layers.Conv2D(
            channels, 3, padding="same", use_bias=False, dtype=policy
        )
    else:
        arguments = FORMULAS[kind].arguments(channels)
        layer = keras_attention.get(kind, **arguments, dtype=policy)
    layer.build((None, *shape))
    _weights.randomize(layer.weights)
    return layer


def _values(layer):
    kinds = layer.trainable_variables, layer.non_trainable_variables
    return [[v.value for v in kind] for kind in kinds]


def _step(layer):
    """Returns the compiled (weights, statistics, x, cotangent) -> all that changes."""
    kinds = layer.trainable_variables, layer.non_trainable_variables

    @jax.jit
    def step(weights, statistics, x, cotangent):
        def apply(weights, x):
            mapping = [
                *zip(kinds[0], weights, strict=True),
                *zip(kinds[1], statistics, strict=True),
            ]
            # Not stateless_call: that passes the dtype policy's casts by.
            with keras.StatelessScope(state_mapping=mapping) as scope:
                y = layer(x, training=True)
            return y, [scope.get_current_value(variable) for variable in kinds[1]]

        y, backward, after = jax.vjp(apply, weights, x, has_aux=True)
        return y, backward(cotangent), after

    return step


def _torch_arrays(layer):
    if type(layer) is keras.layers.Conv2D:
        return {"weight": np.moveaxis(np.asarray(layer.kernel), (3, 2), (0, 1))}
    return {
        name: parameter.to_torch(np.asarray(parameter.variable))
        for name, parameter in torch_parameters(layer).items()
    }


def seconds(name, calls):
    """Returns how long so many calls take, until the last one's results are there."""
    step = _steps[name]
    begin = time.perf_counter()
    for _ in range(calls):
        result = step()
    jax.block_until_ready(result)
    return time.perf_counter() - begin


def forget(name):
    """Frees what a step holds, if there is such a step."""
    _steps.pop(name, None)
    jax.clear_caches()


if __name__ == "__main__":
    _workers.serve(
        device=device,
        network=network,
        numbers=numbers,
        block=block,
        seconds=seconds,
        forget=forget,
    )

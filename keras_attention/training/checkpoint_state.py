"""The state of a model in training: its variables in three groups, read and set.

Nothing here is a file's; `checkpoints` puts both together.
"""

import contextlib
import re
from collections.abc import Mapping

import keras
import numpy as np

_AUTOMATIC_NUMBER = re.compile(r"_\d+(?=[_/]|$)")


def read(model: keras.Model) -> dict[str, np.ndarray]:
    """Copy the value of every variable of a model, its optimizer and its metrics.

    Args:
        model: Compiled. Its optimizer is built if it is not.

    Returns:
        Arrays under "group/number/path", groups "model", "optimizer" and "metrics"; a
        variable that is in two groups is in the first.
    """
    return {
        f"{group}/{number:05d}/{variable.path}": np.asarray(variable.numpy())
        for group, variables in _groups(model).items()
        for number, variable in enumerate(variables)
    }


def first_non_finite(
    model: keras.Model, arrays: Mapping[str, np.ndarray]
) -> keras.Variable | None:
    """The first trainable weight or metric that is NaN or infinite.

    Args:
        model: The model.
        arrays: What `read` returned for it.

    Returns:
        The variable; None if all of them are finite.
    """
    checked = {id(v) for v in (*model.trainable_variables, *model.metrics_variables)}
    variables = [one for group in _groups(model).values() for one in group]
    for variable, array in zip(variables, arrays.values(), strict=True):
        if id(variable) in checked and not np.isfinite(array).all():
            return variable
    return None


def assign(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Set the variables of a model and its optimizer; those of metrics come later.

    Args:
        model: Compiled, and built as the model was that `arrays` are from.
        arrays: What `read` returned.

    Returns:
        The values for `model.metrics_variables`, which Keras resets at each epoch.

    Raises:
        ValueError: If a variable's path, shape or dtype differs, but for the numbers of
            automatic names: names it. Nothing is set then.
    """
    saved: dict[str, list] = {"model": [], "optimizer": [], "metrics": []}
    for name, array in arrays.items():
        group, _, path = name.split("/", 2)
        saved[group].append((path, array))
    metrics = [array for _, array in saved.pop("metrics")]

    groups = _groups(model)
    pairs = []
    for group, values in saved.items():
        for (path, array), variable in zip(values, groups[group], strict=False):
            found = path, tuple(array.shape), array.dtype.name
            own = variable.path, tuple(variable.shape), str(variable.dtype)
            if _comparable(*found) != _comparable(*own):
                raise ValueError(
                    "a variable saved as {} of shape {} and dtype {}".format(*found)
                    + " would go to {} of shape {} and dtype {}".format(*own)
                )
            pairs.append((variable, array))
        names = [path for path, _ in values], [v.path for v in groups[group]]
        if len(names[0]) != len(names[1]):
            shorter, longer = sorted(names, key=len)
            raise ValueError(
                f"{len(names[0])} saved variables of the {group} would go to "
                f"{len(names[1])}; the first without its like is {longer[len(shorter)]}"
            )
    for variable, array in pairs:
        variable.assign(array)
    return metrics


def _groups(model: keras.Model) -> dict[str, list[keras.Variable]]:
    # On JAX the state is the training function's between two steps.
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    optimizer = model.optimizer
    if not optimizer.built:
        # Beside the model's variables, where a tf.distribute strategy has them.
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy else contextlib.nullcontext():
            optimizer.build(model.trainable_variables)
    seen: set[int] = set()
    return {
        group: [v for v in variables if not (id(v) in seen or seen.add(id(v)))]
        for group, variables in (
            ("model", model.variables),
            ("optimizer", optimizer.variables),
            ("metrics", model.metrics_variables),
        )
    }


def _comparable(path: str, shape: tuple, dtype: str) -> tuple:
    # Keras numbers its automatic names through a process.
    return _AUTOMATIC_NUMBER.sub("", path), shape, dtype

"""Random weights under which every block does something."""

import numpy as np


def randomize(variables, seed=0):
    """Gives variables of a layer random values: initial ones gate nothing."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        size = tuple(variable.shape)
        if len(size) > 1:
            value = rng.normal(0, 1.5 / np.sqrt(np.prod(size[:-1])), size)
        elif variable.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, size)
        else:
            value = rng.normal(0, 0.3, size)
        variable.assign(value)

"""Names of the attention blocks, for builders, recipes and the command line."""

import difflib

import keras

_CLASSES: dict[str, type[keras.layers.Layer]] = {}


def register(name):
    """Returns a class decorator that registers a layer class under `name`.

    Args:
        name: A new, short, lower-case name, e.g. "coord".

    Raises:
        ValueError: Another class is registered under the same name.
    """

    def decorator(cls):
        if name in _CLASSES:
            raise ValueError(
                f"name {name!r} is already registered for {_CLASSES[name].__name__}; "
                f"received {cls.__name__}"
            )
        _CLASSES[name] = cls
        return cls

    return decorator


def get(name, /, **kwargs):
    """Returns a new layer of the class registered under `name`.

    Args:
        name: A registered name, see `names`.
        **kwargs: Arguments of the class, the layer's own `name` among them.

    Raises:
        ValueError: No class is registered under this name.
    """
    return class_of(name)(**kwargs)


def class_of(name):
    """Returns the class registered under `name`.

    Raises:
        ValueError: No class is registered under this name.
    """
    if name not in _CLASSES:
        nearest = difflib.get_close_matches(str(name), _CLASSES, n=1, cutoff=0.0)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(
            f"unknown attention name {name!r}: {hint}Known names: {', '.join(names())}"
        )
    return _CLASSES[name]


def names():
    """Returns the registered names, sorted."""
    return sorted(_CLASSES)


def name_of(cls):
    """Returns the name under which a class is registered, or None."""
    return next((name for name, known in _CLASSES.items() if known is cls), None)

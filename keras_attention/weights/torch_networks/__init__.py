"""What the authors call the layers of whole networks: one file per family.

Each has `recognizes(names)`, whether a network with layers of these names is one of the
family, and `modules(layers)`, which yields (the authors' name or None, layer). Where
several packages have the same networks under other names, each is an entry of its own.
"""

from collections.abc import Collection

import keras

from keras_attention.weights.torch_names import IN_NETWORKS, block_of, part_of
from keras_attention.weights.torch_networks import (
    efficientnet,
    mobilenet_v2,
    mobilenext,
    resnet,
)

_FAMILIES = (*mobilenet_v2.SCHEMES, mobilenext, resnet, *efficientnet.SCHEMES)


def modules(model: keras.Model, given: Collection[str] = ()) -> dict[str, keras.Layer]:
    """Returns the layers with weights by the names of the authors' modules.

    Args:
        model: A network of one of this package's builders, with or without top.
        given: Names of a state dict. Where a network has several authors' names, those
            that most of these begin with are meant; the first ones if none does.

    Raises:
        TypeError: A layer has no such name, or shares it with another one.
    """
    layers = [layer for layer in model.layers if layer.weights]
    names = {layer.name for layer in layers}
    known = [list(f.modules(layers)) for f in _FAMILIES if f.recognizes(names)]
    known += [list(_in_parts(pairs)) for pairs in known]
    theirs = {name.rpartition(".")[0] for name in given}
    named = max(
        known or [[(None, layer) for layer in layers]],
        key=lambda pairs: sum(name in theirs for name, _ in pairs),
    )
    found = {}
    for name, layer in named:
        if name is None or name in found:
            raise TypeError(
                "load_torch knows the blocks of this package and the networks of its "
                "builders, with at most one of each block in a unit. Received: model "
                f"'{model.name}' with layer '{layer.path}' ({type(layer).__name__})"
            )
        found[name] = layer
    return found


def _in_parts(pairs):
    """Yields a network's pairs with the other names that its blocks' parts have."""
    for name, layer in pairs:
        parts = {
            theirs: part_of(layer, ours)
            for theirs, ours in IN_NETWORKS.get(block_of(layer), {}).items()
        }
        if name and parts and all(part is not None for part in parts.values()):
            yield from ((f"{name}.{theirs}", part) for theirs, part in parts.items())
        else:
            yield name, layer

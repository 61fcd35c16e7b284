"""What the authors call the layers of whole networks: one file per family.

Each has `recognizes(names)`, whether a network with layers of these names is one of the
family, and `modules(layers)`, which yields (the authors' name or None, layer).
"""

import keras

from keras_attention.weights.torch_networks import mobilenet_v2, resnet

_FAMILIES = (mobilenet_v2, resnet)


def modules(model: keras.Model) -> dict[str, keras.Layer]:
    """Returns the layers with weights by the names of the authors' modules.

    Args:
        model: A network of one of this package's builders, with or without top.

    Raises:
        TypeError: A layer has no such name, or shares it with another one.
    """
    layers = [layer for layer in model.layers if layer.weights]
    names = {layer.name for layer in layers}
    family = next((f for f in _FAMILIES if f.recognizes(names)), None)
    found = {}
    named = family.modules(layers) if family else ((None, layer) for layer in layers)
    for name, layer in named:
        if name is None or name in found:
            raise TypeError(
                "load_torch knows the blocks of this package and the networks of its "
                "builders, with at most one of each block in a unit. Received: model "
                f"'{model.name}' with layer '{layer.name}' ({type(layer).__name__})"
            )
        found[name] = layer
    return found

"""The papers' networks by name."""

import difflib

from keras_attention.models._preset_table import PRESETS


def presets():
    """Returns the networks of the papers, {name: `Preset`}.

    A `Preset` says how the network is built, what it costs (exact counts of this
    package's networks) and what is published about it: accuracies and costs with their
    source, and whether they were read there or are recalled.

    Example:
        >>> presets()["mobilenet_v2_coord"].parameters
        3950648
    """
    return dict(PRESETS)


def preset(name, /, **overrides):
    """Returns a paper's network, untrained.

    Args:
        name: A name of `presets`.
        **overrides: Arguments of its builder that take the place of the preset's, e.g.
            `classes=10`.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: There is no preset of that name, or the builder refuses an argument.

    Example:
        >>> preset("resnet50_cifar_ema", classes=10).output_shape
        (None, 10)
    """
    from keras_attention import models

    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=5, cutoff=0.5)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "models.presets() has all"
        )
        raise ValueError(f"unknown preset {name!r}: {hint}")
    found = PRESETS[name]
    arguments = {"input_shape": found.input_shape, "classes": found.classes}
    build = getattr(models, found.builder)
    return build(**arguments | found.arguments | overrides)

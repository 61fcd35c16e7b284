"""The L1 penalty on the scales of batch normalizations that NAM is trained with.

Liu, Shao, Teng and Hoffmann, arXiv 2111.12419; official code: Christian-lyc/NAM. Scales
under this penalty become sparse, and so do the channel weights that NAM makes of them.
The authors penalize every batch normalization of the network, not NAM's own alone.
"""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_attention")
class GammaL1(keras.regularizers.Regularizer):
    """penalty * sum |gamma|, in float32 or wider.

    Args:
        penalty: The factor; default: the authors'.

    Raises:
        ValueError: `penalty` is no finite number of at least 0.
    """

    def __init__(self, penalty=1e-4):
        self.penalty = _checked(penalty)

    def __call__(self, gamma):
        """Returns the penalty, a scalar, of an array of any shape."""
        gamma = ops.cast(gamma, keras.backend.result_type(gamma.dtype, "float32"))
        return self.penalty * ops.sum(ops.abs(gamma))

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"penalty": self.penalty}


def penalize_gammas(model, penalty=1e-4):
    """Puts `GammaL1` on the scale of every batch normalization of a model.

    Those inside of nested models and of composite layers are found, too. The penalty
    appears in `losses`, and so in training. Normalizations that have no scale, or are
    frozen, have none.

    Args:
        model: A functional or Sequential model; a Sequential one need not be built.
        penalty: Of `GammaL1`. It replaces one that was set before; 0 takes it away.

    Returns:
        An uncompiled model of the same layers and weights: those of the given model,
        which is penalized with it. What is special about it is that it puts the penalty
        on again when it is loaded from a file, as composite layers do not save what was
        set on the layers in them.

    Raises:
        TypeError: `model` is neither functional nor Sequential. A model class of your
            own gives its normalizations `gamma_regularizer=GammaL1()`.
        ValueError: `penalty` is no finite number of at least 0, or a scale has another
            regularizer; its layer is named, and none is changed.
    """
    _checked(penalty)
    _check_regularizers(model)
    if isinstance(model, keras.Sequential):
        made = GammaPenalizedSequential(name=model.name, gamma_penalty=penalty)
        if model.built:
            made.add(model.inputs[0])
        for layer in model.layers:
            made.add(layer)
        return made
    if not hasattr(model, "operations"):
        raise TypeError(
            f"{getattr(model, 'name', model)!r} is no functional or Sequential model: "
            "give its BatchNormalization layers gamma_regularizer=GammaL1()"
        )
    return GammaPenalizedModel(
        model.input, model.output, name=model.name, gamma_penalty=penalty
    )


@keras.saving.register_keras_serializable(package="keras_attention")
class GammaPenalizedModel(keras.Model):
    """A functional model whose scales are penalized: see `penalize_gammas`.

    Args:
        *args: As for a functional `keras.Model`: inputs and outputs.
        gamma_penalty: Of `GammaL1`.
        **kwargs: As for a functional `keras.Model`.
    """

    def __init__(self, *args, gamma_penalty=1e-4, **kwargs):
        super().__init__(*args, **kwargs)
        self.gamma_penalty = gamma_penalty
        _penalize(self, gamma_penalty)

    def get_config(self):
        """Returns the functional model's config, and the penalty."""
        return {**super().get_config(), "gamma_penalty": self.gamma_penalty}


@keras.saving.register_keras_serializable(package="keras_attention")
class GammaPenalizedSequential(keras.Sequential):
    """A Sequential model whose scales are penalized: see `penalize_gammas`.

    Args:
        *args: As for `keras.Sequential`.
        gamma_penalty: Of `GammaL1`.
        **kwargs: As for `keras.Sequential`.
    """

    def __init__(self, *args, gamma_penalty=1e-4, **kwargs):
        self.gamma_penalty = gamma_penalty
        super().__init__(*args, **kwargs)

    def build(self, input_shape=None):
        """Builds the layers and puts the penalty on them."""
        super().build(input_shape)
        _penalize(self, self.gamma_penalty)

    def get_config(self):
        """Returns the Sequential model's config, and the penalty."""
        return {**super().get_config(), "gamma_penalty": self.gamma_penalty}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes a model of a config."""
        model = super().from_config(config, custom_objects)
        model.gamma_penalty = config["gamma_penalty"]
        _penalize(model, model.gamma_penalty)
        return model


def _checked(penalty):
    number = isinstance(penalty, int | float) and not isinstance(penalty, bool)
    if not number or not 0 <= penalty < math.inf:
        raise ValueError(
            f"penalty must be a finite number of at least 0; received {penalty!r}"
        )
    return penalty


def _check_regularizers(model):
    for norm in _normalizations(model):
        if not isinstance(norm.gamma_regularizer, GammaL1 | None):
            raise ValueError(
                f"layer {norm.name!r} has gamma_regularizer={norm.gamma_regularizer!r} "
                "already: it can't have a second one"
            )


def _penalize(model, penalty):
    regularizer = GammaL1(penalty) if penalty else None
    for norm in _normalizations(model):
        norm.gamma_regularizer = regularizer  # for its config, and if it is not built
        if norm.built and norm.gamma is not None:
            norm.gamma.regularizer = regularizer


def _normalizations(model):
    """Returns the batch normalizations of a model, at any depth."""
    found, seen, todo = [], set(), [model]
    while todo:
        item = todo.pop()
        if isinstance(item, keras.Layer):
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, keras.layers.BatchNormalization):
                found.append(item)
            todo += vars(item).values()  # attributes, among them Keras' own lists
        elif isinstance(item, list | tuple | set):
            todo += item
        elif isinstance(item, dict):
            todo += item.values()
    return found

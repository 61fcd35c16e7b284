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
    """Puts `GammaL1` on the scale of every batch normalization of a model, in place.

    Those inside of nested models and of composite layers are found, too. The penalty
    appears in `losses`, and so in training: call it before `compile`, or compile again.
    Normalizations that have no scale, or are frozen, have none. What a layer makes when
    it is built is there only then.

    Normalizations inside of composite layers do not save the penalty, so call it again
    on a model that was loaded.

    Args:
        model: A `keras.Model` of any kind, built or not.
        penalty: Of `GammaL1`. It replaces one that was set before; 0 takes it away.

    Raises:
        ValueError: `penalty` is no finite number of at least 0, or a scale has another
            regularizer; its layer is named, and none is changed.
    """
    regularizer = GammaL1(penalty) if _checked(penalty) else None
    norms = _normalizations(model)
    for norm in norms:
        if not isinstance(norm.gamma_regularizer, GammaL1 | None):
            raise ValueError(
                f"layer {norm.name!r} has gamma_regularizer={norm.gamma_regularizer!r} "
                "already: it can't have a second one"
            )
    for norm in norms:
        norm.gamma_regularizer = regularizer  # for its config, and if it is not built
        if norm.built and norm.gamma is not None:
            norm.gamma.regularizer = regularizer


def _checked(penalty):
    number = isinstance(penalty, int | float) and not isinstance(penalty, bool)
    if not number or not 0 <= penalty < math.inf:
        raise ValueError(
            f"penalty must be a finite number of at least 0; received {penalty!r}"
        )
    return penalty


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

"""The optimizer of a recipe: with schedule, clipping, accumulation, averages."""

import keras

from keras_attention.optimization import (
    CoupledRMSprop,
    CoupledSGD,
    KernelAdamW,
    LinearWarmup,
    cosine,
)
from keras_attention.training.recipe import Recipe

# EfficientNet's, as recalled from its official code. Keras adds epsilon under the root,
# as TensorFlow always did, and PyTorch behind it.
RMSPROP = {"rho": 0.9, "epsilon": 1e-3}


def build(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Makes the optimizer of a recipe's float training.

    Weight decay leaves out biases and normalizations. That of SGD and RMSprop is
    PyTorch's: a part of the gradient, behind the clipping.

    Args:
        recipe: The recipe.
        steps_per_epoch: Batches in an epoch, over which the schedule is laid out.

    Returns:
        A new optimizer, not built yet. It is serializable, and known to whoever has
        imported `keras_attention`.

    Raises:
        ValueError: If `steps_per_epoch` is no positive integer.
    """
    section = recipe.optimizer
    options = {
        "learning_rate": schedule(recipe, steps_per_epoch),
        "global_clipnorm": section.clip_norm,
        "use_ema": recipe.weight_ema > 0,
        # Keras averages after every batch: so it is the momentum of an update.
        "ema_momentum": recipe.weight_ema ** (1 / section.accumulate),
        "gradient_accumulation_steps": (
            section.accumulate if section.accumulate > 1 else None
        ),
    }
    if section.name == "adamw":
        return KernelAdamW(weight_decay=section.weight_decay, **options)
    options["momentum"] = section.momentum
    options["coupled_weight_decay"] = section.weight_decay
    if section.name == "rmsprop":
        return CoupledRMSprop(**RMSPROP, **options)
    return CoupledSGD(nesterov=section.nesterov, **options)


def schedule(
    recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule | float:
    """Makes the schedule of a recipe's learning rate over its batches.

    Args:
        recipe: The recipe.
        steps_per_epoch: Batches in an epoch.

    Returns:
        The rate as a function of the number of batches seen, or the one rate that
        stays.

    Raises:
        ValueError: If `steps_per_epoch` is no positive integer.
    """
    if not isinstance(steps_per_epoch, int) or steps_per_epoch < 1:
        raise ValueError(
            f"steps_per_epoch must be an integer >= 1; received {steps_per_epoch!r}"
        )
    section, rate = recipe.schedule, recipe.optimizer.lr
    steps = recipe.epochs * steps_per_epoch
    warmup = min(round(section.warmup_epochs * steps_per_epoch), steps - 1)
    if section.name == "cosine":
        return cosine(rate, steps, warmup, section.final)
    if section.name == "step":
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            # Keras' boundaries are the last steps of a rate.
            [epoch * steps_per_epoch - 1 for epoch in section.milestones],
            [
                rate * section.factor**drop
                for drop in range(len(section.milestones) + 1)
            ],
        )
    return LinearWarmup(rate, warmup) if warmup else rate

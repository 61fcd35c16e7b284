"""Optimizers and a schedule that Keras lacks: PyTorch's weight decay, linear warm-up.

Weight decay concerns kernels: biases, and scales and shifts of normalizations, are left
out (`decays`). Keras' own `weight_decay=` is decoupled from the gradient in every
optimizer: with momentum m its pull is 1 - m times that of PyTorch's SGD.
"""

import keras
from keras import ops


def cosine(
    rate: float, steps: int, warmup: int = 0, final: float = 0.0
) -> keras.optimizers.schedules.CosineDecay:
    """A linear rise from zero, then a cosine.

    Args:
        rate: The highest rate, behind the rise.
        steps: Length of both together, at least one more than `warmup`.
        warmup: Steps of the rise.
        final: The rate at the end, as a share of the highest one.
    """
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else rate,
        decay_steps=steps - warmup,
        alpha=final,
        warmup_target=rate if warmup else None,
        warmup_steps=warmup,
    )


def decays(variable: keras.Variable) -> bool:
    """Whether weight decay concerns a trainable variable: whether it is a kernel.

    Kernels have two axes at least, depthwise ones too; what scales or shifts channels
    has one, but for a layer normalization over several axes.
    """
    return len(variable.shape) > 1 and variable.name not in ("gamma", "beta", "bias")


@keras.saving.register_keras_serializable(package="keras_attention")
class KernelAdamW(keras.optimizers.AdamW):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) that decays kernels only.

    Takes the arguments of `keras.optimizers.AdamW`.
    """

    def build(self, variables):
        """Makes the moments of `variables`, and leaves out what does not decay."""
        if not self.built:
            self.exclude_from_weight_decay([v for v in variables if not decays(v)])
            super().build(variables)


class _CoupledDecay:
    """Adds decay * kernel to the kernel's gradient, as PyTorch's optimizers do.

    That happens behind clipping and, with several replicas, behind the all-reduce.
    """

    def __init__(self, *arguments, coupled_weight_decay=0.0, **options):
        super().__init__(*arguments, **options)
        self.coupled_weight_decay = coupled_weight_decay

    def build(self, variables):
        """Makes the slots of `variables`, and notes which of them decay."""
        if not self.built:
            super().build(variables)
            found = (i for i, variable in enumerate(variables) if decays(variable))
            self._decayed = frozenset(found)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable."""
        if self._get_variable_index(variable) in self._decayed:
            decay = ops.cast(self.coupled_weight_decay, variable.dtype)
            gradient = ops.cast(gradient, variable.dtype)
            gradient = ops.add(gradient, ops.multiply(decay, variable))
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        """Returns the arguments of the constructor."""
        own = {"coupled_weight_decay": self.coupled_weight_decay}
        return super().get_config() | own


@keras.saving.register_keras_serializable(package="keras_attention")
class CoupledSGD(_CoupledDecay, keras.optimizers.SGD):
    """Stochastic gradient descent with momentum and PyTorch's weight decay.

    Equal to `torch.optim.SGD` while the learning rate stays. Keras' velocity holds the
    rates of its steps, PyTorch's takes the rate of the moment: behind a change they
    differ for some 1 / (1 - momentum) steps.

    Args:
        *arguments: Of `keras.optimizers.SGD`.
        coupled_weight_decay: Factor of a kernel in its gradient.
        **options: Of `keras.optimizers.SGD`.
    """


@keras.saving.register_keras_serializable(package="keras_attention")
class CoupledRMSprop(_CoupledDecay, keras.optimizers.RMSprop):
    """RMSprop whose weight decay goes through the gradient, as in PyTorch.

    Args:
        *arguments: Of `keras.optimizers.RMSprop`.
        coupled_weight_decay: Factor of a kernel in its gradient.
        **options: Of `keras.optimizers.RMSprop`.
    """


@keras.saving.register_keras_serializable(package="keras_attention")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose first steps are multiplied by step / steps.

    Args:
        after: The schedule, or a constant rate.
        steps: Length of the warm-up; step 0 has the rate 0.
    """

    def __init__(self, after, steps):
        super().__init__()
        self.after, self.steps = after, steps

    def __call__(self, step):
        """Returns the rate at a step, a scalar float32."""
        rate = self.after(step) if callable(self.after) else self.after
        return rate * ops.minimum(1.0, ops.cast(step, "float32") / self.steps)

    def get_config(self):
        """Returns the arguments of the constructor."""
        after = self.after
        if callable(after):
            after = keras.optimizers.schedules.serialize(after)
        return {"after": after, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        """Makes it of what `get_config` returned."""
        after = config["after"]
        if isinstance(after, dict):
            after = keras.optimizers.schedules.deserialize(after)
        return cls(after, config["steps"])

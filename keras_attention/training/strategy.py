"""On which devices a model is trained: one, several, several hosts.

An `Engine` is what a training loop needs of tf.distribute (TensorFlow backend) or
keras.distribution (JAX backend). What these would compute otherwise than one device
does is either computed right or refused: `docs/distribution.md` has the table. A
process can have one engine of several devices: TensorFlow's collectives and JAX' set
of processes are global.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_attention import graph
from keras_attention.training.recipe_rules import nearest

NO_PREDICT = (
    "predict does not work on several hosts, each has a part of the answers: save the "
    "model and predict in a process of its own, on one host"
)

# Names of strategies that exist, and why none of them is offered.
REFUSED = {
    "parameterserver": "Keras 3 has no code for it: fit fails at its first batch. "
    'Use "multi_worker".',
    "centralstorage": "it fails with batch normalization, whose statistics have no "
    'rule for being brought together. Use "mirrored".',
    "tpu": "TensorFlow's wheels have no TPU operations, and tensorflow-tpu is older "
    "than the TensorFlow that this package needs. Use the JAX backend on TPUs: "
    '"data_parallel".',
    "onedevice": 'it adds nothing to "none".',
    "horovod": 'it has no way to Keras 3. Use "multi_worker".',
}

# The methods that a functional model of ours would not take over from a subclass.
_OWN_METHODS = ("train_step", "test_step", "predict_step", "compute_loss")


@dataclasses.dataclass(frozen=True)
class Engine:
    """One device, and the interface of the engines for several.

    Attributes:
        name: "none", "mirrored", "multi_worker" or "data_parallel".
        replicas: Copies of the model that are trained together, on all hosts.
        hosts: Processes that take part.
        host: Which of them this one is, from 0.
    """

    name: str = "none"
    replicas: int = 1
    hosts: int = 1
    host: int = 0

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what there is to be one of: logs, files."""
        return self.host == 0

    def scope(self) -> contextlib.AbstractContextManager:
        """Context in which model and optimizer are made."""
        return contextlib.nullcontext()

    def prepare(self, model: keras.Model, recipe: Any = None) -> keras.Model:
        """Makes the model that is compiled and fitted.

        Call it inside `scope()`. Save `model` itself: it has the same layers, and is a
        plain Keras model.

        Args:
            model: Functional or Sequential, built inside `scope()`.
            recipe: A `Recipe`; None skips what is checked of it.

        Returns:
            A model of the same layers, not compiled; on one device `model` itself.

        Raises:
            ValueError: If the engine would train the model or the recipe wrongly.
        """
        self.check(recipe)
        return model

    def check(self, recipe: Any) -> None:
        """Raises ValueError for a recipe that this engine would train wrongly."""
        if recipe is not None:
            self.part_of(recipe.batch_size)

    def part_of(self, batch_size: int) -> int:
        """Samples of a global batch on one replica.

        Raises:
            ValueError: If the replicas' parts would differ in size.
        """
        if batch_size % self.replicas:
            above = batch_size - batch_size % self.replicas + self.replicas
            below = f"{above - self.replicas} or " if above > self.replicas else ""
            raise ValueError(
                f"batch_size is the global one and must be divisible by the "
                f"{self.replicas} replicas of {self.name!r}; received {batch_size}: "
                f"use {below}{above}"
            )
        return batch_size // self.replicas

    def dataset(self, images: Any, start_epoch: int = 0, start_step: int = 0) -> Any:
        """What `fit` takes, with `steps_per_epoch`.

        Args:
            images: `ImageData`, or what has its `epochs` and `batch_size`.
            start_epoch: The epoch to start with, from 0.
            start_step: The batch of it to start with.

        Returns:
            An endless dataset: the global batches, or this host's parts of them.
        """
        return images.epochs(start_epoch, start_step)

    def agree(self, numbers: Sequence[int]) -> bool:
        """Whether all hosts hand in the same numbers; all of them must ask."""
        return True

    def evaluation(self, dataset: Any) -> Any:
        """What `evaluate`, or `fit` as validation data, takes.

        Args:
            dataset: A `tf.data.Dataset` of batches (images, labels) of known number,
                the same on all hosts; the last one may be smaller.

        Returns:
            A dataset on which losses and metrics are those of one device.
        """
        return dataset


def choose(name: str | None = None, recipe: Any = None) -> Engine:
    """Chooses the devices to train on.

    Call it before any computation: several hosts find one another here.

    Args:
        name: "none"; "mirrored" (TensorFlow, the GPUs of one host, or its logical CPUs
            where there is no GPU); "multi_worker" (TensorFlow, several hosts, which
            the environment variable TF_CONFIG names); "data_parallel" (JAX, all
            devices; of several hosts if KERAS_DISTRIBUTION_JOB_ADDRESSES,
            KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID say so).
            None takes the one for what is there.
        recipe: A `Recipe` to be checked against it.

    Returns:
        The engine.

    Raises:
        ValueError: If the name is unknown, the strategy is not offered or does not fit
            the backend or the devices, or would train the recipe wrongly.
    """
    name = what_is_there() if name is None else name
    if name not in _ENGINES:
        plain = str(name).lower().replace("_", "").replace("-", "")
        reason = REFUSED.get(plain.removesuffix("strategy"))
        if reason:
            raise ValueError(f"strategy {name!r} is not offered: {reason}")
        raise ValueError(
            f"strategy must be one of {', '.join(_ENGINES)}; received {name!r}: did "
            f"you mean {nearest(name, _ENGINES)!r}?"
        )
    engine = _ENGINES[name]()
    engine.check(recipe)
    return engine


def what_is_there() -> str:
    """Name of the engine that uses the backend's devices and hosts.

    Logical CPUs are a test's devices: on TensorFlow they are used by name only.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        if workers() > 1:
            return "multi_worker"
        return "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "none"
    if backend == "jax":
        if jax_processes() > 1 or len(keras.distribution.list_devices()) > 1:
            return "data_parallel"
    return "none"


def workers() -> int:
    """Number of processes that the environment variable TF_CONFIG names.

    Raises:
        ValueError: If it is no JSON, or has parameter servers.
    """
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        cluster = dict(json.loads(text).get("cluster", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"TF_CONFIG is not as documented: {text!r}") from error
    if "ps" in cluster:
        raise ValueError(
            "TF_CONFIG names parameter servers ('ps'), for which Keras 3 has no code: "
            "list all processes under 'worker'"
        )
    return sum(len(cluster.get(role, ())) for role in ("chief", "worker"))


def jax_processes() -> int:
    """Number of processes that the environment variable of keras.distribution names."""
    return int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES") or 1)


def require_plain(model: keras.Model) -> None:
    """Checks that a model is no more than its graph of layers, and its loss compile's.

    Raises:
        ValueError: If its class has methods of its own, or one of its layers adds a
            loss; names the class.
    """
    base, kind = keras.Model, type(model)
    own = [n for n in _OWN_METHODS if getattr(kind, n) is not getattr(base, n)]
    if own:
        raise ValueError(
            f"{kind.__name__} overrides {', '.join(own)}, which several replicas would "
            "compute wrongly: pass the loss to compile and use a functional model"
        )
    if not graph.opens(model):
        raise ValueError(
            f"several replicas train functional and built Sequential models; "
            f"{kind.__name__} is neither"
        )


def require_inside(model: keras.Model, is_inside: Callable[[Any], bool]) -> None:
    """Checks that a model's variables were made in an engine's scope.

    Args:
        model: The model.
        is_inside: Whether a value of a variable has a copy on each device.

    Raises:
        ValueError: If one has not.
    """
    for variable in model.variables:
        if not is_inside(variable.value):
            raise ValueError(
                f"{model.name} was built outside of Engine.scope(): {variable.path} "
                "has one copy for all replicas"
            )


def ends(model: keras.Model) -> tuple[Any, Any]:
    """Inputs and outputs of a model, in their structure."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _replicated(name):
    def make():
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                f'"{name}" is TensorFlow\'s; the backend is '
                f'{keras.backend.backend()}: use "data_parallel" on JAX'
            )
        from keras_attention.training import replicas

        return getattr(replicas, name)()

    return make


def _data_parallel():
    if keras.backend.backend() != "jax":
        raise ValueError(
            f'"data_parallel" needs the JAX backend, this is '
            f"{keras.backend.backend()}: keras.distribution would train on one device "
            'and say nothing; use "mirrored" or "multi_worker", or set '
            "KERAS_BACKEND=jax"
        )
    from keras_attention.training import data_parallel

    return data_parallel.data_parallel()


_ENGINES = {
    "none": Engine,
    "mirrored": _replicated("mirrored"),
    "multi_worker": _replicated("multi_worker"),
    "data_parallel": _data_parallel,
}

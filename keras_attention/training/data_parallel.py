"""Data-parallel training under keras.distribution, on the JAX backend.

Keras compiles one step over the global batch, so that batch statistics, masks and
clipping are those of one device. What is left are batches that can't be divided by
the number of devices.
"""

import contextlib
import dataclasses
from typing import Any

import jax
import keras
import numpy as np
import tensorflow as tf
from jax.experimental import multihost_utils
from keras import tree

from keras_attention.training.strategy import (
    NO_PREDICT,
    Engine,
    ends,
    jax_processes,
    require_inside,
    require_plain,
)


class _DataParallel(keras.distribution.DataParallel):
    """Computes batches that the devices can't divide on each of them in full."""

    def get_data_layout(self, data_shape):
        if data_shape[0] % jax.local_device_count() == 0:
            return super().get_data_layout(data_shape)
        axes = [None] * len(data_shape)
        return keras.distribution.TensorLayout(axes, self.device_mesh)


class DataParallelModel(keras.Model):
    """A functional model for training on several devices."""

    _metrics_built = False

    def fit(self, *args, steps_per_epoch=None, **kwargs):
        """As of `keras.Model`, on what `Engine.dataset` returned.

        Raises:
            ValueError: If `steps_per_epoch` is missing: the data has no end.
        """
        if not steps_per_epoch:
            raise ValueError("fit on several devices needs steps_per_epoch")
        self._metrics_built = True
        kwargs.setdefault("shuffle", False)  # Keras would warn that it does not
        return super().fit(*args, steps_per_epoch=steps_per_epoch, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """As of `keras.Model`, best on what `Engine.evaluation` returned."""
        if isinstance(x, tf.data.Dataset):
            self._build_metrics(x.element_spec)
        return super().evaluate(x, *args, **kwargs)

    def test_step(self, state, data):
        """As of `keras.Model`; leaves out the padding that `_padded` put in."""
        x, y, mark = keras.utils.unpack_x_y_sample_weight(data)
        if mark is not None and len(mark) != len(tree.flatten(x)[0]):
            real = len(mark) // jax.device_count() - 1
            data = tree.map_structure(lambda v: v[:real], (x, y))
        return super().test_step(state, data)

    def predict(self, x, *args, **kwargs):
        """As of `keras.Model`, for any number of samples in an array.

        Raises:
            ValueError: On several hosts.
        """
        if jax.process_count() > 1:
            raise ValueError(NO_PREDICT)
        if not isinstance(x, np.ndarray):
            return super().predict(x, *args, **kwargs)
        missing = -len(x) % jax.device_count()
        padded = np.concatenate([x, np.zeros_like(x, shape=(missing, *x.shape[1:]))])
        answers = super().predict(padded, *args, **kwargs)
        return tree.map_structure(lambda answer: answer[: len(x)], answers)

    def _build_metrics(self, spec):
        """Makes what Keras would make with the mark as the samples' weights."""
        if self._metrics_built:
            return
        y, answer = tree.map_structure(
            lambda like: np.zeros((1, *like.shape[1:]), like.dtype.as_numpy_dtype),
            (spec[1], tree.map_structure(_as_spec, self.output)),
        )
        self.compute_loss(None, y, answer, training=False)
        self.compute_metrics(None, y, answer)
        self.reset_metrics()
        self._metrics_built = True


def _as_spec(tensor):
    return tf.TensorSpec(tensor.shape, tensor.dtype)


@dataclasses.dataclass(frozen=True)
class JaxEngine(Engine):
    """All devices of all JAX processes under keras.distribution.

    Attributes:
        distribution: How batches and variables lie on the devices.
    """

    distribution: Any = None

    def scope(self):
        """Makes the distribution the process' own, once and for all.

        `fit` looks for it, too, and a process has one.
        """
        keras.distribution.set_distribution(self.distribution)
        return contextlib.nullcontext()

    def prepare(self, model, recipe=None):
        """As of `Engine`."""
        self.check(recipe)
        require_plain(model)
        require_inside(
            model,
            lambda value: len(value.sharding.device_set) == jax.device_count(),
        )
        prepared = DataParallelModel(*ends(model), name=model.name)
        prepared.dtype_policy = model.dtype_policy
        return prepared

    def dataset(self, images, start_epoch=0, start_step=0):
        """As of `Engine`: each host decodes its part of each global batch."""
        self.part_of(images.batch_size)
        shard = {"shard": (self.hosts, self.host)} if self.hosts > 1 else {}
        return images.epochs(start_epoch, start_step, **shard)

    def agree(self, numbers):
        """As of `Engine`."""
        every = multihost_utils.process_allgather(np.asarray(numbers))
        return bool((every == np.asarray(numbers)).all())

    def evaluation(self, dataset):
        """As of `Engine`: each host decodes all batches and keeps its part of each."""
        return dataset.map(self._padded, num_parallel_calls=tf.data.AUTOTUNE)

    def _padded(self, x, y):
        """Rows of zeros up to a number that the devices can divide, and a mark.

        XLA has to know the number of real samples when it compiles, so it stands in a
        shape: the mark has a row per sample where there is no padding, and else
        (real + 1) times as many rows as there are devices, which is never the same.
        """
        real = tf.shape(tree.flatten(x)[0])[0]
        missing = -real % self.replicas
        rows = tf.cond(missing > 0, lambda: (real + 1) * self.replicas, lambda: real)

        def padded(value):
            return tf.pad(value, [[0, missing], *[[0, 0]] * (value.shape.rank - 1)])

        def of_host(value):
            size = tf.shape(value)[0] // self.hosts
            return value[self.host * size :][:size]

        images, labels = tree.map_structure(padded, (x, y))
        return tree.map_structure(of_host, (images, labels, tf.ones([rows])))


def data_parallel() -> JaxEngine:
    """All devices of this process, or of the processes that the environment names.

    Raises:
        ValueError: If that is one device.
    """
    if jax_processes() > 1 and not jax.distributed.is_initialized():
        keras.distribution.initialize()
    # Each host decodes its own part: nothing is left to be sharded.
    distribution = _DataParallel(auto_shard_dataset=False)
    count = jax.device_count()
    if count < 2:
        raise ValueError('"data_parallel" needs several devices, here is 1: use "none"')
    return JaxEngine(
        "data_parallel",
        count,
        distribution.num_processes,
        distribution.data_shard_id,
        distribution,
    )

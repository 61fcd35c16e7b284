"""Data-parallel training under tf.distribute that computes what one device computes.

Keras leaves to each replica what belongs to all of them together: the statistics of
batch normalization, the norm at which gradients are clipped, whether a gradient is
finite in float16; and it gives all replicas the same random masks.
`docs/distribution.md` lists what goes wrong, and what is done about it here.
"""

import contextlib
import dataclasses
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_attention.training.multi_worker import ReplicatedLoop, inner_layers
from keras_attention.training.strategy import (
    NO_PREDICT,
    Engine,
    ends,
    require_inside,
    require_plain,
    workers,
)

NO_ACCUMULATION = (
    "{} does not work on several replicas of TensorFlow: use a smaller batch, more "
    "replicas or the JAX backend"
)

# Between the first words of two replicas' seeds. Seeds drawn by Keras are below 1e9.
_SEED_STRIDE = 1_000_000_007


class ReplicatedModel(ReplicatedLoop, keras.Model):
    """A functional model for training on several replicas.

    The mean of a loss is over the global batch, all replicas together, and so are
    gradients, batch statistics and the norm at which gradients are clipped.
    """

    def compile(self, optimizer="rmsprop", *args, jit_compile="auto", **kwargs):
        """As of `keras.Model`.

        Raises:
            ValueError: If `jit_compile` is true (XLA can't read another device's copy
                of a variable) or the optimizer accumulates gradients (Keras updates in
                a branch, in which replicas can't meet).
        """
        if jit_compile is True:
            raise ValueError(
                "jit_compile=True does not work on several replicas of TensorFlow: "
                "leave it out, or use the JAX backend, which always compiles"
            )
        super().compile(optimizer, *args, jit_compile=False, **kwargs)
        if _inner(self.optimizer).gradient_accumulation_steps:
            raise ValueError(NO_ACCUMULATION.format("gradient_accumulation_steps"))

    def fit(self, x=None, *args, steps_per_epoch=None, **kwargs):
        """As of `keras.Model`, on what `Engine.dataset` returned.

        Raises:
            ValueError: If `x` is not distributed, `steps_per_epoch` is missing (Keras
                counts a step too many per epoch when it meets the end of the data) or
                is no multiple of `steps_per_execution`.
        """
        if not isinstance(x, tf.distribute.DistributedDataset):
            raise ValueError(
                f"fit on several replicas takes what Engine.dataset returns, got "
                f"{type(x).__name__}"
            )
        if not steps_per_epoch or steps_per_epoch % self.steps_per_execution:
            raise ValueError(
                "fit on several replicas needs steps_per_epoch, a multiple of "
                f"steps_per_execution ({self.steps_per_execution}), "
                f"got {steps_per_epoch}"
            )
        kwargs.setdefault("shuffle", False)  # Keras would warn that it does not
        with _synchronized(self):
            return super().fit(x, *args, steps_per_epoch=steps_per_epoch, **kwargs)

    def predict(self, *args, **kwargs):
        """As of `keras.Model`.

        Raises:
            ValueError: On several hosts.
        """
        if isinstance(
            self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy
        ):
            raise ValueError(NO_PREDICT)
        return super().predict(*args, **kwargs)

    def predict_on_batch(self, x):
        """Not offered: every replica would answer the whole batch."""
        raise ValueError(
            "predict_on_batch on several replicas would answer each image several "
            "times: call it on the model that was prepared, or use predict"
        )

    def train_step(self, data):
        """One step of one replica: its part of the batch, everyone's gradients."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replica = tf.distribute.get_replica_context()
        count = replica.num_replicas_in_sync
        with _masks_of(self, replica), tf.GradientTape() as tape:
            answer = self(x, training=True)
            _require_no_added_loss(self)
            loss = self.compute_loss(x, y, answer, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        # Keras divides losses by the number of replicas: their sum is the mean.
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        tracker.update_state(loss * count, sample_weight=_size(x))
        weights = self.trainable_weights
        gradients = tape.gradient(scaled, weights)
        if _needs_sum(self.optimizer):
            gradients = _clipped_sum(gradients, self.optimizer, replica)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self.compute_metrics(x, y, answer, sample_weight=sample_weight)

    def test_step(self, data):
        """One step of one replica, which may have got no sample of the last batch."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        step = super().test_step
        return tf.cond(_size(x) > 0, lambda: step(data), self.get_metrics_result)


def _size(x):
    return tf.shape(tree.flatten(x)[0])[0]


def _inner(optimizer):
    """The optimizer that updates: inside of the one that scales float16 losses."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _clipping(optimizer):
    optimizer = _inner(optimizer)
    return optimizer.clipvalue, optimizer.clipnorm, optimizer.global_clipnorm


def _needs_sum(optimizer):
    """Whether the optimizer looks at gradients before it sums them over replicas."""
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return scales or any(_clipping(optimizer))


def _clipped_sum(gradients, optimizer, replica):
    """Each replica's equal share of all replicas' gradients, clipped together.

    The optimizer clips once more, each share by itself, which changes nothing; a value
    that is not finite on one replica is so on all.
    """
    count = replica.num_replicas_in_sync
    scale = optimizer.scale_loss(1.0)
    known = [gradient for gradient in gradients if gradient is not None]
    total = [g / scale for g in replica.all_reduce(tf.distribute.ReduceOp.SUM, known)]
    value, norm, global_norm = _clipping(optimizer)
    if value:
        # Clipping would hide an infinity, which has to reach the loss scaling.
        total = [
            tf.where(tf.math.is_finite(g), tf.clip_by_value(g, -value, value), g)
            for g in total
        ]
    elif norm:
        total = [tf.clip_by_norm(g, norm) for g in total]
    elif global_norm:
        total, _ = tf.clip_by_global_norm(total, global_norm)
    shares = iter(g * (scale / count) for g in total)
    return [None if gradient is None else next(shares) for gradient in gradients]


@contextlib.contextmanager
def _masks_of(model, replica):
    """Moves the random seeds of a replica away from those of the others.

    Between steps the seeds are the same on all replicas: that is what is saved.
    """
    states = [v for v in model.variables if v.name == "seed_generator_state"]
    first = tf.cast(replica.replica_id_in_sync_group, tf.int64) * _SEED_STRIDE
    shift = tf.stack([first, 0])
    for state in states:
        state.assign_add(shift)
    yield
    for state in states:
        state.assign_sub(shift)


@contextlib.contextmanager
def _synchronized(model):
    """Batch normalization over all replicas, as long as the model is trained.

    Set back afterwards, so that the layers are saved as they were given: other backends
    refuse to load a layer that says `synchronized`.
    """
    layers = [
        layer
        for layer in inner_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
    ]
    for layer in layers:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronized = False


@dataclasses.dataclass(frozen=True)
class TensorFlowEngine(Engine):
    """Several replicas under tf.distribute.

    Attributes:
        strategy: The strategy, which there is one of in a process.
    """

    strategy: Any = None

    def scope(self):
        """The strategy's scope."""
        return self.strategy.scope()

    def check(self, recipe):
        """As of `Engine`; refuses gradient accumulation."""
        super().check(recipe)
        if recipe is not None and recipe.optimizer.accumulate > 1:
            raise ValueError(NO_ACCUMULATION.format("optimizer.accumulate"))

    def prepare(self, model, recipe=None):
        """As of `Engine`."""
        self.check(recipe)
        require_plain(model)
        require_inside(
            model, lambda value: isinstance(value, tf.distribute.DistributedValues)
        )
        with self.scope():
            prepared = ReplicatedModel(*ends(model), name=model.name)
        # `compile` reads here whether losses are to be scaled for float16.
        prepared.dtype_policy = model.dtype_policy
        return prepared

    def dataset(self, images, start_epoch=0, start_step=0):
        """As of `Engine`: each host decodes its part of each global batch."""
        part = self.part_of(images.batch_size)

        def of_host(context):
            hosts, host = context.num_input_pipelines, context.input_pipeline_id
            shard = {"shard": (hosts, host)} if hosts > 1 else {}
            batches = images.epochs(start_epoch, start_step, **shard)
            if self.replicas > hosts:
                batches = batches.rebatch(part, drop_remainder=True)
            endless = tf.data.experimental.assert_cardinality(
                tf.data.INFINITE_CARDINALITY
            )
            return batches.apply(endless)

        return self.strategy.distribute_datasets_from_function(of_host)

    def agree(self, numbers):
        """As of `Engine`."""
        if self.hosts == 1:
            return True
        own = tf.constant(numbers, tf.int64)

        @tf.function
        def sums():
            replica = tf.distribute.get_replica_context()
            total = tf.distribute.ReduceOp.SUM
            # Replicas' own tensors: one that they share would not be summed.
            return [replica.all_reduce(total, own**power) for power in (1, 2)]

        total, squares = (
            self.strategy.experimental_local_results(x)[0]
            for x in self.strategy.run(sums)
        )
        # Equality in Cauchy and Schwarz' inequality: all are the same.
        return bool(tf.reduce_all(total * total == self.replicas * squares))

    def evaluation(self, dataset):
        """As of `Engine`: each host decodes all batches and keeps its part of each."""
        options = tf.data.Options()
        # By files, hosts would take different shares of one batch.
        policy = tf.data.experimental.AutoShardPolicy.DATA
        options.experimental_distribute.auto_shard_policy = policy
        return self.strategy.experimental_distribute_dataset(
            dataset.with_options(options)
        )


def mirrored() -> TensorFlowEngine:
    """All GPUs of this host, or all its logical CPUs if it has none.

    Raises:
        ValueError: If that is one device.
    """
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    count = len(tf.config.list_logical_devices(kind))
    if count < 2:
        raise ValueError(
            f'"mirrored" needs several devices, here is 1 {kind}: use "none"'
        )
    strategy = tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(count)])
    return TensorFlowEngine("mirrored", count, strategy=strategy)


def multi_worker() -> TensorFlowEngine:
    """All devices of all hosts that the environment variable TF_CONFIG names.

    Raises:
        ValueError: If it names less than two.
    """
    hosts = workers()
    if hosts < 2:
        raise ValueError(
            '"multi_worker" needs the environment variable TF_CONFIG on every host, '
            f"which names all of them under cluster.worker; it names {hosts}"
        )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    resolver = strategy.cluster_resolver
    spec = resolver.cluster_spec()
    chiefs = spec.num_tasks("chief") if "chief" in spec.jobs else 0
    host = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
    return TensorFlowEngine(
        "multi_worker", strategy.num_replicas_in_sync, hosts, host, strategy
    )


def _require_no_added_loss(model):
    """Refuses losses that layers add to the model's; to be called after the model.

    Keras divides them by the number of replicas, which is right for a mean over the
    batch and wrong for a sum; a loss does not tell which one it is.
    """

    def adds(layer):
        regularized = sum(v.regularizer is not None for v in layer.trainable_weights)
        return len(layer.losses) > regularized

    if not adds(model):
        return
    layer = next(filter(adds, reversed(inner_layers(model))))
    raise ValueError(
        f"{type(layer).__name__} {layer.name!r} adds a loss to the model's by add_loss "
        "or activity_regularizer; several replicas can't know whether it is a mean or "
        "a sum over the batch: use kernel_regularizer, or make it an output with a "
        "loss in compile"
    )

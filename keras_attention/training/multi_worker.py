"""A Keras model whose `fit` runs on several replicas and hosts of tf.distribute.

Keras' own loop stops under MultiWorkerMirroredStrategy (github.com/keras-team/keras
issue 20585) and, with several steps per execution, under MirroredStrategy (issue
19246). This file replaces the two functions that stop. It is the one file that
touches the private contract of Keras' trainer (3.15):

- ``fit`` and ``evaluate`` call ``Model._maybe_symbolic_build(iterator=...)`` once, to
  make what is still to be made of model, metrics and optimizer;
- ``iterator._get_iterator()`` is the distributed dataset, with its ``element_spec``;
- ``Model._symbolic_build(data_batch=...)`` does that for a batch of these shapes;
- ``Layer._flatten_layers()`` is a layer and all layers in it, outer ones first;
- ``train_function(iterator)`` and ``test_function(iterator)`` are called once per
  `steps_per_execution` steps, until ``StopIteration``; the public
  ``make_train_function`` and ``make_test_function`` make them.

``tests/training/test_multi_worker.py`` fails first when Keras changes it.
"""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import tree


class ReplicatedLoop:
    """Mixin for `keras.Model`: the loop around `train_step` and `test_step`.

    The metrics that a step returns are means over the replicas, for progress bars;
    what `fit` and `evaluate` report at an epoch's end is computed by Keras from the
    metrics' variables, all replicas together.
    """

    def make_train_function(self, force=False):
        """Makes the function that runs `steps_per_execution` training steps."""
        if self.train_function is None or force:
            strategy, step = self.distribute_strategy, self.train_step
            last, before = _one_step(strategy, step), self.steps_per_execution - 1

            def steps(iterator):
                def body(done):
                    strategy.run(step, args=(next(iterator),))
                    return (done + 1,)

                if before:
                    tf.while_loop(lambda done: done < before, body, (0,))
                return last(iterator)

            self.train_function = _distributed_only(_function(steps))
        return self.train_function

    def make_test_function(self, force=False):
        """Makes the function that runs up to `steps_per_execution` test steps."""
        if self.test_function is None or force:
            one_step = _function(_one_step(self.distribute_strategy, self.test_step))

            def steps(iterator):
                logs = None
                for _ in range(self.steps_per_execution):
                    try:
                        logs = one_step(iterator)
                    except tf.errors.OutOfRangeError:
                        if logs is None:
                            raise StopIteration from None
                        break
                return logs

            self.test_function = _distributed_only(steps)
        return self.test_function

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras' own takes a first batch from the pipeline and throws it away.
        if iterator is not None:
            specs = iterator._get_iterator().element_spec
            data_batch = _example(specs)
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)


# What layers do is no matter for AutoGraph, in Keras neither.
_function = functools.partial(tf.function, autograph=False)


def inner_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers of a model and in its layers, outer ones first."""
    return model._flatten_layers(include_self=False)


def _one_step(strategy: tf.distribute.Strategy, step: Callable) -> Callable:
    def run(iterator):
        logs = strategy.run(step, args=(next(iterator),))
        mean = tf.distribute.ReduceOp.MEAN
        return {name: strategy.reduce(mean, v, axis=None) for name, v in logs.items()}

    return run


def _distributed_only(function: Callable) -> Callable:
    def run(iterator):
        if not isinstance(iterator, tf.distribute.DistributedIterator):
            # Each replica would compute the whole batch.
            raise ValueError(
                "several replicas train and test on distributed datasets only: use fit "
                "and evaluate in place of train_on_batch and test_on_batch"
            )
        return function(iterator)

    return run


def _example(specs):
    """Zeros of a replica's batch; a dimension that is not known is 1.

    Parts of a batch have one size, which not all of them need to know.
    """
    specs = tree.map_structure(lambda s: getattr(s, "_value_specs", (s,))[0], specs)
    known = (spec.shape[0] for spec in tree.flatten(specs))
    size = next((side for side in known if side), 1)

    def zeros(spec):
        return tf.zeros([size, *(side or 1 for side in spec.shape[1:])], spec.dtype)

    return tree.map_structure(zeros, specs)

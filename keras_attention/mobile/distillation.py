"""The float model's answers as targets for training under quantization."""

from typing import Any

import keras
from keras import tree


def soft_targets(
    float_model: keras.Model, dataset: Any, *, from_logits: bool = True
) -> Any:
    """Returns a data set with a model's class probabilities in the place of labels.

    The quantized model then learns to answer like the float one, on the same augmented
    images; labels are not needed. `fit` takes the result as it is:

        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        quantized.compile("adam", loss)
        quantized.fit(mobile.soft_targets(model, train), epochs=1, shuffle=False)

    Args:
        float_model: one output (N, classes); it is not changed.
        dataset: `tf.data.Dataset` of batches x or (x, ...); what follows x is dropped.
        from_logits: whether the model ends in logits, which become probabilities by a
            softmax; False if it ends in probabilities.

    Returns:
        A `tf.data.Dataset` of (x, probabilities), (N, classes) in float32, as many
        batches as `dataset` says that it has.

    Raises:
        TypeError: `dataset` is no `tf.data.Dataset`.
        ValueError: the model has several outputs, or one that is not (N, classes).

    Reference: Hinton, Vinyals and Dean 2015, arXiv 1503.02531, at temperature 1.
    """
    import tensorflow as tf

    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            f"dataset must be a tf.data.Dataset. Received: {type(dataset).__name__}"
        )
    shapes = [tuple(output.shape) for output in float_model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"float_model must have one output (N, classes). '{float_model.name}' has "
            f"outputs of the shapes {shapes}."
        )

    @tf.function(reduce_retracing=True)
    def probabilities(x):
        outputs = tf.cast(tree.flatten(float_model(x, training=False))[0], tf.float32)
        return tf.nn.softmax(outputs) if from_logits else outputs

    def inputs(batch):
        return batch[0] if isinstance(batch, tuple) else batch

    # Functions of tf.data run on the CPU, whatever else there is: the model must not
    # be part of one. A generator's body runs eagerly, where the variables are.
    def batches():
        for batch in dataset:
            x = inputs(batch)
            yield x, probabilities(x)

    targets = tf.TensorSpec((None, shapes[0][1]), tf.float32)
    signature = (inputs(dataset.element_spec), targets)
    answered = tf.data.Dataset.from_generator(batches, output_signature=signature)
    # With an unknown number of batches Keras would count one step too many per epoch.
    count = dataset.cardinality()
    if count != tf.data.UNKNOWN_CARDINALITY:
        answered = answered.apply(tf.data.experimental.assert_cardinality(count))
    return answered.prefetch(1)

"""Two plain fits: a classifier on labels, and its quantized twin on its outputs.

Both compile with stock losses only, so that a saved model loads anywhere.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_attention.data import ImageData
from keras_attention.mobile import soft_targets
from keras_attention.optimization import cosine
from keras_attention.training import resuming
from keras_attention.training.targets import one_hot


def fit_classifier(
    model: keras.Model,
    data: ImageData,
    *,
    epochs: int,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    warmup_epochs: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, list[float]]:
    """Train a classifier with AdamW, a linear warm-up and a cosine decay to zero.

    Kernels are decayed, biases and normalization parameters are not.

    Args:
        model: Functional or Sequential model that ends in logits, one per class. It is
            compiled and trained in place.
        data: What `keras_attention.data.load` returned.
        epochs: Passes over `data.train`.
        learning_rate: Its highest value, right after the warm-up.
        weight_decay: AdamW's, relative to the learning rate.
        label_smoothing: Share of the target that is spread over all classes.
        warmup_epochs: Length of the warm-up; a tenth of `epochs` if None.
        callbacks: Keras callbacks.

    Returns:
        Lists with one value per epoch: "loss", "accuracy" on the augmented training
        part, "val_loss", "val_accuracy" on the test part.

    Raises:
        ValueError: If model and data don't match, an argument is out of range, or the
            loss stops being finite.
    """
    require_match(model, data)
    return _fit(
        model,
        data,
        one_hot(data.train, len(data.labels)),
        epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        warmup_epochs=epochs / 10 if warmup_epochs is None else warmup_epochs,
        callbacks=callbacks,
    )


def finetune_quantized(
    quantized: keras.Model,
    float_model: keras.Model,
    data: ImageData,
    *,
    epochs: int,
    learning_rate: float = 5e-5,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, list[float]]:
    """Train a fake-quantized model to answer like the float model it was made from.

    The targets are the float model's class probabilities on the same augmented images;
    no label is used but for the accuracies that are returned. The learning rate falls
    to zero along a cosine, without warm-up and weight decay.

    Args:
        quantized: What `mobile.quantize(float_model, ...)` returned. Trained in place.
        float_model: The trained model; it is not changed.
        data: What `keras_attention.data.load` returned.
        epochs: Passes over `data.train`.
        learning_rate: Its value at the start.
        callbacks: Keras callbacks.

    Returns:
        Lists with one value per epoch, as from `fit_classifier`; "accuracy" is the
        agreement with the float model's most probable class.

    Raises:
        ValueError: If models and data don't match, an argument is out of range, or the
            loss stops being finite.
    """
    for model in (float_model, quantized):
        require_match(model, data)

    return _fit(
        quantized,
        data,
        soft_targets(float_model, data.train),
        epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=0.0,
        label_smoothing=0.0,
        warmup_epochs=0,
        callbacks=callbacks,
    )


def require_match(model: keras.Model, data: ImageData) -> None:
    """Check that a model takes these images and has one output per class.

    Args:
        model: A model with one input and one output.
        data: What `keras_attention.data.load` returned.

    Raises:
        ValueError: If a shape or the number of classes differs.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"a classifier has one input and one output; {model.name} has "
            f"{len(model.inputs)} and {len(model.outputs)}"
        )
    (_, *shape), (*_, classes) = model.inputs[0].shape, model.outputs[0].shape
    pairs = zip(shape, data.image_shape, strict=False)
    if len(shape) != 3 or any(side not in (None, given) for side, given in pairs):
        # Another size can't mend another number of axes or channels.
        sized = len(shape) == 3 and shape[2] in (None, data.image_shape[2])
        advice = "choose another image_size" if sized else "the model must take RGB"
        raise ValueError(
            f"{model.name} takes images of shape {tuple(shape)}, the data's are "
            f"{data.image_shape}: {advice}"
        )
    if classes != len(data.labels):
        names = ", ".join(data.labels[:12]) + (", ..." if len(data.labels) > 12 else "")
        raise ValueError(
            f"{model.name} has {classes} outputs, the data {len(data.labels)} classes: "
            f"{names}"
        )


def accuracy(model: keras.Model, dataset: tf.data.Dataset) -> float:
    """Fraction of samples whose largest output is that of the label.

    Args:
        model: A model with one output per class.
        dataset: Batches of (images, integer labels).

    Returns:
        A number from 0 to 1.
    """
    hits = [
        model.predict_on_batch(x).argmax(-1) == y
        for x, y in dataset.as_numpy_iterator()
    ]
    return float(np.concatenate(hits).mean())


def _fit(
    model,
    data: ImageData,
    train: tf.data.Dataset,
    *,
    epochs,
    learning_rate,
    weight_decay,
    label_smoothing,
    warmup_epochs,
    callbacks,
):
    if int(epochs) != epochs or epochs < 1:
        raise ValueError(f"epochs must be a positive integer, got {epochs!r}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive, got {learning_rate!r}")
    steps = epochs * data.steps_per_epoch
    warmup = min(round(warmup_epochs * data.steps_per_epoch), steps - 1)
    optimizer = keras.optimizers.AdamW(
        cosine(learning_rate, steps, warmup), weight_decay=weight_decay
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer,
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing
        ),
        metrics=["accuracy"],
    )
    # Variables that come into being while TensorFlow traces the training step make it
    # trace a second time, which takes as long as several epochs of a small data set.
    optimizer.build(model.trainable_variables)
    resuming.build_metrics(model, train)
    history = model.fit(
        train,
        validation_data=one_hot(data.test, len(data.labels)),
        epochs=int(epochs),
        shuffle=False,  # the data shuffles itself; Keras would warn that it can not
        callbacks=[*callbacks, keras.callbacks.TerminateOnNaN()],
        verbose=0,
    ).history
    # The last step shows in the test loss only.
    if not all(math.isfinite(history[name][-1]) for name in ("loss", "val_loss")):
        raise ValueError(
            f"the loss is not finite after {len(history['loss'])} epochs: use a "
            f"learning rate below {learning_rate:g}"
        )
    return {name: [float(value) for value in log] for name, log in history.items()}

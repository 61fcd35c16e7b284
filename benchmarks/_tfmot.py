"""A Keras 3 network in tf_keras, with tfmot's quantization, and the file of that.

tfmot's documented way is `quantize_model`, training, and TensorFlow's converter. It
folds no normalization in training, and has no calibration: its activation ranges begin
at [-6, 6] and move by a thousandth of the distance with each training batch.
`set_ranges` and `freeze_normalizations` are what a careful user would add.
"""

import tempfile

import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from keras_attention import graph

_BATCH = 32
# What is said to a layer of tf_keras, by the class of the Keras 3 layer.
_ARGUMENTS = {
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "use_bias"),
    "DepthwiseConv2D": ("kernel_size", "strides", "padding", "use_bias"),
    "BatchNormalization": ("momentum", "epsilon"),
    "ReLU": ("max_value",),
    "ZeroPadding2D": ("padding",),
    "Add": (),
    "GlobalAveragePooling2D": (),
    "Dense": ("units",),
}


def twin(model: keras.Model) -> tf_keras.Model:
    """Returns a network as a tf_keras model that computes the same.

    `Normalization`, which tfmot does not know, becomes a 1x1 depthwise convolution, and
    dropout is left out: `mobile.deploy` does both, too.

    Args:
        model: functional model of one input and one output, of layers of the kinds
            above.

    Raises:
        KeyError: a layer of another kind.
        RuntimeError: the outputs differ by more than 1e-4 of the largest.
    """
    weights = []

    def call(node, args, kwargs):
        kind = type(node.op).__name__
        if kind == "Dropout":
            return args[0]
        if kind == "Normalization":
            mean, std = (np.ravel(x) for x in (node.op.mean, node.op.variance**0.5))
            layer = tf_keras.layers.DepthwiseConv2D(1, name=node.name)
            values = [(1 / std).reshape(1, 1, -1, 1), -mean / std]
        else:
            options = {name: getattr(node.op, name) for name in _ARGUMENTS[kind]}
            layer = getattr(tf_keras.layers, kind)(name=node.name, **options)
            values = node.op.get_weights()
        weights.append((layer, values))
        return layer(*args)

    shape = model.input.shape[1:]
    inputs = tf_keras.Input(shape, name="image")
    outputs = graph.replay(graph.trace_model(model), [inputs], call)
    made = tf_keras.Model(inputs, outputs)
    for layer, values in weights:
        layer.set_weights(values)
    x = np.random.default_rng(0).uniform(-1, 1, (2, *shape))
    wanted, found = (network.predict(x, verbose=0) for network in (model, made))
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    if not error <= 1e-4:
        raise RuntimeError(f"The networks differ by {error:.1e} of the largest output.")
    return made


def quantize(model: tf_keras.Model) -> tf_keras.Model:
    """Returns tfmot's quantized copy of a model, as it comes."""
    return tfmot.quantization.keras.quantize_model(model)


def set_ranges(quantized: tf_keras.Model, model: tf_keras.Model, images: np.ndarray):
    """Sets the ranges of tfmot's model to those that `mobile.quantize` begins with.

    Kernels get their own, activations the smallest and largest value of the float
    model's tensors, in inference mode.

    Args:
        quantized: what `quantize` made of `model`.
        model: the float model.
        images: (N, H, W, C).
    """
    ranges, tensors = [], []
    for layer in quantized.layers:
        found = {v.name.split("/")[-1].partition(":")[0]: v for v in layer.weights}
        for name in [name for name in found if name.endswith("_min")]:
            stem = name.removesuffix("_min")
            low, high = found[name], found[f"{stem}_max"]
            if stem in found:  # A kernel: one number per output channel, or one.
                kernel = found[stem].numpy()
                axes = tuple(range(kernel.ndim - 1)) if low.shape.rank else None
                high.assign(np.abs(kernel).max(axis=axes))
                low.assign(-high)
                continue
            wrapped = hasattr(layer, "layer")  # What is not rounds the input.
            source = model.get_layer(layer.layer.name) if wrapped else model
            tensors.append(source.output if wrapped else source.input)
            ranges.append((low, high))
    watcher = tf_keras.Model(model.input, tensors)
    seen = []
    for start in range(0, len(images), _BATCH):
        values = watcher(images[start : start + _BATCH], training=False)
        seen.append([[tf.reduce_min(x), tf.reduce_max(x)] for x in values])
    lows, highs = np.min(seen, axis=0)[:, 0], np.max(seen, axis=0)[:, 1]
    for (low, high), smallest, largest in zip(ranges, lows, highs, strict=True):
        low.assign(min(0.0, smallest))  # TFLite's ranges hold 0.
        high.assign(max(0.0, largest))


def freeze_normalizations(quantized: tf_keras.Model):
    """Makes tfmot's model normalize as in inference when it is trained, too."""
    for layer in quantized.layers:
        inner = getattr(layer, "layer", None)
        if isinstance(inner, tf_keras.layers.BatchNormalization):
            inner.trainable = False


def convert(quantized: tf_keras.Model) -> bytes:
    """Returns the int8 file of tfmot's model, int8 at its ends, too."""
    with tempfile.TemporaryDirectory() as folder:
        # `from_keras_model` takes four times as long: it saves training functions, too.
        quantized.export(folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        return converter.convert()

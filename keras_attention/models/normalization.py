"""Mean and standard deviation of the training images, inside the network.

Published weights want (b / 255 - mean) / std of a byte b, the builders' networks take
b / 128 - 1: one weightless layer stands between the two. In a mobile file it is the
first 1x1 depthwise convolution, so that the file still takes bytes.
"""

import json
import zipfile

import h5py
import keras
import numpy as np

from keras_attention import graph, image_input

NAME = "normalization"


def normalization(mean, std, input_range=image_input.BYTE_RANGE):
    """Returns the layer that normalizes images of an input range.

    Args:
        mean: Of each channel, for values in [0, 1].
        std: Standard deviation, likewise.
        input_range: (lo, hi): the values that stand for byte 0 and byte 255.
    """
    low, high = input_range
    mean, std = (np.asarray(value, "float64") for value in (mean, std))
    return _layer(low + (high - low) * mean, np.square((high - low) * std))


def normalized(model, mean, std):
    """Returns a network that normalizes its images itself.

    For networks of the builders whose weights, e.g. from `weights.load_torch`, were
    trained on images (x - mean) / std, x in [0, 1]. The given model stays as it is; the
    new one has copies of its layers, and "normalization" in front of them.

    Args:
        model: A network of one of the builders, of any weights.
        mean: Of each channel, for values in [0, 1].
        std: Standard deviation, likewise; positive.

    Returns:
        A `keras.Model` for images in the range that the network's input stores.

    Raises:
        ValueError: The model stores no input range, or normalizes already; mean or std
            is not one number per channel, or a std is not positive.
    """
    input_range = image_input.input_range_of(model)
    if input_range is None:
        raise ValueError(
            "normalized needs a network of a builder in keras_attention.models, whose "
            f"input stores its range; received {model.name!r}"
        )
    if any(layer.name == NAME for layer in model.layers):
        raise ValueError(f"{model.name!r} has a layer {NAME!r} already")
    channels = model.input_shape[-1]
    for argument, value in (("mean", mean), ("std", std)):
        array = np.asarray(value, "float64")
        ok = array.shape == (channels,) and np.isfinite(array).all()
        if not ok or (argument == "std" and array.min() <= 0):
            kind = "positive numbers" if argument == "std" else "numbers"
            raise ValueError(f"{argument} must be {channels} {kind}; received {value}")
    inputs = graph.new_input(model.inputs[0], model.input_shape)
    x = normalization(mean, std, input_range)(inputs)
    once = graph.Once()

    def call(node, args, kwargs):
        copy = once(lambda: graph.copy_as_it_is(node.op), node.op)
        y = copy(*args, **kwargs)
        if isinstance(copy, keras.layers.Layer):
            once(lambda: graph.copy_state(node.op, copy), node.op, "state")
        return y

    outputs = graph.replay(graph.trace_model(model), [x], call)
    return keras.Model(inputs, outputs, name=model.name)


def saved_in(path):
    """Returns a layer like the one in a .keras file, or None if it has none."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))["config"]
    for layer in config.get("layers", ()):
        if layer["class_name"] == "Normalization" and layer["config"]["name"] == NAME:
            return _layer(layer["config"]["mean"], layer["config"]["variance"])
    return None


def is_in_weights(path):
    """Whether a .weights.h5 file is of a network that normalizes its images."""
    with h5py.File(path) as file:
        # Keras names the groups after the layers' classes.
        return "normalization" in file.get("layers", ())


def _layer(mean, variance):
    # In half precision the difference of pixel and mean would lose digits.
    return keras.layers.Normalization(
        mean=[float(value) for value in np.ravel(mean)],
        variance=[float(value) for value in np.ravel(variance)],
        dtype="float32",
        name=NAME,
    )

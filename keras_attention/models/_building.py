"""What the builders share: checks, padding, head, drop path, weights files."""

import os

import keras
from keras import layers

from keras_attention import image_input


def image(input_shape, weights, network):
    """Returns a network's input and the map that its stem starts from.

    Args:
        input_shape: (H, W, C).
        weights: The builder's argument.
        network: The builder's name.
    """
    inputs = image_input.make_input(input_shape, name="image")
    return inputs, inputs


def divisible(channels, divisor=8):
    """Returns the nearest multiple of `divisor` that is at least 90 % of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def normal(mode):
    """Returns N(0, sqrt(2 / n)); n is the fan of `mode`, k * k * out for "fan_out"."""
    return keras.initializers.VarianceScaling(2.0, mode, "untruncated_normal")


def batch_norm(x, name):
    """Returns `x` normalized; PyTorch's momentum 0.1 is 0.9 in Keras."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def padded(x, kernel_size, stride, name):
    """Returns `x` and a convolution's `padding` for symmetric padding.

    Args:
        x: (N, H, W, C).
        kernel_size: Of the convolution or pooling, odd.
        stride: Of the convolution or pooling.
        name: For the layer that pads, if one must.

    Returns:
        `x`, padded with zeros for strides above 1, and "valid" or "same".
    """
    if kernel_size == 1 or stride == 1:
        return x, "same"
    # Symmetric, unlike "same", which pads even sizes on one side only.
    return layers.ZeroPadding2D(kernel_size // 2, name=name)(x), "valid"


def residual_sum(shortcut, x, drop, prefix):
    """Returns shortcut + x; in training, `x` is left out at the rate `drop`."""
    if drop:
        # One random number per sample: the branch is there or it is not.
        x = layers.Dropout(drop, (None, 1, 1, 1), name=f"{prefix}_drop_path")(x)
    return layers.Add(name=f"{prefix}_add")([shortcut, x])


def classifier(x, classes, activation, dropout, kernel_initializer):
    """Returns the logits of a map, or what the activation makes of them; float32.

    Args:
        x: (N, H, W, C).
        classes: Number of classes.
        activation: Of the last layer; None for logits.
        dropout: Rate of the dropout in front of it.
        kernel_initializer: Of the last layer.
    """
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    x = layers.Dropout(dropout, name="head_dropout")(x)
    return layers.Dense(
        classes,
        activation=activation,
        kernel_initializer=kernel_initializer,
        dtype="float32",  # logits in half precision would cost accuracy
        name="classifier",
    )(x)


def load_weights(model, weights, network):
    """Gives `model` the weights of a file, if there are any.

    Args:
        model: The network.
        weights: The builder's argument.
        network: The builder's name.

    Raises:
        ValueError: The weights are another network's.
    """
    if weights is None:
        return
    path = os.fspath(weights)
    if path.endswith(".weights.h5"):
        model.load_weights(path)
        return
    # By name, because Keras would ignore layers that only the file has. Dropout's
    # random state is no weight: rates may differ.
    saved, ours = (
        {
            layer.name: layer
            for layer in network.layers
            if layer.weights and not isinstance(layer, layers.Dropout)
        }
        for network in (keras.models.load_model(path, compile=False), model)
    )
    if odd := sorted(saved.keys() ^ ours.keys()):
        raise ValueError(
            f"weights must be a file of the same network; {path} differs in "
            f"{len(odd)} layers: {', '.join(odd[:3])}, ..."
        )
    for name, layer in ours.items():
        layer.set_weights(saved[name].get_weights())


def check(input_shape, classes, dropout, drop_path, weights):
    """Raises ValueError for an argument that no network can be built with."""
    sizes = input_shape if isinstance(input_shape, (tuple, list)) else ()
    ok = len(sizes) == 3 and all(_positive_int(size) for size in sizes if size)
    ok = ok and 0 not in sizes and sizes[2] is not None
    require(ok, "input_shape", "(H, W, C) with positive sizes", input_shape)
    require(_positive_int(classes), "classes", "a positive integer", classes)
    for argument, rate in (("dropout", dropout), ("drop_path", drop_path)):
        ok = is_number(rate) and 0 <= rate < 1
        require(ok, argument, "a number in [0, 1)", rate)
    if weights is not None:
        path = os.fspath(weights) if isinstance(weights, (str, os.PathLike)) else ""
        ok = path.endswith((".keras", ".weights.h5")) and os.path.isfile(path)
        allowed = "None or the path of an existing .keras or .weights.h5 file"
        require(ok, "weights", allowed, weights)
    require(
        keras.config.image_data_format() == "channels_last",
        "keras.config.image_data_format()",
        "'channels_last'",
        keras.config.image_data_format(),
    )


def require(ok, argument, allowed, value):
    """Raises ValueError unless `ok`."""
    if not ok:
        raise ValueError(f"{argument} must be {allowed}; received {value!r}")


def is_number(value):
    """Whether `value` is an integer or a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positive_int(value):
    return is_number(value) and isinstance(value, int) and value > 0

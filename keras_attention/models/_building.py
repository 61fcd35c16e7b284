"""What the builders share: checks, padding, head, drop path, weights files."""

import os

import keras
from keras import layers

from keras_attention import image_input
from keras_attention.models import normalization
from keras_attention.weights import imagenet

IMAGENET = "imagenet"


def image(input_shape, weights, network):
    """Returns a network's input and the map that its stem starts from.

    That is the input itself, or for published weights and files of such networks the
    output of a layer "normalization".

    Args:
        input_shape: (H, W, C), or (T, H, W, C) of video.
        weights: The builder's argument.
        network: The builder's name.

    Raises:
        ValueError: There are no such weights.
    """
    inputs = image_input.make_input(input_shape, name="image")
    layer = None
    if weights == IMAGENET:
        entry = imagenet.entry_of(network)
        ok = input_shape[-1] == len(entry.mean)
        require(ok, "input_shape", "(H, W, 3) for weights='imagenet'", input_shape)
        layer = normalization.normalization(entry.mean, entry.std)
    elif weights is not None and os.fspath(weights).endswith(".keras"):
        layer = normalization.saved_in(weights)
    return inputs, inputs if layer is None else layer(inputs)


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
        x: (N, H, W, C), or (N, T, H, W, C) of video.
        kernel_size: Of the convolution or pooling, odd; one number, or one per axis.
        stride: Of the convolution or pooling, alike.
        name: For the layer that pads, if one must.

    Returns:
        `x`, padded with zeros for strides above 1, and "valid" or "same".
    """
    axes = len(x.shape) - 2
    sizes, strides = (
        (value,) * axes if isinstance(value, int) else value
        for value in (kernel_size, stride)
    )
    if all(1 in pair for pair in zip(sizes, strides, strict=True)):
        return x, "same"
    # Symmetric, unlike "same", which pads even sizes on one side only.
    pad = layers.ZeroPadding3D if axes == 3 else layers.ZeroPadding2D
    return pad(tuple(size // 2 for size in sizes), name=name)(x), "valid"


def residual_sum(shortcut, x, drop, prefix):
    """Returns shortcut + x; in training, `x` is left out at the rate `drop`."""
    if drop:
        # One random number per sample: the branch is there or it is not.
        one = (None,) + (1,) * (len(x.shape) - 1)
        x = layers.Dropout(drop, one, name=f"{prefix}_drop_path")(x)
    return layers.Add(name=f"{prefix}_add")([shortcut, x])


def classifier(x, classes, activation, dropout, kernel_initializer):
    """Returns the logits of a map, or what the activation makes of them; float32.

    Args:
        x: (N, H, W, C), or (N, T, H, W, C) of video.
        classes: Number of classes.
        activation: Of the last layer; None for logits.
        dropout: Rate of the dropout in front of it.
        kernel_initializer: Of the last layer.
    """
    video = len(x.shape) == 5
    pool = layers.GlobalAveragePooling3D if video else layers.GlobalAveragePooling2D
    x = pool(name="head_pool")(x)
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
        OSError: A published file is not in the cache and can't be downloaded.
        ValueError: The weights are another network's.
    """
    if weights is None:
        return
    if weights == IMAGENET:
        imagenet.load(model, network)
        return
    path = os.fspath(weights)
    if path.endswith(".weights.h5"):
        if normalization.is_in_weights(path):
            raise ValueError(
                f"weights must be a file of the same network; {path} is of one with a "
                f"layer {normalization.NAME!r}, whose mean and standard deviation only "
                "a .keras file has"
            )
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


def check(input_shape, classes, dropout, drop_path, weights, axes="HWC"):
    """Raises ValueError for an argument that no network can be built with.

    Args:
        input_shape: The builder's argument, like the following ones.
        classes: An integer > 0.
        dropout: A rate.
        drop_path: A rate.
        weights: None or a path.
        axes: Letters of the axes of `input_shape`.
    """
    sizes = input_shape if isinstance(input_shape, (tuple, list)) else ()
    ok = len(sizes) == len(axes) and all(_positive_int(x) for x in sizes if x)
    ok = ok and 0 not in sizes and sizes[-1] is not None
    allowed = f"({', '.join(axes)}) with positive sizes"
    require(ok, "input_shape", allowed, input_shape)
    require(_positive_int(classes), "classes", "a positive integer", classes)
    for argument, rate in (("dropout", dropout), ("drop_path", drop_path)):
        ok = is_number(rate) and 0 <= rate < 1
        require(ok, argument, "a number in [0, 1)", rate)
    if weights is not None:
        path = os.fspath(weights) if isinstance(weights, (str, os.PathLike)) else ""
        ok = path.endswith((".keras", ".weights.h5")) and os.path.isfile(path)
        ok = ok or weights == IMAGENET
        allowed = "None or the path of an existing .keras or .weights.h5 file"
        require(ok, "weights", f"{allowed}, or {IMAGENET!r}", weights)
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

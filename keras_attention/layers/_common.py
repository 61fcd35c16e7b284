"""What the attention layers share: checks, 1x1 convolutions, their config."""

import keras

# N(0, sqrt(2 / (k * k * out))): what the authors' networks give each convolution.
AUTHORS_INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"},
}

# U(-1, 1) / sqrt(fan-in): what PyTorch gives a convolution.
TORCH_INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1 / 3, "mode": "fan_in", "distribution": "uniform"},
}


def positive_int(name, value):
    """Returns `value`, or raises ValueError if it is not an integer > 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer; received {value!r}")
    return value


def largest_divisor(number, limit):
    """Returns the largest divisor of `number` that is at most `limit`."""
    return next(d for d in range(limit, 0, -1) if number % d == 0)


def data_format(value):
    """Returns `value`, or Keras' default for None.

    Raises:
        ValueError: `value` is not a data format.
    """
    allowed = ("channels_last", "channels_first")
    if value is None:
        return keras.config.image_data_format()
    if value not in allowed:
        raise ValueError(f"data_format must be one of {allowed}; received {value!r}")
    return value


def channel_axis(layer, input_shape, ranks=(4,)):
    """Returns the channel axis of an input of `layer`, having checked the shape.

    Args:
        layer: The layer, for its name and its data format.
        input_shape: Shape of the input, batch axis included.
        ranks: Allowed ranks, of 4 (images) and 5 (video).

    Raises:
        ValueError: The input is of another rank, or its channels are not static.
    """
    if len(input_shape) not in ranks:
        allowed = " or ".join(map(str, ranks))
        axes = " or ".join({4: "two", 5: "three"}[rank] for rank in ranks)
        raise ValueError(
            f"layer {layer.name!r} needs an input of rank {allowed} (batch, {axes} "
            f"spatial axes and channels); received shape {tuple(input_shape)}"
        )
    axis = len(input_shape) - 1 if layer.data_format == "channels_last" else 1
    if input_shape[axis] is None:
        raise ValueError(
            f"layer {layer.name!r} needs a static number of channels (axis {axis}, "
            f"{layer.data_format}); received shape {tuple(input_shape)}"
        )
    return axis


def set_conv_initializers(layer, kernel, bias):
    """Stores the initializers of a layer's convolutions, given in any Keras form."""
    layer.kernel_initializer = keras.initializers.get(kernel)
    layer.bias_initializer = keras.initializers.get(bias)


def set_conv_regularizers(layer, kernel, bias):
    """Stores the regularizers of a layer's convolutions, given in any Keras form."""
    layer.kernel_regularizer = keras.regularizers.get(kernel)
    layer.bias_regularizer = keras.regularizers.get(bias)


def conv_config(layer):
    """Returns the config of a layer's initializers and regularizers."""
    serialize = keras.initializers.serialize
    regularizer = keras.regularizers.serialize
    return {
        "kernel_initializer": serialize(layer.kernel_initializer),
        "bias_initializer": serialize(layer.bias_initializer),
        "kernel_regularizer": regularizer(layer.kernel_regularizer),
        "bias_regularizer": regularizer(layer.bias_regularizer),
    }


def conv(layer, inputs, outputs, name, kernel_size=1, **options):
    """Returns a built channels-last convolution with the options of `layer`.

    Args:
        layer: The layer that it is a part of. Where its `bias_initializer` is None, the
            bias starts as PyTorch's: uniform in +-1 / sqrt(fan-in).
        inputs: Number of input channels.
        outputs: Number of output channels.
        name: Name of the convolution.
        kernel_size: Height and width of the kernel, a number for both or a pair; zeros
            are padded so that the map keeps its size.
        **options: Further arguments of `keras.layers.Conv2D`.
    """
    height, width = (
        kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    )
    bound = (height * width * inputs) ** -0.5
    settings = {
        "padding": "same",
        "data_format": "channels_last",
        "kernel_initializer": _once(layer.kernel_initializer),
        "bias_initializer": _once(layer.bias_initializer)
        or keras.initializers.RandomUniform(-bound, bound),
        "kernel_regularizer": layer.kernel_regularizer,
        "bias_regularizer": layer.bias_regularizer,
        "dtype": layer.dtype_policy,
        "trainable": layer.trainable,
        "name": name,
    }
    made = keras.layers.Conv2D(outputs, kernel_size, **settings | options)
    made.build((None, None, None, inputs))
    return made


def _once(initializer):
    # A Keras initializer gives the same numbers at each call: convolutions that shared
    # one object would start with equal kernels.
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer


def batch_norm(layer, channels, name, gamma_initializer="ones"):
    """Returns a built batch normalization over the last axis of a rank-4 tensor.

    Momentum 0.9 and epsilon 1e-5: PyTorch's defaults, 0.1 and 1e-5.
    """
    norm = keras.layers.BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        gamma_initializer=gamma_initializer,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
        name=name,
    )
    norm.build((None, None, None, channels))
    return norm


def check_deployable(layer):
    """Raises ValueError if `layer` is not built or not channels_last."""
    if not layer.built:
        raise ValueError(f"layer {layer.name!r} must be built before it is deployed")
    if layer.data_format != "channels_last":
        raise ValueError(
            f"layer {layer.name!r} has data_format={layer.data_format!r}: only "
            "channels_last layers can be deployed"
        )

"""What the attention layers share: checks, 1x1 convolutions, their config."""

import math

import keras
from keras import ops

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


def odd_int(name, value):
    """Returns `value`, or raises ValueError if it is not an odd integer > 0."""
    if positive_int(name, value) % 2 == 0:
        raise ValueError(f"{name} must be odd; received {value!r}")
    return value


def largest_divisor(number, limit):
    """Returns the largest divisor of `number` that is at most `limit`."""
    return next(d for d in range(limit, 0, -1) if number % d == 0)


def group_count(layer, channels, most, of="the channels"):
    """Returns `layer.groups`, which must divide `channels`.

    Args:
        layer: The layer; None for its groups is the largest divisor up to `most`.
        channels: What is cut into groups.
        most: Largest number of groups for None.
        of: What that is, for the message.

    Raises:
        ValueError: `groups` does not divide `channels`.
    """
    if layer.groups is None:
        return largest_divisor(channels, most)
    if channels % layer.groups:
        raise ValueError(
            f"groups must divide {of}; layer {layer.name!r} has groups={layer.groups} "
            f"and received {channels}. groups=None takes the largest divisor up to "
            f"{most}"
        )
    return layer.groups


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


def spatial_axes(layer, rank):
    """Returns the spatial axes of a tensor of `rank` in the layer's data format."""
    first = layer.data_format == "channels_first"
    return tuple(range(2, rank)) if first else tuple(range(1, rank - 1))


def per_channel(layer, values, rank):
    """Returns (N, ..., C), ones between, so that it broadcasts with the layer's input.

    Args:
        layer: The layer, for its data format.
        values: Tensor with one value for each sample and channel.
        rank: Of the input.
    """
    ones, channels = (1,) * (rank - 2), values.shape[-1]
    first = layer.data_format == "channels_first"
    shape = (-1, channels, *ones) if first else (-1, *ones, channels)
    return ops.reshape(values, shape)


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


def conv(
    layer,
    inputs,
    outputs,
    name,
    kernel_size=1,
    kind=keras.layers.Conv2D,
    **options,
):
    """Returns a built channels-last convolution with the options of `layer`.

    Args:
        layer: The layer that it is a part of. Where its `bias_initializer` is None, the
            bias starts as PyTorch's: uniform in +-1 / sqrt(fan-in).
        inputs: Number of input channels.
        outputs: Number of output channels.
        name: Name of the convolution.
        kernel_size: Height and width of the kernel, a number for both or a pair; zeros
            are padded so that the map keeps its size.
        kind: `keras.layers.Conv2D`, or a subclass of it.
        **options: Further arguments of `keras.layers.Conv2D`.
    """
    height, width = (
        kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    )
    bound = (height * width * inputs // options.get("groups", 1)) ** -0.5
    settings = {
        "padding": "same",
        "data_format": "channels_last",
        "kernel_initializer": own_initializer(layer.kernel_initializer),
        "bias_initializer": own_initializer(layer.bias_initializer)
        or keras.initializers.RandomUniform(-bound, bound),
        "kernel_regularizer": layer.kernel_regularizer,
        "bias_regularizer": layer.bias_regularizer,
        "dtype": layer.dtype_policy,
        "trainable": layer.trainable,
        "name": name,
    }
    made = kind(outputs, kernel_size, **settings | options)
    made.build((None, None, None, inputs))
    return made


def own_initializer(initializer):
    """Returns a copy of an initializer, for one convolution.

    A Keras initializer gives the same numbers at each call: convolutions that shared
    one object would start with equal kernels.
    """
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer


def batch_norm(layer, channels, name, gamma_initializer="ones", momentum=0.9):
    """Returns a built batch normalization over the last axis of a rank-4 tensor.

    Momentum 0.9 and epsilon 1e-5: PyTorch's defaults, 0.1 and 1e-5.
    """
    norm = keras.layers.BatchNormalization(
        momentum=momentum,
        epsilon=1e-5,
        gamma_initializer=gamma_initializer,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
        name=name,
    )
    norm.build((None, None, None, channels))
    return norm


def softmax(x, axis):
    """Returns the softmax, also over an axis of size 1, of which Keras warns."""
    return x - x + 1.0 if x.shape[axis] == 1 else ops.softmax(x, axis=axis)


def check_built(layer, use="started warm"):
    """Raises ValueError if `layer` is not built."""
    if not layer.built:
        raise ValueError(f"layer {layer.name!r} must be built before it is {use}")


def at_zero(layer, gate, channels=1):
    """Returns gate(0), the constant factor of a gate whose logits are all zero.

    Args:
        layer: The layer, for its name.
        gate: Function of logits (N, H, W, C).
        channels: C, where the gate does not see each value alone (softmax).

    Raises:
        ValueError: gate(0) is not one positive number: it can't be divided out again.
    """
    values = ops.convert_to_numpy(gate(ops.zeros((1, 1, 1, channels), "float32")))
    scale = float(values.flat[0])
    if not (0 < scale < math.inf and abs(values - scale).max() <= 1e-6 * scale):
        raise no_warm_start(
            layer, f"its gate must be positive at 0; received {scale:.4g} there"
        )
    return scale


def zero(*weights):
    """Sets weights to zero, those that are not None.

    For a warm start, the last ones before a gate. Where a normalization comes between
    the last kernel and the gate, they are the normalization's scale and shift: behind
    a kernel of zeros it would divide by sqrt(epsilon), and make the kernel's first
    gradients 1 / sqrt(epsilon) times as large.
    """
    for weight in weights:
        if weight is not None:
            weight.assign(ops.zeros(weight.shape, weight.dtype))


def no_warm_start(layer, reason):
    """Returns the error of a layer that can't start as a constant times its input."""
    return ValueError(f"layer {layer.name!r} has no warm start: {reason}")


def check_deployable(layer):
    """Raises ValueError if `layer` is not built or not channels_last."""
    check_built(layer, "deployed")
    if layer.data_format != "channels_last":
        raise ValueError(
            f"layer {layer.name!r} has data_format={layer.data_format!r}: only "
            "channels_last layers can be deployed"
        )


def on_tensorflow_cpu():
    """Whether layers are computed by TensorFlow, on a machine without accelerator."""
    tensorflow = keras.backend.backend() == "tensorflow"
    return tensorflow and keras.distribution.list_devices()[0].startswith("cpu")


def on_maps(function):
    """Returns a function of maps for video, too: its frames are put below each other.

    TFLite runs tensors of rank 4 best, and not everything in rank 5.

    Args:
        function: From (N, H, W, C) to the same shape; where pixels are makes no
            difference to it.
    """

    def wrapped(x):
        if len(x.shape) == 4:
            return function(x)
        frames, height, *rest = shape = x.shape[1:]
        y = function(ops.reshape(x, (-1, frames * height, *rest)))
        return ops.reshape(y, (-1, *shape))

    return wrapped

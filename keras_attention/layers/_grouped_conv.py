"""Grouped convolution that is fast where Keras' own is not.

On TensorFlow's CPU, Keras compiles convolutions with groups by XLA: a training step on
28x28 maps of 96 channels, 32 groups, takes a hundred times as long as with a dense
kernel. Here, there, adjacent groups form a few runs, and each run is one dense
convolution whose kernel has zeros between its groups.
"""

import keras
from keras import ops

from keras_attention import stock
from keras_attention.layers import _common

# Measured, training on a CPU and int8 inference, 3x3, 16 to 1024 channels, 2 to 32
# groups: one dense kernel computes too many zeros, and convolutions of few channels are
# no cheaper than wider ones. Runs are 1.2 (96 channels) to 4 times (512) as fast.
_MOST_RUNS = 16
_RUN_CHANNELS = 20


@keras.saving.register_keras_serializable(package="keras_attention")
class GroupedConv2D(keras.layers.Conv2D):
    """2D convolution with groups: `keras.layers.Conv2D` by another computation.

    Arguments, weights and results are those of `keras.layers.Conv2D` with `groups`: the
    kernel is (h, w, C / groups, filters), and output channels f * filters / groups up
    to (f + 1) * filters / groups see the input channels of group f alone.

    Args:
        *args: As of `keras.layers.Conv2D`.
        **kwargs: As of `keras.layers.Conv2D`, `groups` among them.

    Input and output shape:
        (N, H, W, C) -> (N, H', W', filters), or channels first.

    Parameters: h w C filters / groups, with a bias filters more.
    Multiply-adds: h w H' W' C filters / groups; on TensorFlow's CPU up to 16 runs
    of groups compute at least h w H' W' C filters / 16.
    Int8: deploys to one dense convolution with zeros between the groups.

    Raises:
        ValueError: As of `keras.layers.Conv2D`: `groups` does not divide the input
            channels or `filters`.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(GroupedConv2D(128, 3, groups=32, padding="same")(x).shape)
        (2, 14, 14, 128)
    """

    def convolution_op(self, inputs, kernel):
        """Returns the convolution, without bias and activation."""
        if self.groups == 1 or not _common.on_tensorflow_cpu():
            return super().convolution_op(inputs, kernel)
        axis = -1 if self.data_format == "channels_last" else 1
        channels = inputs.shape[axis]
        bounds = _runs(channels, self.groups)
        if len(bounds) == 2:
            return super().convolution_op(inputs, dense_kernel(kernel, self.groups))
        width, filters = channels // self.groups, self.filters // self.groups
        inputs = ops.split(inputs, [width * b for b in bounds[1:-1]], axis=axis)
        kernels = ops.split(kernel, [filters * b for b in bounds[1:-1]], axis=-1)
        outputs = []
        for run, (x, part) in enumerate(zip(inputs, kernels, strict=True)):
            dense = dense_kernel(part, bounds[run + 1] - bounds[run])
            outputs.append(super().convolution_op(x, dense))
        return ops.concatenate(outputs, axis=axis)

    def deploy(self):
        """Returns an equal function of one dense stock convolution.

        `BlockDiagonal` keeps the zeros between the groups when the kernel is trained.
        It takes the place of a constraint of the layer's own.

        Returns:
            A function (N, H, W, C) -> (N, H', W', filters). Its layers are made once;
            their names begin with this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        conv = stock.convolution(
            ops.convert_to_numpy(self.kernel),
            ops.convert_to_numpy(self.bias) if self.use_bias else None,
            self.groups,
            name=f"{self.name}_dense",
            trainable=self.trainable,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
        )
        if self.activation is keras.activations.linear:
            return conv
        activation = stock.activation(self.activation, name=f"{self.name}_activation")
        return lambda x: activation(conv(x))


def dense_kernel(kernel, groups):
    """Returns the dense kernel of a grouped convolution, zeros between the groups.

    Args:
        kernel: Tensor or array (h, w, C / groups, F).
        groups: Number of groups.

    Returns:
        Tensor (h, w, C, F).
    """
    if groups == 1:
        return kernel
    return stock.BlockDiagonal(groups)(ops.tile(kernel, (1, 1, groups, 1)))


def grouped_form(kernel, bias, groups, *, name, activation=None, **options):
    """Returns a mobile form of a grouped convolution: a dense one for each run.

    In int8, too, this is up to 6 times as fast as one dense convolution (14x14, 512
    channels, 32 groups), and its file as much smaller.

    Args:
        kernel: Array (h, w, C / groups, F).
        bias: Array (F,).
        groups: Number of groups.
        name: Of the block; the layers are called `<name>_<run>`, or `<name>` if there
            is one.
        activation: A function of tensors, applied to each run: there, it is part of the
            convolution.
        **options: Further arguments of `keras.layers.Conv2D`.

    Returns:
        A function (N, H, W, C) -> (N, H', W', F).
    """
    activation = activation or (lambda x: x)
    inputs, filters = kernel.shape[2], kernel.shape[3] // groups
    bounds = _runs(groups * inputs, groups)
    pairs = list(zip(bounds[:-1], bounds[1:], strict=True))
    convs = []
    for run, (begin, end) in enumerate(pairs):
        made = slice(begin * filters, end * filters)
        conv = stock.convolution(
            kernel[..., made],
            bias[made],
            end - begin,
            name=f"{name}_{run}" if len(pairs) > 1 else name,
            **options,
        )
        convs.append(conv)
    if len(convs) == 1:
        return lambda x: activation(convs[0](x))

    def function(x):
        outputs = [
            activation(conv(x[..., begin * inputs : end * inputs]))
            for conv, (begin, end) in zip(convs, pairs, strict=True)
        ]
        return ops.concatenate(outputs, axis=-1)

    return function


def _runs(channels, groups):
    """Returns where runs of whole groups begin and end, as equal as can be."""
    runs = max(1, min(_MOST_RUNS, groups, channels // _RUN_CHANNELS))
    return [groups * run // runs for run in range(runs + 1)]

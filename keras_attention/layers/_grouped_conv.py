"""Grouped convolution that is fast where Keras' own is not.

On TensorFlow's CPU, Keras compiles convolutions with groups by XLA: a training step on
28x28 maps of 96 channels, 32 groups, takes a hundred times as long as with a dense
kernel. Here, there, adjacent groups form a few runs, and each run is one dense
convolution whose kernel has zeros between its groups.
"""

import keras
from keras import ops

from keras_attention import stock
from keras_attention.grouped import dense_kernel, run_count
from keras_attention.layers import _common


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
    Multiply-adds: h w H' W' C filters / groups; with r runs of groups, on TensorFlow's
    CPU and in files, h w H' W' C filters / r.
    Int8: deploys to one dense convolution with zeros between the groups, which
    `mobile.deploy` cuts into runs.

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
        count = run_count(kernel.shape, self.groups)
        groups = self.groups // count
        axis = -1 if self.data_format == "channels_last" else 1
        outputs = [
            super(GroupedConv2D, self).convolution_op(x, dense_kernel(part, groups))
            for x, part in zip(
                ops.split(inputs, count, axis=axis),
                ops.split(kernel, count, axis=-1),
                strict=True,
            )
        ]
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

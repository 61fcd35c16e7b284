"""Selective Kernel Networks.

Li, Wang, Hu and Yang, CVPR 2019, arXiv 1903.06586; official code: implus/SKNet.

Neurons of the visual cortex change the size of their receptive field with what they
see. Here branches with different dilation see different neighbourhoods, and each
channel takes a weighted mean of them, by weights that follow from all branches.

Differences from the reference, which was not at hand: the details (no biases, ReLU
behind each branch, 5x5 as 3x3 with dilation 2) are those of the port in timm.
"""

import keras
from keras import ops

from keras_attention.layers import _common
from keras_attention.layers._grouped_conv import GroupedConv2D
from keras_attention.layers._selective_kernel_mobile import branch_output, mobile_form
from keras_attention.registry import register

_MOST_GROUPS = 32


@register("sk")
@keras.saving.register_keras_serializable(package="keras_attention")
class SelectiveKernel(keras.layers.Layer):
    """Selective kernel convolution: a mean of branches, weighted per channel.

    In place of a 3x3 convolution. With branch i of M having dilation i (from 1), and
    m = max(min_channels, C // reduction):

        u_i = ReLU(BN(F_i(x)))                         3x3 in groups, C -> C
        s = mean over the positions of sum_i u_i       (C,)
        z = ReLU(BN(W s))                              C -> m
        a = softmax over i of V_i z                    m -> C for each branch
        y = sum_i a_i * u_i                            per channel

    Branches are padded by zeros on all sides alike, which with strides are PyTorch's
    positions, not those of "same". Batch statistics (momentum 0.9, epsilon 1e-5), means
    and softmax are computed in float32 under mixed precision.

    Args:
        branches: M, at least 2.
        groups: Of the 3x3 convolutions, a divisor of C; None: the largest up to 32.
        reduction: C // reduction channels in z.
        min_channels: Least number of channels in z.
        strides: Of the block, as that of the convolution in whose place it is.
        kernel_initializer: Of all kernels; default: N(0, 2 / out), as in ResNets.
        kernel_regularizer: Of all kernels.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), C), or channels first.
        N, H and W may be dynamic.

    Parameters: 9MC^2 / groups + 2MC + (M + 1)Cm + 2m trainable, and 2MC + 2m running
    statistics.
    Multiply-adds, with H' and W' of the output: 9MH'W'C^2 / groups + (M + 1)Cm +
    MH'W'C. Deployed, a grouped convolution is up to 32 dense ones.
    Int8: two branches deploy to a sigmoid, and XNNPACK takes all of it; more to a
    softmax, which it does not take.

    Raises:
        ValueError: `branches` is not an integer of at least 2; `reduction`,
            `min_channels`, `strides` or `groups` is not a positive integer (or None,
            `groups`); the data format is unknown; or (at build) the input is not of
            rank 4 with static C, or `groups` does not divide C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(SelectiveKernel(groups=16, strides=2)(x).shape)
        (2, 7, 7, 64)

    Reference: https://arxiv.org/abs/1903.06586, section 3.1.
    """

    def __init__(
        self,
        branches=2,
        groups=32,
        *,
        reduction=16,
        min_channels=32,
        strides=1,
        kernel_initializer=_common.AUTHORS_INITIALIZER,
        kernel_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if _common.positive_int("branches", branches) < 2:
            raise ValueError(f"branches must be at least 2; received {branches!r}")
        if groups is not None:
            _common.positive_int("groups, if not None,", groups)
        self.branches = branches
        self.groups = groups
        self.reduction = _common.positive_int("reduction", reduction)
        self.min_channels = _common.positive_int("min_channels", min_channels)
        self.strides = _common.positive_int("strides", strides)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the sub-layers for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape)
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})
        groups = self.groups or _common.largest_divisor(channels, _MOST_GROUPS)
        if channels % groups:
            raise ValueError(
                f"layer {self.name!r}: groups must divide the {channels} channels of "
                f"the input; received {groups}. groups=None chooses a divisor."
            )
        width = max(self.min_channels, channels // self.reduction)
        self.convs, self.conv_norms = [], []
        for i in range(self.branches):
            options = {"groups": groups, "padding": "same"}
            if self.strides == 1 or i > 0:
                # TensorFlow knows no strides together with a dilation.
                inner, rest = divmod(i + 1, self.strides)
                options["dilation_rate"] = i + 1 if rest else inner
            else:
                options |= {"strides": self.strides, "padding": "valid"}
            conv = self._conv(channels, channels, 3, f"branch_{i}", **options)
            norm = _common.batch_norm(self, channels, f"branch_norm_{i}")
            self.convs.append(conv)
            self.conv_norms.append(norm)
        self.reduce = self._conv(channels, width, 1, "reduce")
        self.reduce_norm = _common.batch_norm(self, width, "reduce_norm")
        self.select = self._conv(width, self.branches * channels, 1, "select")

    def _conv(self, inputs, outputs, kernel_size, name, **options):
        conv = GroupedConv2D(
            outputs,
            kernel_size,
            use_bias=False,
            data_format="channels_last",
            kernel_initializer=_common.own_initializer(self.kernel_initializer),
            kernel_regularizer=self.kernel_regularizer,
            dtype=self.dtype_policy,
            trainable=self.trainable,
            name=name,
            **options,
        )
        conv.build((None, None, None, inputs))
        return conv

    def call(self, x, training=None):
        """Returns the weighted mean of the branches."""
        first = self.data_format == "channels_first"
        x = ops.transpose(x, (0, 2, 3, 1)) if first else x
        branches = []
        for i, (conv, norm) in enumerate(zip(self.convs, self.conv_norms, strict=True)):
            u = branch_output(conv, x, i + 1, self.strides, _subsample)
            branches.append(ops.relu(norm(u, training=training)))  # (N, H', W', C)
        # Whatever the dtype of x, Keras sums means and batch statistics in float32.
        s = sum(ops.mean(u, axis=(1, 2), keepdims=True) for u in branches)
        z = ops.relu(self.reduce_norm(self.reduce(s), training=training))
        wide = keras.backend.result_type(self.compute_dtype, "float32")
        scores = ops.cast(self.select(z), wide)  # (N, 1, 1, MC), branch by branch
        scores = ops.reshape(scores, (-1, self.branches, 1, 1, x.shape[-1]))
        a = ops.cast(ops.softmax(scores, axis=1), self.compute_dtype)
        y = sum(u * a[:, i] for i, u in enumerate(branches))
        return ops.transpose(y, (0, 3, 1, 2)) if first else y

    def warm_start(self):
        """Raises ValueError: it is a convolution of its own."""
        reason = "it replaces a convolution by others, whatever their gates"
        raise _common.no_warm_start(self, reason)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        Returns:
            A function (N, H, W, C) -> (N, H', W', C), H and W static. Its layers are
            made once, however often it is called; their names begin with this layer's
            name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        return mobile_form(self)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the output: `strides` divide height and width."""
        shape = list(input_shape)
        for axis in _common.spatial_axes(self, 4):
            if shape[axis] is not None:
                shape[axis] = -(-shape[axis] // self.strides)
        return tuple(shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "branches": self.branches,
            "groups": self.groups,
            "reduction": self.reduction,
            "min_channels": self.min_channels,
            "strides": self.strides,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "data_format": self.data_format,
        }


def _subsample(x, strides):
    """Returns every strides-th row and column, from the first."""
    # As a pooling of single positions: the gradient of a strided slice is slow.
    return ops.average_pool(x, 1, strides, data_format="channels_last")

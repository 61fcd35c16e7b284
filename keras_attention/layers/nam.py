"""NAM: Normalization-based Attention Module.

Liu, Shao, Teng and Hoffmann, NeurIPS 2021 workshop, arXiv 2111.12419; official code:
Christian-lyc/NAM.

The scales that a batch normalization has learned tell how much each channel varies, and
so how much it matters: they weigh the normalized channels, which then gate the map.
Nothing else is learned. The paper trains with an L1 penalty on the scales, which makes
the weights sparse: see `GammaL1` and `penalize_gammas`.

Differences from the reference: none in the function or its gradients. As in the
authors' code, no gradient passes through the weights. Where all scales are 0, the
authors divide 0 by 0; here the weights are 0, and y = x / 2.
"""

import keras
from keras import ops

from keras_attention import stock
from keras_attention.layers import _common
from keras_attention.registry import register

_TINY = 1e-30  # far below any sum of scales, and no denormal number
_WARM_GAMMA = 1e-6


@register("nam")
@keras.saving.register_keras_serializable(package="keras_attention")
class NAM(keras.layers.Layer):
    """Normalization-based attention: gates by what a normalization scales up.

    With gamma and beta, the scale and shift of the batch normalization:

        w_c = |gamma_c| / sum_i |gamma_i|         not differentiated
        y = x * sigmoid(w_c * BN(x))

    Batch statistics are taken over the N * H * W positions (momentum 0.9, epsilon
    1e-5), in float32 under mixed precision.

    Args:
        gamma_regularizer: Of gamma. The paper's is `GammaL1(1e-4)`, on all batch
            normalizations of the network: see `penalize_gammas`.
        data_format: "channels_last" or "channels_first"; None is Keras' default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape:
        (N, H, W, C), or (N, C, H, W) with "channels_first". N, H and W may be dynamic.

    Parameters: 2C trainable, and 2C running statistics.
    Multiply-adds: 3HWC; deployed 2HWC.
    Int8: normalization and weights are one scale and shift per channel; XNNPACK takes
    every operator. The weights sum to 1, so that most gates are near 1/2.

    Raises:
        ValueError: The data format is unknown, or (at build) the input is not of rank 4
            with static C.

    Example:
        >>> x = keras.random.normal((2, 14, 14, 64))
        >>> tuple(NAM()(x).shape)
        (2, 14, 14, 64)

    Reference: https://arxiv.org/abs/2111.12419, equations 1 and 2.
    """

    def __init__(self, *, gamma_regularizer=None, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.data_format = _common.data_format(data_format)

    def build(self, input_shape):
        """Builds the normalization for the channels of `input_shape`."""
        axis = _common.channel_axis(self, input_shape)
        channels = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})
        self.norm = keras.layers.BatchNormalization(
            axis=axis,
            momentum=0.9,
            epsilon=1e-5,
            gamma_regularizer=self.gamma_regularizer,
            dtype=self.dtype_policy,
            trainable=self.trainable,
            name="norm",
        )
        self.norm.build((None, *input_shape[1:]))

    def call(self, x, training=None):
        """Returns x gated by its weighted normalization, as in the authors' code."""
        y = self.norm(x, training=training)  # of the shape of x
        # In float32: a sum of some hundred scales would stop growing in bfloat16.
        wide = keras.backend.result_type(self.compute_dtype, "float32")
        gamma = ops.stop_gradient(ops.cast(self.norm.gamma, wide))  # (C,)
        weights = ops.abs(gamma) / ops.maximum(ops.sum(ops.abs(gamma)), _TINY)
        if self.data_format == "channels_first":
            weights = ops.reshape(weights, (-1, 1, 1))
        return x * ops.sigmoid(y * ops.cast(weights, y.dtype))

    def warm_start(self):
        """Makes the gate nearly constant, by small gammas; returns its value, 1/2.

        Gammas of 0 would get no gradient, as w is 0 then. Gammas that are all 1e-6 have
        the w, and the gradients, of ones; where x is d deviations from its mean, y is
        within 5e-7 d / C of x / 2. The first steps of training set their proportions.

        Raises:
            ValueError: The layer is not built.
        """
        _common.check_built(self)
        gamma = self.norm.gamma
        gamma.assign(ops.full(gamma.shape, _WARM_GAMMA, gamma.dtype))
        _common.zero(self.norm.beta)
        return _common.at_zero(self, ops.sigmoid)

    def deploy(self):
        """Returns an equal function of stock layers that phones run well.

        The normalization and its weights are one scale and shift per channel.

        Returns:
            A function (N, H, W, C) -> (N, H, W, C). Its layers are made once, however
            often it is called; their names begin with this layer's name.

        Raises:
            ValueError: The layer is not built, or its data format is channels_first.
        """
        _common.check_deployable(self)
        scale, shift = stock.batch_norm_affine(self.norm)
        weights = abs(ops.convert_to_numpy(self.norm.gamma).astype("float64"))
        weights /= max(weights.sum(), _TINY)
        norm = stock.scale_shift(
            scale * weights,
            shift * weights,
            name=f"{self.name}_norm",
            trainable=self.norm.trainable,
        )
        gate = stock.activation("sigmoid", name=f"{self.name}_gate")
        return lambda x: x * gate(norm(x))

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        serialize = keras.regularizers.serialize
        return {
            **super().get_config(),
            "gamma_regularizer": serialize(self.gamma_regularizer),
            "data_format": self.data_format,
        }

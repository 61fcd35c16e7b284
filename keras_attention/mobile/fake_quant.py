"""Keras layers that compute what an int8 file will compute, in float, trainable.

Nothing of TensorFlow is imported here: `import keras_attention` registers these
classes, so that quantized models load; tfmot comes in when a layer is built.
"""

import keras
from keras import ops

from keras_attention.mobile import quantizers
from keras_attention.mobile.schemes import SCHEMES

_LAST_VALUE = {
    "class_name": "LastValueQuantizer",
    "config": {
        "num_bits": 8,
        "per_axis": True,
        "symmetric": True,
        "narrow_range": True,
    },
}


@keras.saving.register_keras_serializable(package="keras_attention")
class FakeQuantize(keras.layers.Layer):
    """Rounds a tensor to the grid that an integer kernel would hold it on.

    In training the range follows the data as the quantizer does it (a moving average,
    by default) for `freeze_after` calls and stays from then on. Gradients pass where
    the values are inside of the range.

    Args:
        quantizer: a tfmot `Quantizer`, or its description (`quantizers.serialize`);
            None is 8 bits, asymmetric, moving average.
        freeze_after: number of training calls after which the range stays.
        shared: whether several tensors share this layer, and so the range. A shared
            range only widens in training: the average of two different tensors'
            ranges would cut off the wider one.
        positive: whether what would be rounded to 0 becomes the smallest value above:
            for the input of a logarithm or a reciprocal root, whose values are > 0.

    Input shape: any. Output shape: the same. dtype: float32.

    Reference: Jacob et al. 2018, arXiv 1712.05877, section 3.
    """

    def __init__(
        self,
        quantizer=None,
        freeze_after=500,
        shared=False,
        positive=False,
        **kwargs,
    ):
        super().__init__(dtype="float32", **_without_dtype(kwargs))
        self.description = _describe(quantizer, SCHEMES["int8"].activation)
        self.freeze_after = freeze_after
        self.shared = shared
        self.positive = positive
        self.quantizer = None
        self.range_variables = {}

    def build(self, input_shape):
        """Makes the quantizer and the variables that it needs."""
        self.quantizer = quantizers.deserialize(self.description)
        self.range_variables = quantizers.add_variables(
            self, self.quantizer, input_shape
        )
        if quantizers.has_range(self.range_variables):
            self.steps = self.add_weight(
                name="steps",
                shape=(),
                dtype="int32",
                initializer="zeros",
                trainable=False,
            )

    def call(self, inputs, training=False):
        """Returns `inputs` rounded; in training the range follows them first."""
        variables = quantizers.raw(self.range_variables)
        if training and quantizers.has_range(variables):
            self._follow(inputs, variables)
            training = False
        rounded = self.quantizer(inputs, training, variables)
        bounds = quantizers.bounds(self.quantizer, variables)
        if not self.positive or bounds is None:
            return rounded
        low, high = bounds
        step = (high - low) / (2**self.quantizer.num_bits - 1)
        # The second rounding tells the converter on which grid the maximum is.
        return self.quantizer(ops.maximum(rounded, step), False, variables)

    def _follow(self, inputs, variables):
        """Updates the range once.

        The quantizer's own update reads no more than the smallest and the largest
        value of its input. So it is given these two; a range that must stay is given
        its own bounds, which leave it bitwise as it is.
        """
        low, high = variables["min_var"], variables["max_var"]
        smallest, largest = ops.min(inputs), ops.max(inputs)
        if self.shared:
            smallest, largest = ops.minimum(smallest, low), ops.maximum(largest, high)
        follow = self.steps.value < self.freeze_after
        seen = ops.stack(
            [ops.where(follow, smallest, low), ops.where(follow, largest, high)]
        )
        self.quantizer(seen, True, variables)
        self.steps.assign_add(1)

    def set_range(self, low, high):
        """Sets the range; the layer must be built."""
        quantizers.set_range(self.quantizer, self.range_variables, low, high)

    def get_range(self):
        """Returns (low, high), or None for a quantizer without a range."""
        return quantizers.get_range(self.quantizer, self.range_variables)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "quantizer": self.description,
            "freeze_after": self.freeze_after,
            "shared": self.shared,
            "positive": self.positive,
        }


@keras.saving.register_keras_serializable(package="keras_attention")
class QuantizedKernel(keras.layers.Wrapper):
    """A stock layer whose kernel is fake-quantized each time it is used.

    Args:
        layer: a Keras layer with a `kernel`: a convolution or Dense.
        quantizer: a tfmot `Quantizer` or its description; None is 8 bits, symmetric,
            narrow range, a range per output channel that follows the kernel.

    Shapes are those of the layer. dtype: float32.
    """

    def __init__(self, layer, quantizer=None, **kwargs):
        super().__init__(layer, dtype="float32", **_without_dtype(kwargs))
        self.description = _describe(quantizer, _LAST_VALUE)
        self.quantizer = None
        self.range_variables = {}

    def build(self, input_shape=None):
        """Builds the layer, and the variables that the quantizer needs."""
        if not self.layer.built:
            self.layer.build(input_shape)
        self.quantizer = quantizers.deserialize(self.description)
        self.range_variables = quantizers.add_variables(
            self, self.quantizer, self._quantized_shape()
        )
        self.built = True

    def call(self, inputs, training=False):
        """Calls the layer with its kernel rounded."""
        mapping = [(self.layer.kernel, self.rounded_kernel(training))]
        if getattr(self.layer, "bias", None) is not None:
            # A scope hides the one around it, which may have a value for the bias.
            mapping.append((self.layer.bias, ops.convert_to_tensor(self.layer.bias)))
        with keras.StatelessScope(state_mapping=mapping):
            return self.layer(inputs)

    def rounded_kernel(self, training=False):
        """Returns the kernel as it is used; in training its range follows it first."""
        kernel = self.layer.kernel
        rounded = self.quantizer(
            ops.reshape(kernel, self._quantized_shape()),
            training,
            quantizers.raw(self.range_variables),
        )
        return ops.reshape(rounded, kernel.shape)

    def _quantized_shape(self):
        """Shape in which the quantizer sees the kernel: output channels last.

        tfmot's quantizers know ranks 2 and 4. A depthwise kernel (h, w, C, 1) must be
        seen as (h, w, 1, C), or the converter leaves the convolution in float.
        """
        shape = tuple(self.layer.kernel.shape)
        if isinstance(self.layer, keras.layers.DepthwiseConv2D):
            return (*shape[:2], 1, shape[2] * shape[3])
        if len(shape) in (2, 4):
            return shape
        return (1, -1, *shape[-2:])

    def fit_range(self):
        """Sets the range to that of the kernel as it is now."""
        kernel = keras.ops.convert_to_numpy(self.layer.kernel)
        kernel = kernel.reshape(self._quantized_shape())
        axes = None
        if getattr(self.quantizer, "per_axis", False):
            axes = tuple(range(kernel.ndim - 1))
        self.set_range(kernel.min(axis=axes), kernel.max(axis=axes))

    def set_range(self, low, high):
        """Sets the range: scalars, or one number per output channel."""
        quantizers.set_range(self.quantizer, self.range_variables, low, high)

    def get_range(self):
        """Returns (low, high), or None for a quantizer without a range."""
        return quantizers.get_range(self.quantizer, self.range_variables)

    def compute_output_shape(self, input_shape):
        """Returns the output shape of the layer."""
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"quantizer": self.description}


QUANTIZING = (FakeQuantize, QuantizedKernel)


def _describe(quantizer, default):
    if quantizer is None:
        return default
    if isinstance(quantizer, dict):
        return quantizer
    return quantizers.serialize(quantizer)


def _without_dtype(kwargs):
    return {key: value for key, value in kwargs.items() if key != "dtype"}

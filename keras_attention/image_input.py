"""A model input that knows the range of its pixel values.

Quantization must know which number a raw byte stands for. The builders of this package
state it in the input layer itself, so that it is saved and loaded with the model.
"""

import math

import keras

# Byte b is fed as b / 128 - 1: int8 scale 1/128 and zero point 0, exactly.
BYTE_RANGE = (-1.0, 127 / 128)


@keras.saving.register_keras_serializable(package="keras_attention")
class ImageInput(keras.layers.InputLayer):
    """An `InputLayer` whose config holds `input_range`.

    Args:
        shape: Shape of one image, (H, W, C), or of one clip of video, (T, H, W, C).
        input_range: (lo, hi): the values that stand for byte 0 and byte 255.
        **kwargs: Other arguments of `keras.layers.InputLayer`.

    Raises:
        ValueError: `input_range` is not a pair of finite numbers with lo < hi.
    """

    def __init__(self, shape=None, input_range=BYTE_RANGE, **kwargs):
        self._check(input_range)
        super().__init__(shape=shape, **kwargs)
        self.input_range = tuple(float(bound) for bound in input_range)

    @staticmethod
    def _check(input_range):
        try:
            low, high = (float(bound) for bound in input_range)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                "input_range must be two finite numbers (lo, hi) with lo < hi; "
                f"received {input_range!r}"
            )

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "input_range": self.input_range}


def make_input(shape, input_range=BYTE_RANGE, name=None, batch_size=None):
    """Returns a symbolic image batch whose layer stores `input_range`.

    Args:
        shape: Shape of one image, (H, W, C), or of one clip of video, (T, H, W, C);
            None for a size that may vary.
        input_range: (lo, hi): the values that stand for byte 0 and byte 255.
        name: Name of the input layer.
        batch_size: Fixed batch size, or None.

    Returns:
        A float32 `KerasTensor`, (batch_size, *shape), to be used like that of
        `keras.Input`.

    Raises:
        ValueError: `input_range` is not a pair of finite numbers with lo < hi.
    """
    return ImageInput(shape, input_range, name=name, batch_size=batch_size).output


def input_range_of(model):
    """Returns the input range that a model stores.

    Args:
        model: A functional or Sequential Keras model.

    Returns:
        (lo, hi), or None for a model without `ImageInput`.

    Raises:
        ValueError: The model's inputs store different ranges.
    """
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs)  # its layers list the input
    inputs = [layer for layer in model.layers if isinstance(layer, ImageInput)]
    ranges = {layer.input_range for layer in inputs}
    if len(ranges) > 1:
        raise ValueError(
            "the inputs of the model store different ranges: "
            + ", ".join(f"{layer.name} {layer.input_range}" for layer in inputs)
        )
    return ranges.pop() if ranges else None

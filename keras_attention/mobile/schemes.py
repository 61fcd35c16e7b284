"""The schemes: what kernels and activations are rounded to, and which file that makes.

int16x8 follows TensorFlow Lite's quantization specification: int16 activations are
symmetric, and what sigmoid, tanh and softmax put out stands on steps of 1 / 32768.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How the tensors of a model are rounded.

    Attributes:
        precision: of the file that the model is converted to.
        bits: of an activation; None where activations stay float.
    """

    precision: str
    bits: int | None = None

    @property
    def symmetric(self) -> bool:
        """Whether 0 stands in the middle of every activation's range."""
        return self.bits == 16

    def widened(self, bounds: tuple[float, float]) -> tuple[float, float]:
        """Returns the range of a tensor from that of its values on calibration data.

        16 bits have one to spare: other data may go twice as far.
        """
        low, high = bounds
        return (2 * low, 2 * high) if self.symmetric else bounds

    @property
    def activation(self) -> dict:
        """The quantizer of an activation, as `quantizers.serialize` describes it."""
        return {
            "class_name": "MovingAverageQuantizer",
            "config": {
                "num_bits": self.bits,
                "per_axis": False,
                "symmetric": self.symmetric,
                "narrow_range": False,
            },
        }

    def grid(self, fixed: tuple[float, float], is_input: bool) -> tuple[float, float]:
        """Returns the range of a tensor whose range does not follow the data.

        Args:
            fixed: its int8 range: that of an input, or the one that TFLite demands.
            is_input: whether it is an input's.
        """
        if not self.symmetric:
            return fixed
        steps = 1 << (self.bits - 1)
        if not is_input:  # of sigmoid, tanh or softmax
            return -1.0, (steps - 1) / steps
        high = max(fixed[1], -fixed[0] * (steps - 1) / steps)
        return -high * steps / (steps - 1), high


SCHEMES = {
    "int8": Scheme("int8", 8),
    "int16x8": Scheme("int16x8", 16),
    "weights": Scheme("dynamic"),
}

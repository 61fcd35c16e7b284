"""What can't be counted is refused by the name of its layer."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_attention.models import count_multiply_adds


class Bare(keras.layers.Layer):
    """A layer that can't be copied: its argument is in no config."""

    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def call(self, x):
        return self.dense(x)


def conv_net(height, width):
    x = keras.Input((height, width, 3))
    return keras.Model(x, layers.Conv2D(4, 3)(x), name="net")


class TestRefusals:
    @pytest.mark.parametrize(
        ("model", "shape", "message"),
        [
            (
                lambda: conv_net(None, None),
                None,
                r"static sizes, and 'net' takes \[\(None, None, 3\)\]: give",
            ),
            (
                lambda: layers.Dense(3),
                None,
                "and 'dense.*' takes any: give input_shape",
            ),
            (
                lambda: conv_net(32, 32),
                (64, 64, 3),
                r"fit 'net', which takes \[\(32, 32, 3\)\]; .*\(64, 64",
            ),
            (lambda: conv_net(32, 32), (32, 32), "and fit 'net'"),
            (
                lambda: conv_net(32, 32),
                [(32, 32, 3), (32, 32, 3)],
                "and fit 'net'",
            ),
            (lambda: conv_net(32, 32), 224, "be the shape of .* received 224"),
            (lambda: layers.Dense(3), (0, 4), r"takes any; received \(0, 4\)"),
            (lambda: layers.Dense(3), ((4,), 4), "takes any; received"),
            (
                lambda: layers.LSTM(3, name="rnn"),
                (6, 4),
                r"layer 'rnn' \(LSTM\) can't be counted: .*The error was: ",
            ),
            (
                lambda: Bare(3),
                (6, 4),
                r"layer 'bare.*' \(Bare\) can't be counted: get_config\(\) must make",
            ),
        ],
        ids=[
            *(
                "dynamic",
                "layer",
                "sizes",
                "rank",
                "count",
                "number",
                "zero",
                "mixture",
            ),
            *("recurrent", "config"),
        ],
    )
    def test_values(self, model, shape, message):
        with pytest.raises(ValueError, match=message):
            count_multiply_adds(model(), shape)

    def test_conditions(self):
        x = keras.Input((6, 8))
        kernel = np.ones((8, 8), "float32")
        y = ops.cond(ops.sum(x) > 0, lambda: ops.matmul(x, kernel), lambda: x)
        with pytest.raises(ValueError, match=r"'cond.*' has a loop or a condition"):
            count_multiply_adds(keras.Model(x, y))

    def test_types(self):
        with pytest.raises(TypeError, match="must be a keras.Model or a layer.*'net'"):
            count_multiply_adds("net")

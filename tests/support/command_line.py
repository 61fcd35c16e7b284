"""Runs commands in this process, on a net that takes seconds."""

import keras
from typer.testing import CliRunner

from keras_attention import CoordAttention, cli, image_input


def small_net(
    input_shape=(16, 16, 3),
    classes=2,
    *,
    width=1.0,
    stem_stride=2,
    attention=None,
    drop_path=0.0,
    weights=None,
):
    """A net with a block, small enough to be trained and converted in seconds.

    It takes what the builder takes in whose place it is put.
    """
    inputs = image_input.make_input(input_shape)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(inputs)
    x = CoordAttention(name="attention")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x), name="small_net")


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def fails(*arguments, status=1):
    """Runs a command that must fail; returns its message in one line."""
    result = invoke(*arguments)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.strip().splitlines()
    if status == 1:
        assert len(lines) == 1
        assert lines[0].startswith("Error: ")
    return " ".join(lines)

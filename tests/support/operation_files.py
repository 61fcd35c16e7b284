"""One int8 file with an output for each of many operations, and how exact each is."""

import dataclasses

import keras
import numpy as np
from support.comparing import CLOSE, difference, relative_error
from support.mobile_nets import randomize

from keras_attention import mobile
from keras_attention.mobile import litert


@dataclasses.dataclass
class Measured:
    """What an output of the file is made of, and how far it is off.

    Attributes:
        operators: kinds of the operators behind it.
        file: largest difference of the file from quantized Keras, in steps.
        keras: largest difference of quantized Keras from float Keras, in steps.
        error: relative error of the file against float Keras.
    """

    operators: frozenset[str]
    file: float
    keras: float
    error: float


def applied(functions, inputs):
    """Applies functions, each to its input; layers as new ones.

    Tables of layers are made when they are imported, and Keras' automatic names start
    anew with its session: those of old layers would meet those of new operations.
    """
    return [_new(f)(x) for f, x in zip(functions, inputs, strict=True)]


def _new(function):
    if not isinstance(function, keras.Layer):
        return function
    config = function.get_config()
    del config["name"]
    return type(function).from_config(config)


def measured(functions, data, path):
    """Converts a model of functions of one input and returns {name: Measured}.

    Nothing stands in front of the functions: a convolution would round ties of its own.
    Each has an input of its own: the converter takes functions of one tensor apart by
    what they share.

    Args:
        functions: {name: layer or function of an input}.
        data: inputs, calibrated and compared on.
        path: a folder.
    """
    inputs = [keras.Input(data.shape[1:], name=f"x_{i}") for i in range(len(functions))]
    model = randomize(keras.Model(inputs, applied(functions.values(), inputs)))
    data = [data] * len(functions)
    expected = [np.asarray(y) for y in keras.tree.flatten(model(data))]
    deployed = keras.tree.flatten(mobile.deploy(model)(data))
    for name, y, z in zip(functions, deployed, expected, strict=True):
        assert difference(y, z) <= CLOSE, name
    quantized = mobile.quantize(model, data)
    rounded = keras.tree.flatten(quantized(data))
    report = mobile.convert(quantized, path / "operations.tflite")
    assert set(report.dtypes) <= {"int8", "int32"}
    runner = litert.Runner(report.path)
    assert runner.file.max_rank <= 4 and not runner.file.custom
    found = {}
    for index, (name, actual, z, y) in enumerate(
        zip(functions, rounded, expected, runner(*data), strict=True)
    ):
        tensor, actual = runner.outputs[index], np.asarray(actual)
        y = litert.dequantize(y, tensor)
        found[name] = Measured(
            _operators(runner.file, index),
            np.abs(y - actual).max() / tensor.scale,
            np.abs(actual - z).max() / tensor.scale,
            relative_error(y, z),
        )
    return found


def _operators(file, output):
    """Returns the kinds of the operators that lead to an output."""
    main = file.model.subgraphs[0]
    makers = {int(t): op for op in main.operators for t in op.outputs}
    pending, kinds = [int(main.outputs[output])], set()
    while pending:
        operator = makers.get(pending.pop())
        if operator is not None:
            kinds.add(file.kind(operator))
            pending += map(int, operator.inputs)
    return frozenset(kinds)

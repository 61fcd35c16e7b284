"""int16x8 files: int16 activations between int8 kernels.

TensorFlow's converter makes none of fake quantization: it knows no int16 grid in a
concatenation, at a constant, or behind a sigmoid. So it is given 8-bit grids with the
steps of the 16-bit ones, of which only the limits are too narrow, and the int8 tensors
of its file become int16 ones here. What the operators then compute, and on which grids,
is told in TensorFlow Lite's quantization specification.
"""

import numpy as np

from keras_attention.mobile import litert

# Operators whose kernels round to this grid, whatever the tensor says.
_UNIT_OPERATORS = ("LOGISTIC", "SOFTMAX", "TANH")
_UNIT_SCALE = 2.0**-15
# Operators that keep the grid of their first input.
_KEEPING = (
    *("CONCATENATION", "EXPAND_DIMS", "GATHER", "MAX_POOL_2D", "AVERAGE_POOL_2D"),
    *("MAXIMUM", "MINIMUM", "PAD", "PADV2", "MIRROR_PAD", "REDUCE_MAX", "REDUCE_MIN"),
    *("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SPLIT"),
    *("SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE", "UNPACK", "PACK"),
)
# Index of the kernel among an operator's inputs; the bias stands behind it, and the
# activation that is multiplied by it is the other one of the first inputs.
_KERNELS = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}


def narrow(high: float) -> tuple[float, float]:
    """Returns the 8-bit range with the steps of the 16-bit one up to `high`."""
    step = float(high) / 32767
    return -128 * step, 127 * step


def widen(file: litert.File) -> None:
    """Makes an int8 file on `narrow` grids one of int16 activations, in place."""
    schema, model = litert.schema(), file.model
    (main,) = model.subgraphs
    kernels, biases, units = set(), {}, set()
    for operator in main.operators:
        kind = file.kind(operator)
        inputs = [int(index) for index in operator.inputs]
        if kind in _KERNELS:
            x, kernel, bias = (
                inputs[at] if at < len(inputs) else -1 for at in _KERNELS[kind]
            )
            if _constant(model, main.tensors[kernel]) is not None:
                kernels.add(kernel)
            if bias >= 0:
                biases[bias] = (x, kernel)
        elif kind in _UNIT_OPERATORS or kind in _KEEPING and units & set(inputs):
            units |= {int(index) for index in operator.outputs}
        elif kind in ("ADD", "SUB"):
            _allow_any_scale(schema, operator, kind)
    for index, tensor in enumerate(main.tensors):
        if tensor.type == schema.TensorType.INT8 and index not in kernels:
            _widen_activation(model, tensor, index in units)
    for bias, (x, kernel) in biases.items():
        _widen_bias(model, *(main.tensors[index] for index in (bias, x, kernel)))


def _widen_activation(model, tensor, is_unit):
    grid = tensor.quantization
    values = _constant(model, tensor)
    if values is not None:
        # The numbers and the scale stay: only the zero point goes.
        values = values.view("int8").astype("int16") - np.int16(grid.zeroPoint[0])
        _set_constant(model, tensor, values.astype("<i2"))
    elif is_unit:
        grid.scale = np.array([_UNIT_SCALE], "float32")
    elif grid.zeroPoint[0] != 0:
        raise ValueError(
            f"Tensor '{tensor.name.decode()}' stands on a grid around "
            f"{grid.zeroPoint[0]}, of which no int16 one is known."
        )
    grid.zeroPoint = np.zeros(1, "int64")
    tensor.type = litert.schema().TensorType.INT16


def _widen_bias(model, bias, x, kernel):
    """Makes a bias int64, as int16 kernels want it, in steps of input times kernel."""
    values = _constant(model, bias)
    if values is None or bias.type != litert.schema().TensorType.INT32:
        return
    steps = x.quantization.scale[0].astype("float64") * kernel.quantization.scale
    # An input that a sigmoid makes had steps of 1 / 256 until now.
    values = np.round(values.view("<i4") * (bias.quantization.scale / steps))
    _set_constant(model, bias, values.astype("<i8"))
    bias.quantization.scale = steps.astype("float32")
    bias.type = litert.schema().TensorType.INT64


def _allow_any_scale(schema, operator, kind):
    """Says that scales are no powers of two, which is what int16 sums are for else."""
    if operator.builtinOptions is None:
        name = "AddOptions" if kind == "ADD" else "SubOptions"
        operator.builtinOptions = getattr(schema, f"{name}T")()
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
    operator.builtinOptions.potScaleInt16 = False


def _constant(model, tensor):
    """Returns the bytes of a constant tensor, or None."""
    data = model.buffers[tensor.buffer].data
    return None if data is None or not len(data) else np.asarray(data, "uint8")


def _set_constant(model, tensor, values):
    # Tensors may share a buffer.
    buffer = litert.schema().BufferT()
    buffer.data = np.frombuffer(values.tobytes(), "uint8")
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1

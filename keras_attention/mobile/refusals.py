"""Why operations are refused, and what to use instead of them."""

_RECURRENT = (
    "its recurrence carries a state whose rounding errors add up; use convolutions "
    "over the sequence (Conv1D, padding='causal', dilation_rate)"
)
_VIDEO = "it works on tensors of 5 axes, for which TFLite has no integer kernels"
_JUMPS = (
    "it jumps, so that one step of rounding changes its result by a whole jump; use a "
    "continuous function ({})"
)
_FOREIGN = "it is no code of Keras, and can't be opened"
_STRINGS = "it makes integers of its input; do that in the input pipeline"

_REASONS = {
    "AdaptiveAveragePooling3D": _VIDEO,
    "AdaptiveMaxPooling3D": _VIDEO,
    "AdditiveAttention": "it sums over tensors of 4 axes; use Attention",
    "Attention": "of attention without masks and with score_mode='dot' alone an int8 "
    "form is known",
    "Argmax": "its result is an integer; take it of the file's output",
    "Argmin": "its result is an integer; take it of the file's output",
    "AveragePooling3D": _VIDEO,
    "AutoContrast": "its divisor may be 0; do it in the input pipeline",
    "Bidirectional": _RECURRENT,
    "BroadcastTo": "it writes out what arithmetic broadcasts by itself; leave it out",
    "CategoryEncoding": _STRINGS,
    "Clip": "its bounds must be two numbers, low < high",
    "ContrastLimitedAdaptiveHistogramEqualization": "it counts; do it in the input "
    "pipeline",
    "Conv2DTranspose": "TFLite's TRANSPOSE_CONV has no dilation; use up-sampling and a "
    "dilated convolution",
    "Conv3D": _VIDEO,
    "Conv3DTranspose": _VIDEO,
    "ConvLSTM1D": _RECURRENT,
    "ConvLSTM2D": _RECURRENT,
    "ConvLSTM3D": _RECURRENT,
    "Cropping3D": _VIDEO,
    "Cumsum": "its sums have no integer kernel; use a convolution",
    "Discretization": _STRINGS,
    "DotProductAttention": "of attention without a bias, a mask or a causal order "
    "alone an int8 form is known",
    "Einsum": "it must be written as ops.matmul, with transposes",
    "EinsumDense": "it contracts other than the last axes of its input; use Dense and "
    "Reshape",
    "Embedding": "its input is an integer, which an int8 file does not take; look the "
    "vectors up before the network",
    "Erf": "it has no integer kernel; use gelu or tanh",
    "FlaxLayer": _FOREIGN,
    "Floor": _JUMPS.format("a linear one"),
    "GRU": _RECURRENT,
    "GlobalAveragePooling3D": _VIDEO,
    "GlobalMaxPooling3D": _VIDEO,
    "Greater": _JUMPS.format("relu, sigmoid"),
    "GroupedQueryAttention": "its heads share keys; use MultiHeadAttention",
    "HardShrink": _JUMPS.format("soft_shrink"),
    "HashedCrossing": _STRINGS,
    "Hashing": _STRINGS,
    "IntegerLookup": _STRINGS,
    "JaxLayer": _FOREIGN,
    "LSTM": _RECURRENT,
    "LayerNormalization": "its axes must be the last ones, without rms_scaling",
    "Less": _JUMPS.format("relu, sigmoid"),
    "MaxNumBoundingBoxes": _STRINGS,
    "MaxPooling3D": _VIDEO,
    "MelSpectrogram": "it needs complex numbers; do it in the input pipeline",
    "MultiHeadAttention": "of attention without a mask or a causal order alone an int8 "
    "form is known",
    "Masking": "a mask is boolean; pad the input to a fixed length instead",
    "PReLU": "it has a slope for each position; give it shared_axes=[1, 2]",
    "Power": "its exponent must be 1, 2, 3, 0.5, -0.5 or -1",
    "RMSNormalization": "its axes must be the last ones",
    "RNN": _RECURRENT,
    "ReLU": _JUMPS.format("threshold=0"),
    "Resize": "TFLite resizes by 'nearest' and 'bilinear' only, without antialias and "
    "without keeping the aspect ratio",
    "Resizing": "TFLite resizes by 'nearest' and 'bilinear' only, without antialias "
    "and without keeping the aspect ratio",
    "ReversibleEmbedding": "its input is an integer, which an int8 file does not take",
    "Round": _JUMPS.format("a linear one"),
    "Sign": _JUMPS.format("tanh, hard_tanh"),
    "STFTSpectrogram": "it needs complex numbers; do it in the input pipeline",
    "SimpleRNN": _RECURRENT,
    "Sort": "it has no integer kernel",
    "Sparsemax": "it sorts; use softmax",
    "StackedRNNCells": _RECURRENT,
    "StringLookup": _STRINGS,
    "TFSMLayer": _FOREIGN,
    "TextVectorization": _STRINGS,
    "Threshold": _JUMPS.format("relu, soft_shrink"),
    "TopK": "it sorts; take it of the file's output",
    "TorchModuleWrapper": _FOREIGN,
    "UpSampling3D": _VIDEO,
    "ZeroPadding3D": _VIDEO,
    "Where": "its condition is boolean; use relu, minimum and maximum",
}


def reason(operation: str) -> str:
    """Returns ": <why, and what instead>" for an operation, "" where none is noted.

    Args:
        operation: as `rules.operation_name` names it.
    """
    known = _REASONS.get(operation.split("(")[0])
    return f": {known}" if known else ""

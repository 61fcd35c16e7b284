"""What int8 can't do well is refused: by layer, operation, reason and remedy."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_attention import mobile
from keras_attention.mobile import equivalents, flattening, opening, refusals, rules

MAP, SEQUENCE, VECTOR = (6, 4, 8), (6, 8), (8,)
HOW = (
    r"Replace it by operations that can be \(docs/int8.md\), give the layer that "
    r"contains it a method deploy\(self\) that does, or, if TFLite has an int8 kernel "
    r"for it, give it a rule with mobile.register_rule\.$"
)
RECURRENT = "its recurrence carries a state.*Conv1D, padding='causal'"
INTEGERS = "it makes integers of its input; do that in the input pipeline"
JUMPS = "it jumps, so that one step of rounding changes its result by a whole jump"
RESIZING = "TFLite resizes by 'nearest' and 'bilinear' only"
HEADS = "of attention without a bias, a mask or a causal order"

LAYERS = {
    "LSTM": (layers.LSTM(4), SEQUENCE, RECURRENT),
    "GRU": (layers.GRU(4), SEQUENCE, RECURRENT),
    "SimpleRNN": (layers.SimpleRNN(4), SEQUENCE, RECURRENT),
    "Bidirectional": (layers.Bidirectional(layers.LSTM(4)), SEQUENCE, RECURRENT),
    "ConvLSTM1D": (layers.ConvLSTM1D(4, 3), MAP, RECURRENT),
    "Masking": (layers.Masking(), SEQUENCE, "a mask is boolean"),
    "Embedding": (layers.Embedding(9, 4), VECTOR, "its input is an integer"),
    "Discretization": (layers.Discretization([0.0, 1.0]), VECTOR, INTEGERS),
    "AutoContrast": (layers.AutoContrast(), (6, 4, 3), "its divisor may be 0"),
    "PReLU": (layers.PReLU(), MAP, r"a slope for each position.*shared_axes=\[1, 2\]"),
    "ReLU": (layers.ReLU(threshold=0.5), MAP, JUMPS),
    "Conv2DTranspose": (
        layers.Conv2DTranspose(4, 3, dilation_rate=2),
        MAP,
        "TFLite's TRANSPOSE_CONV has no dilation",
    ),
    "EinsumDense": (
        layers.EinsumDense("abc,bd->adc", (5, 8)),
        SEQUENCE,
        "it contracts other than the last axes of its input; use Dense",
    ),
    "LayerNormalization": (layers.LayerNormalization(1), MAP, "must be the last ones"),
    "RMSNormalization": (layers.RMSNormalization(2), MAP, "must be the last ones"),
    "Resize": (layers.UpSampling2D(2, interpolation="bicubic"), MAP, RESIZING),
    "Resizing": (layers.Resizing(9, 9, crop_to_aspect_ratio=True), MAP, RESIZING),
    "Sparsemax": (layers.Activation("sparsemax"), MAP, "it sorts; use softmax"),
    "HardShrink": (layers.Activation("hard_shrink"), MAP, JUMPS),
    "AdditiveAttention": (
        lambda x: layers.AdditiveAttention(name="odd")([x, x]),
        SEQUENCE,
        "use Attention",
    ),
    "MultiHeadAttention": (
        lambda x: layers.MultiHeadAttention(2, 4, name="odd")(
            x, x, use_causal_mask=True
        ),
        SEQUENCE,
        "of attention without a mask or a causal order",
    ),
}
OPERATIONS = {
    "Sign": (ops.sign, JUMPS),
    "Round": (ops.round, JUMPS),
    "Floor": (ops.floor, JUMPS),
    "Greater": (lambda x: ops.where(x > 0, x, x * 2.0), JUMPS),
    "Threshold": (lambda x: ops.threshold(x, 0.1, 0.0), JUMPS),
    "Erf": (ops.erf, "it has no integer kernel; use gelu or tanh"),
    "Cumsum": (lambda x: ops.cumsum(x, 1), "use a convolution"),
    "Argmax": (lambda x: ops.argmax(x, -1), "its result is an integer"),
    "TopK": (lambda x: ops.top_k(x, 2)[0], "it sorts"),
    "Power": (lambda x: x**3.5, "its exponent must be 1, 2, 3, 0.5, -0.5 or -1"),
    "Einsum": (lambda x: ops.einsum("nhwc,nhvc->nhwv", x, x), "as ops.matmul"),
    "DotProductAttention": (
        lambda x: ops.dot_product_attention(x, x, x, is_causal=True),
        HEADS,
    ),
    "Sin": (ops.sin, ""),
}


def quantized(function, shape):
    x = keras.Input(shape, name="x")
    data = np.random.default_rng(0).uniform(0.1, 0.9, (2, *shape)).astype("float32")
    return mobile.quantize(keras.Model(x, function(x)), data)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    layer, shape, reason = LAYERS[name]
    message = (
        rf"^Layer '\w+': operation {name}\b.* can't be quantized to int8.*{reason}"
    )
    with pytest.raises(ValueError, match=f"(?s){message}.*{HOW}"):
        quantized(layer, shape)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    function, reason = OPERATIONS[name]
    message = rf"^Layer '\w+': operation {name} can't be quantized to int8.*{reason}"
    with pytest.raises(ValueError, match=f"{message}.*{HOW}"):
        quantized(function, MAP)


def test_what_may_be_negative_divides_nothing():
    message = r"Layer 'add(_\d+)?' gives values down to -0.8\d* .* divided.*positive"
    with pytest.raises(ValueError, match=message):
        quantized(lambda x: x / (x * 0.001 - x + 0.001), MAP)


HANDLED = {
    # opened by `flattening`
    "Activation": "its function",
    "Attention": "its parts",
    "Average": "a sum and a product",
    "Identity": "nothing",
    "Lambda": "its function",
    "MultiHeadAttention": "Dense layers and products",
    "Normalization": "a DepthwiseConv2D(1)",
    "Pipeline": "its layers",
    "Rescaling": "a DepthwiseConv2D(1)",
    "SpectralNormalization": "the layer inside",
    "TimeDistributed": "the layer inside",
    # folded
    "BatchNormalization": "a convolution's kernel, or a DepthwiseConv2D(1)",
}
NO_LAYERS = {"GRUCell", "InputLayer", "InputSpec", "LSTMCell", "Layer", "SimpleRNNCell"}
NO_LAYERS |= {"StackedRNNCells", "Wrapper"}


def test_every_layer_of_keras_is_known():
    """A new layer in Keras: decide what becomes of it."""
    unknown = []
    for name in dir(layers):
        cls = getattr(layers, name)
        if not isinstance(cls, type) or cls.__name__ != name or name in NO_LAYERS:
            continue
        known = rules._SYNONYMS.get(name, name)
        does = known in rules.RULES or known in equivalents.EQUIVALENTS
        gone = issubclass(cls, flattening._TRAINING_ONLY)
        gone = gone or flattening._AUGMENTATION.fullmatch(name)
        if not (does or gone or name in HANDLED or name in opening._OPENED):
            if not refusals.reason(name):
                unknown.append(name)
    assert unknown == []


@pytest.mark.parametrize("name", refusals._REASONS)
def test_a_reason_is_half_a_sentence(name):
    assert re.fullmatch(r": [a-zT].*[^.]", refusals.reason(f"{name}(argument=1)"))

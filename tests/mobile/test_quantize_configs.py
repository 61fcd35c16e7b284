"""tfmot's QuantizeConfig as an override."""

import pytest
from support.quantizing import DATA, chosen

from keras_attention.mobile import quantize, quantizers


def config(weights=(), outputs=(), activations=()):
    """Returns a user's config: functions of a layer, or nothing."""
    quantizers.tfmot_quantizers()
    import tensorflow_model_optimization as tfmot

    class Config(tfmot.quantization.keras.QuantizeConfig):
        def get_weights_and_quantizers(self, layer):
            return [(getattr(layer, name), quantizer) for name, quantizer in weights]

        def get_activations_and_quantizers(self, layer):
            return [(layer.activation, quantizer) for quantizer in activations]

        def get_output_quantizers(self, layer):
            return list(outputs)

        def set_quantize_weights(self, layer, quantize_weights):
            raise AssertionError("layers are not changed")

        def set_quantize_activations(self, layer, quantize_activations):
            raise AssertionError("layers are not changed")

        def get_config(self):
            return {}

    return Config()


def kernel_quantizer(bits):
    return quantizers.tfmot_quantizers().LastValueQuantizer(bits, True, True, True)


def output_quantizer(bits, per_axis=False):
    kind = quantizers.tfmot_quantizers().AllValuesQuantizer
    return kind(bits, per_axis, False, False)


@pytest.fixture
def default(quantized):
    return chosen(quantized)


def changed(net, default, overrides):
    found = chosen(quantize(net, DATA, overrides=overrides))
    assert found.keys() == default.keys()
    return {name: what for name, what in found.items() if what != default[name]}


def test_kernel_and_output(net, default):
    given = config([("kernel", kernel_quantizer(4))], [output_quantizer(6)])
    assert changed(net, default, {"conv": given}) == {
        "conv": ("LastValueQuantizer", 4),
        # A ReLU behind it is part of the convolution: there, its output is rounded.
        "relu_quant": ("AllValuesQuantizer", 6),
    }


def test_of_every_layer_with_a_kernel(net, default):
    given = config([("kernel", kernel_quantizer(5))])
    found = changed(net, default, {".*": given})
    assert found == {
        name: ("LastValueQuantizer", 5) for name in ("conv", "depthwise", "classifier")
    }


def test_an_activation_stands_for_the_output(net, default):
    given = config(activations=[output_quantizer(6)])
    assert changed(net, default, {"classifier": given}) == {
        "classifier_quant": ("AllValuesQuantizer", 6)
    }


def test_where_it_has_none_the_default_stays(net, default):
    assert changed(net, default, {".*": config()}) == {}


def test_the_last_override_counts(net, default):
    overrides = {
        "conv": config([("kernel", kernel_quantizer(4))]),
        "con.": kernel_quantizer(3),
    }
    found = changed(net, default, overrides)
    assert found == {"conv": ("LastValueQuantizer", 3)}


@pytest.mark.parametrize(
    ("pattern", "given", "error", "message"),
    [
        ("relu", {}, ValueError, r"\['relu'\] matches no layer with a kernel"),
        ("no", {}, ValueError, r"\['no'\] matches no layer with a kernel"),
        (
            "conv",
            {"weights": [("bias", "q")]},
            ValueError,
            "layer 'conv' that is not its kernel",
        ),
        ("conv", {"weights": [("kernel", 8)]}, TypeError, "must be a tfmot.*Quantizer"),
        ("conv", {"outputs": ["axis"]}, ValueError, "has per_axis=True"),
    ],
)
def test_mistakes(net, pattern, given, error, message):
    made = {"q": lambda: kernel_quantizer(8), "axis": lambda: output_quantizer(8, True)}
    given = {
        key: [
            (item[0], made.get(item[1], lambda item=item: item[1])())
            if isinstance(item, tuple)
            else made[item]()
            for item in items
        ]
        for key, items in given.items()
    }
    with pytest.raises(error, match=message):
        quantize(net, DATA, overrides={pattern: config(**given)})

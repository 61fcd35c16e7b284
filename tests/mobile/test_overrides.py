"""Overrides of `mobile.quantize`: other quantizers by layer name."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from support.mobile_nets import (
    network,
    randomize,
)
from support.quantizing import DATA, chosen, outputs, span

from keras_attention.mobile import quantize, quantizers


def last_value(bits=8, per_axis=False, symmetric=True, narrow=True):
    return quantizers.tfmot_quantizers().LastValueQuantizer(
        bits, per_axis, symmetric, narrow
    )


def test_overrides(net, quantized):
    tfmot = quantizers.tfmot_quantizers()
    all_values = tfmot.AllValuesQuantizer(6, False, False, False)
    found = chosen(
        quantize(
            net,
            DATA,
            overrides={
                ".*": {"kernel": last_value(4, True)},
                "depth.*": {"kernel": last_value(5, True), "output": all_values},
                "classifier": last_value(3),  # alone: the kernel
                "image": {"output": all_values},
            },
        )
    )
    default = chosen(quantized)
    assert found == default | {
        "conv": ("LastValueQuantizer", 4),
        "depthwise": ("LastValueQuantizer", 5),
        "classifier": ("LastValueQuantizer", 3),
        "depthwise_quant": ("AllValuesQuantizer", 6),
        "image_quant": ("AllValuesQuantizer", 6),
    }
    assert set(default.values()) == {
        ("LastValueQuantizer", 8),
        ("MovingAverageQuantizer", 8),
    }


def test_an_overridden_range_is_calibrated_too(net, quantized):
    kind = quantizers.tfmot_quantizers().AllValuesQuantizer
    override = {"relu|classifier": {"output": kind(8, False, True, False)}}
    model = quantize(net, DATA, overrides=override)
    _, high = span(quantized, "relu_quant")
    assert span(model, "relu_quant") == pytest.approx((-high * 128 / 127, high))
    low, high = span(model, "classifier_quant")
    assert -low * 127 / 128 == pytest.approx(high, rel=1e-6)  # symmetric


def test_the_last_pattern_that_matches_counts(net):
    for patterns, bits in [(("conv", ".*"), 5), ((".*", "conv"), 4)]:
        order = {p: last_value(4 if p == "conv" else 5, True) for p in patterns}
        assert chosen(quantize(net, DATA, overrides=order))["conv"][1] == bits


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_shared_range_goes_by_the_names_of_all_that_share_it(name):
    inputs = keras.Input((8, 8, 3), name="image")
    a, b = (layers.Conv2D(3, 3, name=n)(inputs) for n in "ab")
    model = randomize(keras.Model(inputs, layers.Concatenate(name="cat")([a, b])))
    override = quantizers.tfmot_quantizers().AllValuesQuantizer(8, False, False, False)
    quantized = quantize(model, DATA, overrides={name: {"output": override}})
    assert chosen(quantized)["a_quant"][0] == "AllValuesQuantizer"


def test_layers_of_a_block_go_by_their_deployed_names():
    model, data = network("twice")
    quantized = quantize(
        model, data, overrides={"attention_expand_.": last_value(4, True)}
    )
    bits = {name: bits for name, (_, bits) in chosen(quantized).items() if bits != 8}
    assert bits == {"attention_expand_h": 4, "attention_expand_w": 4}


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"conv": 4}, TypeError, r"overrides\['conv'\]\['kernel'\] must be a tfmot.*4"),
        (
            {"conv": {"output": "int8"}},
            TypeError,
            r"\['output'\] must be a tfmot.*'int8'",
        ),
        (
            {"conv": {"input": last_value()}},
            ValueError,
            r"overrides\['conv'\]\['input'\]: the target must be one of .*'kernel'",
        ),
        ({"convolution": last_value()}, ValueError, "matches no kernel of the model"),
        ({"con": last_value()}, ValueError, "matches no kernel"),  # whole names
        ({"relu": last_value()}, ValueError, "matches no kernel"),
        # A ReLU behind it is part of the convolution.
        (
            {"conv": {"output": last_value()}},
            ValueError,
            "matches no output of the mod",
        ),
        (
            {"relu": {"output": last_value(8, True)}},
            ValueError,
            "has per_axis=True, but",
        ),
    ],
)
def test_bad_overrides(net, overrides, error, message):
    with pytest.raises(error, match=message):
        quantize(net, DATA, overrides=overrides)


def test_a_fixed_range_is_not_overridden(net):
    with pytest.raises(ValueError, match=r"\['image'\]\['output'\] matches no output"):
        quantize(
            net,
            DATA,
            input_range=(-1, 127 / 128),
            overrides={"image": {"output": last_value()}},
        )


def own_quantizer(registered):
    """Returns a user's quantizer class: ternary kernels with a learned threshold."""

    class Ternary(quantizers.tfmot_quantizers().Quantizer):
        def __init__(self, part):
            self.part = part

        def build(self, tensor_shape, name, layer):
            threshold = layer.add_weight(
                f"{name}_threshold",
                initializer=tf.keras.initializers.Constant(0.7),
                trainable=False,
            )
            return {"threshold": threshold}

        def __call__(self, inputs, training, weights, **kwargs):
            limit = tf.reduce_mean(tf.abs(inputs)) * self.part
            if training:
                weights["threshold"].assign(limit)
            limit = weights["threshold"]
            signs = tf.where(tf.abs(inputs) > limit, tf.sign(inputs), 0.0)
            return inputs + tf.stop_gradient(signs - inputs)

        def get_config(self):
            return {"part": self.part}

    if registered:
        register = keras.saving.register_keras_serializable(package="tests")
        return register(Ternary)
    return Ternary


def test_a_users_own_quantizer(net, tmp_path):
    own = own_quantizer(registered=True)
    model = quantize(
        net, DATA, overrides={"conv": own(0.7), "pool": {"output": own(0.2)}}
    )
    conv, pool = model.get_layer("conv"), model.get_layer("pool_quant")
    assert (conv.quantizer.part, pool.quantizer.part) == (0.7, 0.2)
    assert conv.get_range() is None and pool.get_range() is None
    (threshold,) = [w for w in conv.weights if "threshold" in w.path]
    assert float(threshold) == pytest.approx(0.7) and not threshold.trainable
    pooled = keras.Model(model.input, pool.output)(DATA)
    assert set(np.unique(pooled)) <= {-1.0, 0.0, 1.0}
    before = ops.convert_to_numpy(conv.layer.kernel)
    model.compile("sgd", keras.losses.MeanSquaredError())
    model.fit(DATA, np.ones((8, 5)), verbose=0)
    limit = 0.7 * np.abs(before).mean()
    assert float(threshold) == pytest.approx(limit, rel=1e-5)  # from before the step
    assert (ops.convert_to_numpy(conv.layer.kernel) != before).any()

    model.save(tmp_path / "own.keras")
    loaded = keras.saving.load_model(tmp_path / "own.keras")
    assert type(loaded.get_layer("conv").quantizer) is own
    np.testing.assert_array_equal(outputs(loaded)[0], outputs(model)[0])


def test_an_unregistered_quantizer_is_named_when_it_is_loaded(net, tmp_path):
    own = own_quantizer(registered=False)
    with pytest.raises(ValueError, match="Ternary.*register_keras_serializable"):
        quantize(net, DATA, overrides={"conv": own(0.7)})

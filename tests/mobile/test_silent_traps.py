"""Traps that a model walked into silently, each found by a reader of the code."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_attention import image_input, mobile, models
from keras_attention.mobile import litert, quantizers
from keras_attention.mobile.fake_quant import FakeQuantize

RNG = np.random.default_rng(0)


def features(*shape):
    return RNG.standard_normal(shape).astype("float32")


def relative(got, wanted):
    return float(ops.max(ops.abs(got - wanted)) / ops.max(ops.abs(wanted)))


def test_constraints_and_regularizers_of_a_kernel_do_not_outlive_its_folding():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(
        8,
        3,
        kernel_constraint=keras.constraints.MaxNorm(1.0, axis=(0, 1, 2)),
        kernel_regularizer="l2",
        name="conv",
    )(inputs)
    norm = layers.BatchNormalization(name="norm")
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(norm(x)))
    model = keras.Model(inputs, layers.Dense(4)(x))
    norm.moving_variance.assign(np.full(8, 0.01))
    x = features(4, 8, 8, 3)
    quantized = mobile.quantize(model, x)
    assert quantized.losses == []
    before = quantized(x)
    quantized.compile(keras.optimizers.SGD(0.0), "mse")
    quantized.fit(x, np.zeros((4, 4)), verbose=0)
    # Ranges of activations may follow by a thousandth; MaxNorm moved this by 20 %.
    assert relative(quantized(x), before) < 0.02


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_the_range_of_a_backbone_is_that_of_the_model_around_it(kind):
    backbone = models.MobileNetV2((32, 32, 3), width=0.35, include_top=False)
    tail = [layers.GlobalAveragePooling2D(), layers.Dense(4)]
    if kind == "sequential":
        model = keras.Sequential([backbone, *tail])
    else:
        inputs = keras.Input((32, 32, 3), name="photo")
        model = keras.Model(inputs, tail[1](tail[0](backbone(inputs))))
    assert image_input.input_range_of(mobile.deploy(model)) == (-1, 127 / 128)
    # Of narrow data, which calibration alone would take for the whole range.
    data = RNG.integers(60, 190, (2, 32, 32, 3)) / 128 - 1
    quantized = mobile.quantize(model, data.astype("float32"))
    first = next(x for x in quantized.layers if isinstance(x, FakeQuantize))
    assert first.get_range() == (-1, 127 / 128)


class Scaled(layers.Layer):
    """Forgets its factor in get_config."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.conv = layers.Conv2D(4, 1, name="conv")

    def call(self, x):
        return self.conv(x) * self.factor

    def get_config(self):
        return super().get_config()


def test_a_composite_layer_whose_copy_computes_something_else():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, Scaled(3.0, name="scaled")(inputs))
    with pytest.raises(ValueError, match=r"'scaled' \(Scaled\).*computes something"):
        mobile.deploy(model)
    whole = keras.Model(inputs, Scaled(1.0)(inputs))
    x = features(2, 4, 4, 3)
    assert relative(mobile.deploy(whole)(x), whole(x)) < 1e-6


def test_a_call_in_training_mode_is_refused():
    inputs = keras.Input((4, 4, 3))
    x = layers.BatchNormalization(name="norm")(inputs, training=True)
    with pytest.raises(ValueError, match="'norm' is called with training=True"):
        mobile.deploy(keras.Model(inputs, x))


def test_lambda_layers_are_opened():
    inputs = keras.Input((4, 4, 3))
    x = layers.Lambda(lambda x: ops.relu6(x + 0.5), name="clip")(inputs)
    model = keras.Model(inputs, layers.Conv2D(2, 1)(x))
    x = features(2, 4, 4, 3)
    deployed = mobile.deploy(model)
    assert not any(isinstance(layer, layers.Lambda) for layer in deployed.layers)
    assert relative(deployed(x), model(x)) < 1e-6


def conv_and_dense():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="fc")(layers.Flatten()(x)))


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("conv", {"per_axis": True, "symmetric": False}, "'conv'.*symmetric=False"),
        ("conv", {"per_axis": False, "symmetric": False}, "'conv'.*symmetric=False"),
        ("fc", {"per_axis": True, "symmetric": True}, "'fc'.*per_axis=True"),
    ],
)
def test_kernel_quantizers_that_no_file_can_have(tmp_path, layer, options, message):
    last_value = quantizers.tfmot_quantizers().LastValueQuantizer
    quantizer = last_value(8, narrow_range=options["symmetric"], **options)
    quantized = mobile.quantize(
        conv_and_dense(),
        features(4, 4, 4, 3),
        overrides={layer: {"kernel": quantizer}},
    )
    with pytest.raises(ValueError, match=message):
        mobile.convert(quantized, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_shared_ranges_freeze_after_as_many_steps_as_the_others():
    inputs = keras.Input((4, 4, 3))
    branches = [layers.Conv2D(2, 1, name=f"c{i}")(inputs) for i in range(4)]
    x = layers.GlobalAveragePooling2D()(layers.Concatenate()(branches))
    model = keras.Model(inputs, layers.Dense(2)(x))
    quantized = mobile.quantize(model, features(4, 4, 4, 3), freeze_after=2)
    quantized.compile(keras.optimizers.SGD(0.0), "mse")
    following = [x for x in quantized.layers if hasattr(x, "steps")]
    assert sum(layer.shared for layer in following) == 1

    def widths():
        # Data that grow, so that every range that still follows moves.
        grown = 4.0 ** (widths.calls + 1) * features(4, 4, 4, 3)
        widths.calls += 1
        quantized.fit(grown, np.zeros((4, 2)), verbose=0)
        return np.array([np.ptp(layer.get_range()) for layer in following])

    widths.calls = 0
    first, second, third, fourth = (widths() for _ in range(4))
    assert (second > first).all()
    np.testing.assert_array_equal(third, second)
    np.testing.assert_array_equal(fourth, second)


def steps_of_the_file(model, x, path):
    """Returns how many steps of the output quantized Keras and the file differ."""
    quantized = mobile.quantize(model, x)
    mobile.convert(quantized, path)
    runner = litert.Runner(path)
    (tensor,) = runner.outputs
    y = litert.dequantize(runner(x)[0], tensor)
    # Keras itself falls into the trap of sums at a batch of 1.
    return np.abs(y - ops.convert_to_numpy(quantized(x))).max() / tensor.scale


@pytest.mark.parametrize("kind", [layers.Conv2D, layers.DepthwiseConv2D])
def test_a_bias_of_equal_numbers_is_quantized_channel_by_channel(kind, tmp_path):
    inputs = keras.Input((6, 5, 6))
    arguments = (6, 3) if kind is layers.Conv2D else (3,)
    conv = kind(*arguments, bias_initializer="ones", name="conv")
    model = keras.Model(inputs, conv(inputs))
    kernel, bias = conv.get_weights()
    scales = np.linspace(0.1, 1, 6)  # of the output channels
    scales = scales[:, None] if kind is layers.DepthwiseConv2D else scales
    conv.set_weights([kernel * scales, bias])
    x = features(8, 6, 5, 6)
    assert steps_of_the_file(model, x, tmp_path / "net.tflite") < 1.1


def test_a_sum_with_one_value_per_channel_on_a_map_of_as_many_rows(tmp_path):
    inputs = keras.Input((8, 5, 8))
    one = layers.Conv2D(1, 1)(inputs)  # (8, 5, 1)
    each = layers.Conv2D(8, 1)(ops.mean(inputs, axis=(1, 2), keepdims=True))
    model = keras.Model(inputs, one + each)  # (8, 5, 8)
    assert steps_of_the_file(model, features(8, 8, 5, 8), tmp_path / "a.tflite") < 1.1
    layer = keras.Model(inputs, layers.Add()([one, each]))
    assert steps_of_the_file(layer, features(8, 8, 5, 8), tmp_path / "b.tflite") < 1.1

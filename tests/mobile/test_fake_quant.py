"""The layers that round: their numbers, what moves their ranges and what does not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from support.mobile_nets import images, scaled, small

from keras_attention.mobile import fake_quant, quantize
from keras_attention.mobile.fake_quant import FakeQuantize, QuantizedKernel
from keras_attention.mobile.quantizers import tfmot_quantizers

KEPT = np.float32(0.999)  # tfmot's decay of a moving average


def activation(low, high, quantizer=None, **arguments):
    """Returns a built FakeQuantize with a range."""
    layer = FakeQuantize(quantizer, **arguments)
    layer.build((None, 4))
    layer.set_range(low, high)
    return layer


def span(layer):
    return tuple(np.float32(bound) for bound in layer.get_range())


def batch(low, high):
    return np.array([[low, 0.1, 0.2, high]], "float32")


def rounded(x, low, high, levels=255):
    """An 8-bit grid restated: the step nearest to 0 is moved to 0."""
    step = (np.float64(high) - low) / levels
    zero = np.round(-low / step)
    return (np.clip(np.round(x / step + zero), 0, levels) - zero) * step


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.1), (0.0, 6.0), (-5.0, 0.0)])
def test_rounding(low, high):
    x = np.random.default_rng(0).uniform(-6, 7, (50, 4)).astype("float32")
    result = activation(low, high)(x)
    # float32 rounds a tie of the grid to the other side now and then: none here.
    np.testing.assert_allclose(result, rounded(x, low, high), atol=2e-6)


def test_a_range_holds_0():
    assert span(activation(1.0, 2.0)) == (0.0, 2.0)
    assert span(activation(-3.0, -1.0)) == (-3.0, 0.0)


def test_moving_average():
    layer = activation(-1.0, 2.0)
    low, high = np.float32(-1), np.float32(2)
    for new_low, new_high in [(-3.0, 1.0), (-0.5, 4.0), (0.05, 0.3)]:
        layer(batch(new_low, new_high), training=True)
        # The range that the moving average follows holds 0.
        low -= (low - np.float32(min(new_low, 0))) * (1 - KEPT)
        high -= (high - np.float32(max(new_high, 0))) * (1 - KEPT)
        np.testing.assert_allclose(span(layer), (low, high), rtol=1e-6)
    assert int(layer.steps) == 3


def test_it_follows_as_tfmot_does():
    quantizer = tfmot_quantizers().MovingAverageQuantizer(8, False, False, False)
    low, high = tf.Variable(-1.0), tf.Variable(2.0)
    layer = activation(-1.0, 2.0)
    for seed in range(5):
        x = np.random.default_rng(seed).normal(0, 3, (6, 4)).astype("float32")
        theirs = quantizer(tf.constant(x), True, {"min_var": low, "max_var": high})
        ours = layer(x, training=True)
        np.testing.assert_array_equal(ours, theirs)
    assert span(layer) == (low.numpy(), high.numpy())


@pytest.mark.parametrize(
    "quantizer",
    [None, ("MovingAverageQuantizer", 8, False, True, False)]
    + [
        (f"{kind}Quantizer", 8, False, False, False)
        for kind in ("LastValue", "AllValues")
    ],
)
def test_frozen_after_some_steps(quantizer):
    if quantizer is not None:
        quantizer = getattr(tfmot_quantizers(), quantizer[0])(*quantizer[1:])
    layer = activation(-1.2345678, 0.3, quantizer, freeze_after=3)
    spans = []
    for step in range(8):
        layer(batch(-2.0 - step, 3.0 + step), training=True)
        spans.append(span(layer))
    assert len(set(spans[:3])) == 3 and spans[0] != (-1.2345678, 0.3)
    assert set(spans[2:]) == {spans[2]}  # bitwise
    assert int(layer.steps) == 8


def test_a_shared_range_only_widens():
    layer = activation(-1.0, 2.0, shared=True)
    layer(batch(-0.5, 0.7), training=True)  # inside
    assert span(layer) == (-1.0, 2.0)
    layer(batch(-0.5, 12.0), training=True)
    assert span(layer) == (-1.0, pytest.approx(2.01))
    assert span(activation(-1.0, 2.0))[1] == 2.0
    alone = activation(-1.0, 2.0)
    alone(batch(-0.5, 0.7), training=True)
    assert span(alone)[0] > -1.0 and span(alone)[1] < 2.0


def test_inference_moves_nothing():
    layer = activation(-1.0, 2.0)
    for training in (False, None):
        layer(batch(-9.0, 9.0), training=training)
    assert span(layer) == (-1.0, 2.0) and int(layer.steps) == 0


def test_gradients_pass_inside_of_the_range_only():
    layer, x = activation(-1.0, 2.0), tf.constant([[-3.0, -0.4, 1.9, 2.5]])
    for training in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(layer(x, training=training) * [1.0, 2.0, 3.0, 4.0])
        np.testing.assert_array_equal(tape.gradient(y, x), [[0, 2, 3, 0]])


def test_inside_of_a_tf_function():
    layer, twin = activation(-1.0, 2.0, freeze_after=2), activation(-1.0, 2.0)
    step = tf.function(lambda x: layer(x, training=True))
    for _ in range(2):
        step(batch(-2.0, 3.0))
        twin(batch(-2.0, 3.0), training=True)
    np.testing.assert_allclose(span(layer), span(twin), rtol=1e-6)
    before = span(layer)
    step(batch(-7.0, 9.0))
    assert span(layer) == before  # frozen by then


def test_a_fixed_range_has_no_variables():
    quantizer = tfmot_quantizers().FixedQuantizer(8, -1.0, 127 / 128, False)
    layer = FakeQuantize(quantizer)
    layer(batch(-9.0, 9.0), training=True)
    assert layer.weights == [] and span(layer) == (-1.0, 127 / 128)
    x = np.arange(-128, 128, dtype="float32")[None] / 128
    np.testing.assert_array_equal(layer(x), x)  # every byte stands on its grid


@pytest.mark.parametrize("cls", [FakeQuantize, QuantizedKernel])
def test_config(cls):
    quantizer = tfmot_quantizers().LastValueQuantizer(4, False, True, True)
    given = (layers.Dense(3, name="dense"),) if cls is QuantizedKernel else ()
    layer = cls(*given, quantizer=quantizer, name="it", trainable=False)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert copy.get_config() == layer.get_config()
    assert copy.description["config"]["num_bits"] == 4
    assert (copy.name, copy.trainable, copy.dtype) == ("it", False, "float32")


def test_always_float32():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layer = activation(-1.0, 2.0, dtype="float16")
    finally:
        keras.config.set_dtype_policy(policy)
    assert layer(batch(-1.0, 1.0)).dtype == "float32"


LAYERS = {
    "Conv2D": (lambda: layers.Conv2D(5, 3, name="k"), (8, 8, 4)),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, name="k"),
        (8, 8, 4),
    ),
    "Conv1D": (lambda: layers.Conv1D(5, 3, name="k"), (8, 4)),
    "Dense": (lambda: layers.Dense(5, name="k"), (4,)),
}


def wrapped(kind, quantizer=None):
    """Returns a built wrapper and data; its channels have very different sizes."""
    make, shape = LAYERS[kind]
    layer = make()
    layer.build((None, *shape))
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 1, layer.kernel.shape)
    axis = 2 if kind == "DepthwiseConv2D" else -1
    size = [-1 if i == axis % kernel.ndim else 1 for i in range(kernel.ndim)]
    kernel *= np.geomspace(0.01, 10, kernel.shape[axis]).reshape(size)
    layer.kernel.assign(kernel)
    layer.bias.assign(rng.normal(0, 1, layer.bias.shape))
    wrapper = QuantizedKernel(layer, quantizer, name="wrapper")
    wrapper.build((None, *shape))
    wrapper.fit_range()
    return wrapper, rng.normal(0, 1, (3, *shape)).astype("float32")


def rounded_kernel(kernel, kind, levels=127, per_tensor=False):
    """Symmetric, narrow: -127 to 127 steps of max |kernel| / 127 in each channel."""
    axes = tuple(range(kernel.ndim - 1))
    if kind == "DepthwiseConv2D":
        axes = (0, 1)
    limit = np.abs(kernel).max(axis=None if per_tensor else axes, keepdims=True)
    step = limit.astype("float64") / levels
    return (np.round(kernel / step) * step).astype("float32")


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("training", [False, True])
def test_a_kernel_is_rounded_per_channel(kind, training):
    wrapper, x = wrapped(kind)
    kernel = ops.convert_to_numpy(wrapper.layer.kernel)
    result = wrapper(x, training=training)
    np.testing.assert_array_equal(wrapper.layer.kernel, kernel)  # swapped, not changed
    twin = wrapped(kind)[0].layer
    assert np.abs(result - twin(x)).max() > 1e-3
    twin.kernel.assign(rounded_kernel(kernel, kind))
    np.testing.assert_allclose(result, twin(x), rtol=1e-4, atol=1e-4)


def test_a_dense_kernel_per_tensor():
    quantizer = tfmot_quantizers().LastValueQuantizer(8, False, True, True)
    wrapper, x = wrapped("Dense", quantizer)
    kernel = ops.convert_to_numpy(wrapper.layer.kernel)
    assert span(wrapper) == (-np.abs(kernel).max(), np.abs(kernel).max())
    twin = wrapped("Dense")[0].layer
    twin.kernel.assign(rounded_kernel(kernel, "Dense", per_tensor=True))
    np.testing.assert_allclose(wrapper(x), twin(x), rtol=1e-5, atol=1e-5)


def test_a_kernels_range_follows_it_in_training():
    wrapper, x = wrapped("Conv2D")
    low, high = wrapper.get_range()
    wrapper.layer.kernel.assign(wrapper.layer.kernel * 3)
    wrapper(x)
    np.testing.assert_array_equal(wrapper.get_range(), (low, high))
    wrapper(x, training=True)
    np.testing.assert_allclose(wrapper.get_range(), (3 * low, 3 * high), rtol=1e-6)


def test_gradients_reach_kernel_and_bias():
    wrapper, x = wrapped("Conv2D")
    twin = wrapped("Conv2D")[0].layer
    gradients = []
    for layer in (wrapper, twin):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) * 1.5)
        gradients.append(
            tape.gradient(loss, [w.value for w in layer.trainable_weights])
        )
    # The loss is linear in the kernel: rounding it leaves the gradient as it is.
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
        assert np.abs(one).max() > 0


def test_trainable_weights_are_those_of_the_layer():
    wrapper, _ = wrapped("Conv2D")
    assert [w.path for w in wrapper.trainable_weights] == ["k/kernel", "k/bias"]
    wrapper.trainable = False
    assert wrapper.trainable_weights == [] and not wrapper.layer.trainable


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_fewer_bits(bits):
    quantizer = tfmot_quantizers().LastValueQuantizer(bits, True, True, True)
    wrapper, x = wrapped("Conv2D", quantizer)
    kernel = ops.convert_to_numpy(wrapper.layer.kernel)
    twin = wrapped("Conv2D")[0].layer
    twin.kernel.assign(rounded_kernel(kernel, "Conv2D", levels=2 ** (bits - 1) - 1))
    np.testing.assert_allclose(wrapper(x), twin(x), rtol=1e-4, atol=1e-4)


def fitted(**arguments):
    """Returns weights and ranges of a small net after four steps of training."""
    data = scaled(images(8, 8))
    model = quantize(small(), data)
    model.compile("sgd", keras.losses.MeanSquaredError(), **arguments)
    model.fit(data, np.ones((8, 5)), batch_size=2, shuffle=False, verbose=0)
    assert {int(x.steps) for x in model.layers if hasattr(x, "steps")} == {4}
    return [ops.convert_to_numpy(weight) for weight in model.weights]


def test_ways_of_training_agree():
    plain = fitted()
    for arguments in ({"run_eagerly": True}, {"steps_per_execution": 2}):
        for one, other in zip(plain, fitted(**arguments), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    # XLA may round one value to the next step: 1/255 of a range, times the step size.
    for one, other in zip(plain, fitted(jit_compile=True), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


MIRRORED = """
import json, sys
import numpy as np, tensorflow as tf, keras, keras_attention
cpu = tf.config.list_physical_devices("CPU")[0]
halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, halves)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
data = np.load(sys.argv[2])
with strategy.scope():
    model = keras.models.load_model(sys.argv[1])
    model.compile(keras.optimizers.SGD(0.01), keras.losses.MeanSquaredError())
before = {w.path: np.array(w.value) for w in model.weights}
model.fit(data, np.ones((8, 5)), batch_size=4, shuffle=False, verbose=0)
model.save(sys.argv[3])
moved, spread, values = [], 0.0, {}
for w in model.weights:
    first, second = (np.array(copy) for copy in w.value.values)
    spread = max(spread, float(np.abs(first - second).max()))
    values[w.path] = first.tolist()
    if (first != before[w.path]).any():
        moved.append(w.path)
print(json.dumps([len(strategy.extended.worker_devices), spread, moved, values]))
"""


def test_two_replicas_have_the_same_ranges(python, tmp_path):
    data = scaled(images(8, 8))
    data[2:4], data[6:] = data[2:4] / 8, data[6:] / 8  # one replica sees less
    model = quantize(small(), data)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "data.npy", data)
    replicas, spread, moved, values = python(
        MIRRORED, *(tmp_path / n for n in ("model.keras", "data.npy", "after.keras"))
    )
    assert replicas == 2 and spread == 0.0
    assert set(moved) >= {w.path for w in model.trainable_weights}
    assert {int(value) for path, value in values.items() if path.endswith("steps")} == {
        2
    }
    # Against one device: each update takes the mean of the replicas' ranges.
    layer = model.get_layer("image_quant")
    low, high = span(layer)
    for step in (0, 4):
        halves = data[step : step + 2], data[step + 2 : step + 4]
        low += (1 - KEPT) * (np.mean([h.min() for h in halves]) - low)
        high += (1 - KEPT) * (np.mean([h.max() for h in halves]) - high)
    assert values["image_quant/range_min"] == pytest.approx(low, rel=1e-5)
    assert values["image_quant/range_max"] == pytest.approx(high, rel=1e-5)
    # What is saved is what the replicas have, and goes on on one device.
    saved = keras.saving.load_model(tmp_path / "after.keras")
    for weight in saved.weights:
        np.testing.assert_array_equal(weight, np.float32(values[weight.path]))
    saved.compile("sgd", "mse")
    saved.fit(data, np.ones((8, 5)), verbose=0)
    assert int(saved.get_layer("image_quant").steps) == 3


def test_the_quantizing_classes_are_known_to_deploy():
    assert fake_quant.QUANTIZING == (FakeQuantize, QuantizedKernel)

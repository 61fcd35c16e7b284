"""Quantization-aware training on the digits: it trains, and it is quantized."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_attention import CoordAttention, data, image_input
from keras_attention import graph as graphs
from keras_attention.mobile import convert, deploy, quantize, quantizers, verify
from keras_attention.mobile.fake_quant import QuantizedKernel

EPOCHS, QUANTIZED_EPOCHS, WIDTH = 10, 5, 12


def conv(x, name, filters, size=1, stride=1, relu=True):
    if filters is None:
        layer = layers.DepthwiseConv2D(size, stride, "same", use_bias=False, name=name)
    else:
        layer = layers.Conv2D(filters, size, stride, "same", use_bias=False, name=name)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(layer(x))
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def network():
    """MobileNetV2's units with CoordAttention, four instead of 17 of them."""
    inputs = image_input.make_input((32, 32, 3), name="image")
    x = conv(inputs, "stem", WIDTH, 3, 2)
    units = [(WIDTH, 2), (WIDTH, 1), (2 * WIDTH, 2), (2 * WIDTH, 1)]
    for unit, (filters, stride) in enumerate(units):
        name = f"unit_{unit}"
        y = conv(x, f"{name}_expand", 3 * x.shape[-1])
        y = conv(y, f"{name}_depthwise", None, 3, stride)
        y = CoordAttention(reduction=8, name=f"{name}_attention")(y)
        y = conv(y, f"{name}_project", filters, relu=False)
        x = layers.Add(name=f"{name}_add")([x, y]) if stride == 1 else y
    x = conv(x, "head", 4 * WIDTH)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="classifier")(x))


def arrays(dataset):
    x, y = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(x), np.concatenate(y)


def compiled(model, rate, epochs, samples, **arguments):
    rate = keras.optimizers.schedules.CosineDecay(rate, epochs * (samples // 32))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, **arguments)
    return model


def train(model, digits, epochs, rate):
    x, y = digits.train
    compiled(model, rate, epochs, len(x))
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    return model


class Digits:
    def __init__(self):
        digits = data.load("digits", augment=False)
        self.train = arrays(digits.calibration)
        self.test = arrays(digits.test)

    def accuracy(self, model):
        x, y = self.test
        answers = model.predict(x, batch_size=120, verbose=0).argmax(1)
        return 100 * float(np.mean(answers == y))


@pytest.fixture(scope="module")
def digits():
    return Digits()


@pytest.fixture(scope="module")
def trained(digits):
    """A float network that knows the digits."""
    keras.utils.set_random_seed(0)
    return train(network(), digits, EPOCHS, 4e-3)


def quantized(model, digits, **arguments):
    return quantize(model, digits.train[0][:256], **arguments)


@pytest.fixture(scope="module")
def eight_bits(trained, digits):
    return quantized(trained, digits)


def numpy_of(weights):
    return {w.path: ops.convert_to_numpy(w) for w in weights}


def test_eight_bits_need_no_training(trained, eight_bits, digits):
    exact, calibrated = digits.accuracy(trained), digits.accuracy(eight_bits)
    assert exact >= 95
    assert abs(calibrated - exact) <= 1.5  # points; one image is 0.28
    images = digits.test[0][:64]
    difference = np.abs(eight_bits(images) - trained(images))
    assert difference.mean() > 1e-3


def test_one_step_moves_every_trainable_kernel(trained, digits):
    model = quantized(trained, digits)
    before = numpy_of(model.trainable_weights)
    wrapped = [x for x in model.layers if isinstance(x, QuantizedKernel)]
    assert {w.path for x in wrapped for w in (x.layer.kernel, x.layer.bias)} == set(
        before
    )
    assert len(wrapped) == 2 + 4 * (3 + 3) + 1  # 3 of each unit, 3 of its attention
    compiled(model, 1e-3, 1, 64, run_eagerly=True)  # tracing takes longer than a step
    model.train_on_batch(digits.train[0][:32], digits.train[1][:32])
    for path, value in numpy_of(model.trainable_weights).items():
        assert (value != before[path]).any(), path


def test_frozen_layers_do_not_move(digits, trained):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    frozen = {"stem", "unit_0_expand", "unit_1_attention", "unit_2_depthwise"}
    for name in frozen:
        model.get_layer(name).trainable = False
    model = quantized(model, digits)
    before = numpy_of(
        w for x in model.layers for w in x.weights if "range" not in w.path
    )
    compiled(model, 1e-2, 1, 64, run_eagerly=True)
    model.fit(digits.train[0][:64], digits.train[1][:64], batch_size=32, verbose=0)
    still = set()
    for path, value in numpy_of(model.weights).items():
        if path in before and "steps" not in path and (value == before[path]).all():
            still.add(path.split("/")[0])
    assert still == (frozen - {"unit_1_attention"}) | {
        f"unit_1_attention_{role}" for role in ("reduce", "expand_h", "expand_w")
    }


@pytest.fixture(scope="module")
def three_bits(trained, digits):
    """A network with kernels of 3 bits: accuracy calibrated, and after training."""
    last_value = quantizers.tfmot_quantizers().LastValueQuantizer
    kernel = last_value(num_bits=3, per_axis=True, symmetric=True, narrow_range=True)
    model = quantized(trained, digits, overrides={".*": {"kernel": kernel}})
    calibrated = digits.accuracy(model)
    keras.utils.set_random_seed(1)
    train(model, digits, QUANTIZED_EPOCHS, 2e-3)
    return model, calibrated, digits.accuracy(model)


def test_training_wins_back_what_few_bits_lose(trained, three_bits, digits):
    _, calibrated, recovered = three_bits
    exact = digits.accuracy(trained)
    print(f"float {exact:.1f}, calibrated {calibrated:.1f}, trained {recovered:.1f}")
    assert calibrated <= exact - 10
    assert recovered >= exact - 2


def test_all_kernels_have_seven_values_per_channel(three_bits):
    found = [x for x in three_bits[0].layers if isinstance(x, QuantizedKernel)]
    assert len(found) == 27
    for wrapper in found:
        axes = list(range(len(wrapper.layer.kernel.shape)))
        if isinstance(wrapper.layer, layers.DepthwiseConv2D):
            axes = [0, 1, 3, 2]
        kernel = ops.transpose(wrapper.layer.kernel, axes)
        variables = quantizers.raw(wrapper.range_variables)
        rounded = np.asarray(wrapper.quantizer(kernel, False, variables))
        channels = rounded.reshape(-1, rounded.shape[-1]).T
        assert 3 <= max(len(np.unique(channel)) for channel in channels) <= 7


def without_attention(model, images):
    """Returns the model's outputs with each gate fixed at its mean, per channel."""
    graph = graphs.trace_model(model)
    means = {}

    def apply(node, args, kwargs):
        outputs = node.op(*args, **kwargs)
        if "_attention_gate_" in node.name and "quant" not in node.name:
            mean = ops.mean(outputs, axis=(0, 1, 2), keepdims=True)
            assert ops.std(outputs) >= 0.05 * ops.mean(outputs)  # a live gate
            means[node.name] = mean
            return ops.broadcast_to(mean, ops.shape(outputs))
        return outputs

    result = graphs.replay(graph, [ops.convert_to_tensor(images)], apply)
    assert len(means) == 8
    return ops.convert_to_numpy(result)


@pytest.mark.parametrize("kind", ["float", "quantized", "trained under quantization"])
def test_taking_the_attention_away_changes_the_outputs(
    kind, trained, eight_bits, three_bits, digits
):
    models = {"float": deploy(trained), "quantized": eight_bits}
    model = models.get(kind, three_bits[0])
    images, labels = digits.test
    outputs = model.predict(images, batch_size=360, verbose=0)
    fixed = without_attention(model, images)
    change = np.linalg.norm(fixed - outputs) / np.linalg.norm(outputs)
    lost = 100 * np.mean(outputs.argmax(1) == labels) - 100 * np.mean(
        fixed.argmax(1) == labels
    )
    print(f"{kind}: outputs change by {100 * change:.0f} %, {lost:.1f} points lost")
    assert change >= 0.05


def test_a_trained_network_and_its_file(eight_bits, trained, digits, tmp_path):
    convert(eight_bits, tmp_path / "digits.tflite")
    report = verify(tmp_path / "digits.tflite", against=eight_bits, data=digits.test)
    assert report.argmax_agreement >= 0.99
    assert abs(100 * report.file_accuracy - digits.accuracy(trained)) <= 1.5
    assert report.broken <= 3 and report.clipped_inputs == 0

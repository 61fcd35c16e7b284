"""`mobile.quantize`: calibrated ranges and saved models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from support.mobile_nets import (
    SIDE,
    dictionaries,
    images,
    network,
    randomize,
    scaled,
    several,
    small,
)
from support.quantizing import DATA, is_rounding, outputs, ranges, span

from keras_attention import graph as graphs
from keras_attention import image_input
from keras_attention.mobile import deploy, quantize, quantizers
from keras_attention.mobile.fake_quant import QuantizedKernel


def test_layers_of_the_result(quantized):
    assert [layer.name for layer in quantized.layers] == [
        "image",
        "image_quant",
        "conv",
        "relu",
        "relu_quant",
        "depthwise",
        "depthwise_quant",
        "pool",
        "pool_quant",
        "classifier",
        "classifier_quant",
    ]
    kinds = [x.name for x in quantized.layers if isinstance(x, QuantizedKernel)]
    assert kinds == ["conv", "depthwise", "classifier"]
    assert [w.path for w in quantized.trainable_weights] == [
        f"{name}/{weight}" for name in kinds for weight in ("kernel", "bias")
    ]
    assert graphs.is_functional(quantized)


def test_kernel_ranges(net, quantized):
    deployed = deploy(net)
    for name, axes in [
        ("conv", (0, 1, 2)),
        ("depthwise", (0, 1, 3)),
        ("classifier", None),
    ]:
        kernel = ops.convert_to_numpy(deployed.get_layer(name).kernel)
        limit = np.abs(kernel).max(axis=axes)
        low, high = quantized.get_layer(name).get_range()
        np.testing.assert_array_equal(high, limit)
        np.testing.assert_array_equal(low, -limit)
        assert quantized.get_layer(name).quantizer.narrow_range


def test_activation_ranges_are_what_was_seen(net, quantized):
    deployed = deploy(net)
    for name in ("image", "relu", "depthwise", "pool", "classifier"):
        values = keras.Model(deployed.input, deployed.get_layer(name).output)(DATA)
        low, high = min(0, np.min(values)), max(0, np.max(values))
        assert span(quantized, f"{name}_quant") == pytest.approx((low, high), rel=1e-5)
    assert not any(layer.shared for layer in quantized.layers if is_rounding(layer))


def test_the_output_is_that_of_the_float_model_but_for_rounding(net, quantized):
    (exact,), (result,) = outputs(net), outputs(quantized)
    error = np.linalg.norm(result - exact) / np.linalg.norm(exact)
    # 8 bits at six places: a step is 1/255 of a range, an error a third of that.
    assert 0.0005 < error < 0.03
    low, high = span(quantized, "classifier_quant")
    steps = result * 255 / (high - low)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_the_given_model_stays_as_it_is():
    net = small()
    weights, config = net.get_weights(), net.get_config()
    quantized = quantize(net, DATA)
    for layer in quantized.layers:
        layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
    for before, after in zip(weights, net.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert net.get_config() == config


def test_a_deployed_model_gives_the_same(net, quantized):
    again = quantize(deploy(net), DATA)
    assert [x.name for x in again.layers] == [x.name for x in quantized.layers]
    assert ranges(again) == ranges(quantized)
    np.testing.assert_array_equal(outputs(again)[0], outputs(quantized)[0])


def test_names_are_free_in_a_new_session():
    inputs = keras.Input((8, 8, 3))
    x = ops.max(ops.add(inputs, 1.0), axis=1, keepdims=True)
    model = randomize(keras.Model(inputs, layers.Conv2D(3, 1)(x)))
    keras.utils.clear_session()  # as in the process that loads the model
    assert len(ranges(quantize(model, DATA))) == 3


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return DATA[2 * index : 2 * index + 2], np.zeros(2)


def dataset(labels):
    data = (DATA, np.zeros(8)) if labels else DATA
    return tf.data.Dataset.from_tensor_slices(data).batch(3)


@pytest.mark.parametrize(
    "calibration",
    [
        lambda: tf.constant(DATA),
        lambda: dataset(labels=False),
        lambda: dataset(labels=True),
        lambda: [(DATA[:5], np.zeros(5)), (DATA[5:], np.zeros(3), np.ones(3))],
        lambda: (DATA[i : i + 1] for i in range(8)),
        Batches,
    ],
    ids=["tensor", "x", "xy", "tuples", "generator", "py"],
)
def test_forms_of_calibration_data(net, quantized, calibration):
    found, wanted = ranges(quantize(net, calibration())), ranges(quantized)
    assert found.keys() == wanted.keys()
    for name, bounds in wanted.items():  # batches of other sizes sum in another order
        assert found[name] == pytest.approx(bounds, rel=1e-5), name


@pytest.mark.parametrize("form", ["list", "tuples", "dictionary", "dictionaries"])
def test_calibration_of_several_inputs(form):
    model = randomize(dictionaries() if form == "dictionaries" else several())
    data = [scaled(images(8)), SIDE]
    named = {"image": data[0], "side": data[1]}
    calibration = named if form == "dictionary" else data
    if form in ("tuples", "dictionaries"):  # of a dataset
        slices = (tuple(data) if form == "tuples" else named, np.zeros(8))
        calibration = tf.data.Dataset.from_tensor_slices(slices).batch(4)
    quantized = quantize(model, calibration)
    assert span(quantized, "side_quant") == pytest.approx((SIDE.min(), SIDE.max()))
    low, high = span(quantized, "image_quant")
    assert (low, high) == (data[0].min(), data[0].max())


def test_at_most_so_many_batches_are_run(net):
    growing = [DATA * factor for factor in (0.25, 0.5, 1.0)]
    for limit, factor in [(1, 0.25), (2, 0.5), (5, 1.0)]:
        model = quantize(
            net, iter([(x, 0) for x in growing]), calibration_batches=limit
        )
        assert span(model, "image_quant")[0] == factor * DATA.min()
    many = np.concatenate([DATA] * 4 + [2 * DATA])  # an array: batches of 32
    model = quantize(net, many, calibration_batches=1)
    assert span(model, "image_quant")[0] == DATA.min()
    used = iter([(DATA, 0)] * 5)
    quantize(net, used, calibration_batches=2)
    assert len(list(used)) >= 2  # it did not run through all of them


def with_nan():
    data = DATA.copy()
    data[3, 2, 1, 0] = np.nan
    return data


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "The calibration data is empty"),
        (DATA[:0], "The calibration data is empty"),
        (iter([]), "The calibration data is empty"),
        ([(DATA[:0], 0)], "Calibration batch 0 is empty"),
        (with_nan(), "Calibration batch 0 holds values that are not finite"),
        ([(DATA, 0), (DATA + np.inf, 0)], "Calibration batch 1 holds .* not finite"),
        (list(DATA[:, None]), r"holds 8 arrays, the model has 1 input\(s\).*iterator"),
        ((DATA, np.zeros(8)), r"calibration is a tuple, which may mean \(x, y\) or"),
    ],
)
def test_bad_calibration_data(net, calibration, message):
    with pytest.raises(ValueError, match=message):
        quantize(net, calibration)


def test_too_few_batches(net):
    with pytest.raises(ValueError, match="calibration_batches must be .* Received: 0"):
        quantize(net, DATA, calibration_batches=0)


def test_a_layer_that_overflows_is_named():
    net = small()
    net.get_layer("classifier").kernel.assign(np.full((6, 5), 3e38))
    with pytest.raises(ValueError, match="output of layer 'classifier' is not finite"):
        quantize(net, DATA)


def test_unknown_scheme(net):
    with pytest.raises(ValueError, match="scheme must be one of .'int8'.*'int7'"):
        quantize(net, DATA, scheme="int7")


def test_dynamic_size():
    inputs = keras.Input((None, None, 3), name="image")
    model = randomize(keras.Model(inputs, layers.Conv2D(3, 3)(inputs), name="dynamic"))
    with pytest.raises(
        ValueError, match="of model 'dynamic' has a dynamic height or wi"
    ):
        quantize(model, DATA)
    quantized = quantize(deploy(model, (8, 8, 3)), DATA)
    assert quantized.input_shape == (None, 8, 8, 3)


def test_other_backends_are_refused(net, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(
        quantizers, "tfmot_quantizers", quantizers.tfmot_quantizers.__wrapped__
    )
    with pytest.raises(RuntimeError, match="needs the TensorFlow backend, not 'jax'"):
        quantize(net, DATA)


def test_frozen_layers_stay_frozen():
    net = small()
    net.get_layer("conv").trainable = False
    net.get_layer("classifier").bias.trainable = False
    model = quantize(net, DATA)
    assert [w.path for w in model.trainable_weights] == [
        "depthwise/kernel",
        "depthwise/bias",
        "classifier/kernel",
    ]


LOAD = """
import json, sys
import keras
import keras_attention
import numpy as np
folder, names = sys.argv[1], sys.argv[2:]
result = {}
for name in names:
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    data = np.load(f"{folder}/data.npy")
    np.save(f"{folder}/{name}.npy", model(data, training=False))
    result[name] = [len(model.layers), type(model.layers[0]).__name__]
    if name == "quantized":
        model.compile("sgd", "mse")
        model.fit(data, np.ones((8, 5)), verbose=0)
        model.save(f"{folder}/trained.keras")
print(json.dumps(result))
"""


def test_saved_models_load_where_only_keras_attention_is_imported(python, tmp_path):
    model, data = network("twice")  # with a CoordAttention block
    inputs = image_input.make_input((16, 16, 3), name="image")
    made = {"float": keras.Model(inputs, model(inputs))}
    made["deployed"] = deploy(made["float"])
    made["quantized"] = quantize(made["float"], data)
    for name, one in made.items():
        one.save(tmp_path / f"{name}.keras")
    np.save(tmp_path / "data.npy", data)
    found = python(LOAD, tmp_path, *made)
    assert found == {name: [len(m.layers), "ImageInput"] for name, m in made.items()}
    for name, one in made.items():  # bitwise
        np.testing.assert_array_equal(
            np.load(tmp_path / f"{name}.npy"), outputs(one, data)[0]
        )
    trained = keras.saving.load_model(tmp_path / "trained.keras")
    assert {int(x.steps) for x in trained.layers if hasattr(x, "steps")} == {1}
    assert image_input.input_range_of(trained) == (-1, 127 / 128)

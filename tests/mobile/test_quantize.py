"""`mobile.quantize`: calibrated ranges, input ranges, overrides, saved models."""

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

from keras_attention import image_input
from keras_attention.mobile import deploy, quantize, quantizers
from keras_attention.mobile import graph as graphs
from keras_attention.mobile.fake_quant import FakeQuantize, QuantizedKernel
from keras_attention.mobile.quantize import check_input_range

DATA = scaled(images(8, 8))


def outputs(model, data=DATA):
    flat = keras.tree.flatten(model(data, training=False))
    return [ops.convert_to_numpy(tensor) for tensor in flat]


def span(model, name):
    return tuple(np.float32(bound) for bound in model.get_layer(name).get_range())


def ranges(model):
    """Returns {layer: (low, high)} of all activation ranges."""
    return {x.name: span(model, x.name) for x in model.layers if is_rounding(x)}


def is_rounding(layer):
    return isinstance(layer, FakeQuantize)


def inside(model, name):
    return [w for w in model.get_layer(name).weights if "range" not in w.path]


@pytest.fixture(scope="module")
def net():
    return small()


@pytest.fixture(scope="module")
def quantized(net):
    return quantize(net, DATA)


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


@pytest.mark.parametrize(
    "given", [(0, 1), (0, 255), (-1, 127 / 128), (-128, 127), (-0.5, 0.5 * 127 / 128)]
)
def test_input_ranges_that_are_grids_of_bytes(given):
    low, high = check_input_range(*given)
    assert (low, high) == given
    values = low + np.arange(256) * (high - low) / 255
    assert np.abs(values).min() < 1e-9  # 0 is a byte


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            (-1, 1),
            r"\(-1, 1\) is no grid of bytes.*nearest valid range is \(-1, 0.9921875\)",
        ),
        ((-1, 2), r"nearest valid range is \(-1, 2\)"),
        ((-2, 1), r"nearest valid range is \(-2, 1\)"),
        ((-0.1, 300), r"nearest valid range is "),
        ((1, 2), "must be finite, low < high, and hold 0"),
        ((-2, -1), "must be finite, low < high, and hold 0"),
        ((1, -1), "must be finite, low < high, and hold 0"),
        ((0, 0), "must be finite, low < high, and hold 0"),
        ((-1, np.inf), "must be finite, low < high, and hold 0"),
        ((np.nan, 1), "must be finite, low < high, and hold 0"),
    ],
)
def test_input_ranges_that_are_not(given, message):
    if given in ((-1, 2), (-2, 1)):  # 85 and 170 of 255: these are
        assert check_input_range(*given) == given
        return
    with pytest.raises(ValueError, match=message) as error:
        check_input_range(*given)
    if "nearest" in message:
        text = str(error.value).split("range is (")[1].split(")")[0]
        check_input_range(*map(float, text.split(",")))  # what it names is valid


def test_a_fixed_input_range(net):
    model = quantize(net, DATA / 2, input_range=(-1, 127 / 128))
    assert span(model, "image_quant") == (-1, 127 / 128)
    assert image_input.input_range_of(model) == (-1, 127 / 128)
    grid = keras.Model(model.input, model.get_layer("image_quant").output)
    every = np.resize(np.arange(256), (2, 8, 8, 3)).astype("uint8")
    np.testing.assert_array_equal(grid(scaled(every)), scaled(every))  # not a bit lost
    assert model.get_layer("image_quant").weights == []


def test_the_stored_range_is_used(net):
    inputs = image_input.make_input((8, 8, 3), (0, 255), name="image")
    model = keras.Model(inputs, net(inputs))
    photos = images(8, 8).astype("float32") / 2
    assert span(quantize(model, photos), "image_quant") == (0, 255)
    other = quantize(model, photos, input_range=(0, 127.5))
    assert span(other, "image_quant") == (0, 127.5)
    assert image_input.input_range_of(other) == (0, 127.5)
    with pytest.raises(
        ValueError, match=r"\[0, 255\], outside of its fixed range \[0, 1"
    ):
        quantize(model, photos * 2, input_range=(0, 127.5))


def test_an_invalid_stored_range_is_refused(net):
    inputs = image_input.make_input((8, 8, 3), (-1, 1), name="image")
    with pytest.raises(ValueError, match="no grid of bytes"):
        quantize(keras.Model(inputs, net(inputs)), DATA)


@pytest.mark.parametrize("data", [1.01 * DATA, DATA + 0.02])
def test_data_outside_of_a_fixed_range(net, data):
    with pytest.raises(
        ValueError, match=r"of input 'image' lies in \[.*\], outside of its fixed range"
    ):
        quantize(net, data, input_range=(-1, 127 / 128))


def test_ranges_of_several_inputs():
    image = image_input.make_input((16, 16, 3), name="image")
    side, plain = keras.Input((4,), name="side"), several()
    model = randomize(keras.Model([image, side], plain([image, side])))
    data = [scaled(images(8)), SIDE]
    quantized = quantize(model, data)  # the image's stored range is not the vector's
    assert span(quantized, "image_quant") == (-1, 127 / 128)
    assert span(quantized, "side_quant") == pytest.approx((SIDE.min(), SIDE.max()))
    quantized = quantize(model, data, input_range={"side": (-128, 127)})
    assert span(quantized, "image_quant") == (-1, 127 / 128)
    assert span(quantized, "side_quant") == (-128, 127)
    with pytest.raises(
        ValueError, match="input_range names .'other'.; inputs are .'imag"
    ):
        quantize(model, data, input_range={"other": (0, 1)})


def last_value(bits=8, per_axis=False, symmetric=True, narrow=True):
    return quantizers.tfmot_quantizers().LastValueQuantizer(
        bits, per_axis, symmetric, narrow
    )


def chosen(model):
    """Returns {layer: (class, bits) of its quantizer}."""
    return {
        layer.name: (type(layer.quantizer).__name__, layer.quantizer.num_bits)
        for layer in model.layers
        if isinstance(layer, FakeQuantize | QuantizedKernel)
    }


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

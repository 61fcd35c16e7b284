"""Schemes beside int8: int16x8, kernels alone, and the files of float models."""

import keras
import numpy as np
import pytest
from keras import layers
from support.comparing import relative_error
from support.deploy_suite import inputs
from support.int8_nets import file_answers, photo_bytes, scaled, small_net
from support.mobile_nets import randomize

import keras_attention
from keras_attention import image_input, mobile, registry
from keras_attention.mobile import litert, schemes
from keras_attention.mobile.convert import quantized_to
from keras_attention.mobile.fake_quant import FakeQuantize, QuantizedKernel

PAPERS = ("coord", "ema", "a2", "aw")
VIDEO = ("a2", "eca", "gc", "nl", "se", "simam")
IMAGES = scaled(photo_bytes(24, 8))


def block(name, shape):
    """A model of one live block."""
    image = keras.Input(shape)
    options = {}
    if name == "sa":
        options = {"groups": shape[-1] // 2}
    if name == "aw":
        options = {"filters": shape[-1], "kernel_size": 3, "padding": "same"}
    layer = keras_attention.get(name, **options)
    return randomize(keras.Model(image, layer(image)))


class TestInt16x8:
    @pytest.mark.parametrize("name", PAPERS)
    def test_blocks(self, name, tmp_path):
        model = block(name, (14, 14, 32))
        data = inputs((24, 14, 14, 32))["normal"]
        images, others = data[:16], data[16:]
        quantized = mobile.quantize(model, images, scheme="int16x8")
        assert quantized_to(quantized) == "int16x8"
        report = mobile.convert(quantized, tmp_path / "m.tflite")
        assert report.precision == "int16x8" and report.uint8_path is None
        assert set(report.dtypes) <= {"int8", "int16", "int32", "int64"}
        assert report.dtypes["int8"] >= 2  # the kernels, and nothing else: see below
        assert report.inputs[0].dtype == report.outputs[0].dtype == "int16"
        expected = model.predict(others, verbose=0)
        rounded = quantized.predict(others, verbose=0)
        found = file_answers(report.path, others)
        to_keras, to_float = (relative_error(found, y) for y in (rounded, expected))
        print(f"{name}: {to_keras:.1e} of Keras, {to_float:.1e} of float")  # pytest -s
        # A step is 1/32768 of the largest value; a chain of operations adds some up.
        assert to_keras <= 1e-3
        # int8 kernels alone cost .005.
        assert to_float <= 1e-2
        assert relative_error(rounded, expected) >= 1e-5  # it rounds

    def test_every_activation_is_int16(self, tmp_path):
        quantized = mobile.quantize(small_net(), IMAGES, scheme="int16x8")
        report = mobile.convert(quantized, tmp_path / "m.tflite")
        file = litert.File(report.path)
        kernels = [tensor for tensor in file.tensors if tensor.dtype == "int8"]
        assert len(kernels) == 4
        assert all(t.zero_point == 0 for t in file.tensors if t.dtype == "int16")

    def test_photos_keep_their_bytes(self):
        """Byte b of a photo is b / 128 - 1, which the int16 grid has exactly."""
        quantized = mobile.quantize(small_net(), IMAGES, scheme="int16x8")
        low, high = quantized.get_layer("image_quant").get_range()
        assert (low, high) == (-1.0, 32767 / 32768)
        every = (np.arange(256, dtype="float32") / 128 - 1).reshape(4, 8, 8, 1)
        every = np.repeat(every, 3, axis=-1)
        assert np.array_equal(quantized.get_layer("image_quant")(every), every)

    def test_ranges_are_symmetric_and_follow_in_training(self):
        quantized = mobile.quantize(small_net(), IMAGES, scheme="int16x8")
        ranges = {
            layer.name: layer.get_range()
            for layer in quantized.layers
            if isinstance(layer, FakeQuantize)
        }
        for low, high in ranges.values():
            assert low == pytest.approx(-high * 32768 / 32767, rel=1e-6)
        quantized.compile("sgd", "mse")
        quantized.fit(2 * IMAGES[:16].clip(-0.5, 0.49), np.ones((16, 5)), verbose=0)
        image, stem = (quantized.get_layer(f"{n}_quant") for n in ("image", "sum"))
        assert image.get_range() == ranges["image_quant"]  # it is given
        assert stem.get_range() != ranges["sum_quant"]

    @pytest.mark.parametrize("kind", ["sigmoid", "tanh", "softmax"])
    def test_activations_on_a_given_grid(self, kind, tmp_path):
        image = keras.Input((4, 4, 6))
        y = layers.Conv2D(6, 1, activation=kind)(image)
        y = layers.Reshape((16, 6))(y)  # keeps the grid
        y = layers.Conv1D(5, 1, name="behind")(y)
        model = randomize(keras.Model(image, y))
        x = np.random.default_rng(0).normal(size=(32, 4, 4, 6)).astype("float32")
        quantized = mobile.quantize(model, x[:16], scheme="int16x8")
        report = mobile.convert(quantized, tmp_path / "m.tflite")
        found = file_answers(report.path, x[16:])
        assert relative_error(found, quantized.predict(x[16:], verbose=0)) <= 2e-4

    def test_a_float_model_and_its_calibration(self, tmp_path):
        report = mobile.convert(
            small_net(), tmp_path / "m.tflite", precision="int16x8", calibration=IMAGES
        )
        expected = small_net().predict(IMAGES, verbose=0)
        # int8 kernels of a chain of four layers.
        assert relative_error(file_answers(report.path, IMAGES), expected) <= 2e-2

    def test_other_data_may_go_further(self):
        quantized = mobile.quantize(small_net(), IMAGES / 2, scheme="int16x8")
        assert relative_error(quantized(IMAGES), small_net()(IMAGES)) <= 2e-2

    def test_an_input_range(self):
        # Whole steps of bytes, (0, 255) for example, need no byte at the other side.
        for given, high in (((0, 255), 255), ((-1, 127 / 128), 32767 / 32768)):
            low, found = schemes.SCHEMES["int16x8"].grid(given, is_input=True)
            assert found == pytest.approx(high)
            assert low == pytest.approx(-high * 32768 / 32767)


@pytest.fixture(scope="module")
def quantized():
    """A small net of rounded kernels."""
    return mobile.quantize(small_net(), None, scheme="weights")


class TestWeights:
    def test_kernels_are_rounded_and_nothing_else(self, quantized):
        kinds = [type(layer) for layer in quantized.layers]
        assert kinds.count(QuantizedKernel) == 4 and FakeQuantize not in kinds
        assert quantized_to(quantized) == "dynamic"
        ours, theirs = quantized(IMAGES), small_net()(IMAGES)
        assert 1e-4 <= relative_error(ours, theirs) <= 2e-2
        (low, high) = quantized.get_layer("stem").get_range()
        kernel = np.asarray(quantized.get_layer("stem").rounded_kernel())
        steps = kernel / (high - low) * 254
        assert np.abs(steps - np.round(steps)).max() <= 1e-4
        assert image_input.input_range_of(quantized) == (-1, 127 / 128)

    def test_the_file_holds_these_kernels(self, tmp_path):
        image = keras.Input((8, 8, 32))
        y = layers.Conv2D(64, 1, activation="relu", name="wide")(image)
        model = randomize(keras.Model(image, layers.Conv2D(40, 1, name="next")(y)))
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 32)).astype("float32")
        quantized = mobile.quantize(model, None, scheme="weights")
        report = mobile.convert(quantized, tmp_path / "m.tflite")
        assert report.precision == "dynamic" and report.dtypes["int8"] == 2
        found = file_answers(report.path, x)
        # What the kernels are multiplied by is rounded to 8 bits as it comes.
        assert relative_error(found, quantized.predict(x, verbose=0)) <= 2e-2

    def test_training_moves_kernels_through_the_rounding(self, quantized):
        model = keras.models.clone_model(quantized)
        model.set_weights(quantized.get_weights())
        before = keras.ops.convert_to_numpy(model.get_layer("project").layer.kernel)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(IMAGES, np.ones((24, 5)), verbose=0)
        moved = model.get_layer("project").layer.kernel - before
        assert np.abs(moved).max() > 1e-4

    def test_operations_without_an_int8_form_stay(self):
        image = keras.Input((4, 4, 6))
        y = keras.ops.sin(layers.Conv2D(6, 1)(image))
        model = randomize(keras.Model(image, y))
        x = np.random.default_rng(0).normal(size=(4, 4, 4, 6)).astype("float32")
        found = mobile.quantize(model, None, scheme="weights")(x)
        assert 0 < relative_error(found, model(x)) <= 2e-2

    def test_video(self, tmp_path):
        image = keras.Input((4, 6, 6, 3))
        model = randomize(keras.Model(image, layers.Conv3D(4, 3)(image)))
        quantized = mobile.quantize(model, None, scheme="weights")
        mobile.convert(quantized, tmp_path / "m.tflite")


class TestFloatModels:
    @pytest.mark.parametrize("name", registry.names())
    def test_dynamic_and_float16(self, name, tmp_path):
        model = block(name, (8, 8, 64))
        x = inputs((4, 8, 8, 64))["normal"]
        expected = model.predict(x, verbose=0)
        for precision, limit in (("dynamic", 2e-2), ("float16", 2e-3)):
            path = tmp_path / "m.tflite"
            report = mobile.convert(model, path, precision=precision)
            assert report.precision == precision
            assert {t.dtype for t in report.inputs + report.outputs} == {"float32"}
            # Half precision has 11 bits, rounded activations have 8.
            assert relative_error(file_answers(path, x), expected) <= limit


def test_unknown_schemes():
    with pytest.raises(ValueError, match="scheme must be one of .*'weights'.*'int4'"):
        mobile.quantize(small_net(), IMAGES, scheme="int4")


def test_a_model_of_another_precision(tmp_path):
    for scheme, precision in (("int16x8", "int8"), ("weights", "int8")):
        quantized = mobile.quantize(small_net(), IMAGES, scheme=scheme)
        with pytest.raises(ValueError, match=r"quantized to \w+ and can't be .*'int8'"):
            mobile.convert(quantized, tmp_path / "m.tflite", precision=precision)


def test_models_load_and_go_on(tmp_path):
    for scheme in ("int16x8", "weights"):
        quantized = mobile.quantize(small_net(), IMAGES, scheme=scheme)
        quantized.save(tmp_path / "q.keras")
        loaded = keras.models.load_model(tmp_path / "q.keras")
        assert np.array_equal(loaded(IMAGES), quantized(IMAGES))
        assert quantized_to(loaded) == quantized_to(quantized)

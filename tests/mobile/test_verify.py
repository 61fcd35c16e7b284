"""File against Keras on data: counts and differences that can be computed by hand."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.int8_nets import photo_bytes, scaled, small_net

from keras_attention import image_input
from keras_attention.mobile import litert
from keras_attention.mobile.convert import convert
from keras_attention.mobile.quantize import quantize
from keras_attention.mobile.verify import verify

IMAGES = scaled(photo_bytes(20, 8))
LABELS = np.arange(20) % 5


@pytest.fixture(scope="module")
def net():
    return small_net()


@pytest.fixture(scope="module")
def quantized(net):
    return quantize(net, IMAGES)


@pytest.fixture(scope="module")
def files(net, quantized, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {
        "int8": convert(quantized, folder / "int8.tflite"),
        "float32": convert(net, folder / "float32.tflite"),
    }


@pytest.fixture(scope="module")
def passing(tmp_path_factory):
    """A net whose three outputs are its three input values, on the grid k / 128."""
    image = image_input.make_input((1, 1, 3), name="image")
    x = keras.layers.Conv2D(3, 1, name="pass")(image)
    net = keras.Model(image, keras.layers.Flatten(name="logits")(x))
    net.get_layer("pass").set_weights([np.eye(3)[None, None], np.zeros(3)])
    corners = np.array([-1, 127 / 128], "float32")[:, None, None, None]
    corners = np.broadcast_to(corners, (2, 1, 1, 3))
    path = tmp_path_factory.mktemp("passing") / "a.tflite"
    report = convert(quantize(net, corners), path)
    assert report.outputs[0].scale == 1 / 128
    return net, path


def rows(*values):
    """Inputs of the `passing` net, in steps of 1/128."""
    return np.array(values, "float32").reshape(-1, 1, 1, 3) / 128


def test_differences_and_ties(passing):
    net, path = passing
    x = rows([1, 0, 0], [5, 5.25, 0], [5.6, 5, 0], [0, 9.25, 20])
    # The file sees        1 0 0    5 5 0          6 5 0        0 9 20
    report = verify(path, against=net, data=(x, np.array([0, 1, 1, 2])))
    assert report.samples == 4
    assert report.keras_accuracy == 3 / 4
    assert report.file_accuracy == 2 / 4
    assert (report.broken, report.repaired) == (1, 0)
    # The second row is a tie in the file, in which Keras' answer is contained.
    assert report.argmax_agreement == 1.0
    (output,) = report.outputs
    assert output.unit == "steps"
    assert output.max_difference == pytest.approx(0.4, abs=1e-5)
    assert output.mean_difference == pytest.approx((0.25 + 0.4 + 0.25) / 12, abs=1e-6)
    assert output.within_one_step == 1.0
    assert report.clipped_inputs == 0.0


def test_broken_and_repaired(passing):
    net, path = passing
    other = keras.models.clone_model(net)
    kernel = np.eye(3)[:, [1, 0, 2]]  # Swaps the first two classes.
    other.get_layer("pass").set_weights([kernel[None, None], np.zeros(3)])
    x = rows([9, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9])
    report = verify(path, against=other, data=(x, np.array([1, 0, 0, 2])))
    assert (report.keras_accuracy, report.file_accuracy) == (3 / 4, 2 / 4)
    assert (report.broken, report.repaired) == (2, 1)
    assert report.argmax_agreement == 1 / 4
    assert report.outputs[0].max_difference == 9.0
    assert report.outputs[0].within_one_step == 6 / 12


def test_clipped_inputs(passing):
    net, path = passing
    report = verify(path, against=net, data=rows([128, 0, 0], [-129, 200, 0]))
    # 128 is a step beyond the grid's last value, 127.
    assert report.clipped_inputs == 3 / 6
    assert report.keras_accuracy is None
    assert report.broken is None


def test_rounding_of_the_input(passing):
    _, path = passing
    runner = litert.Runner(path)
    (got,) = runner(rows([0.5, 1.5, 2.5], [-0.5, -1.5, -2.5], [126.7, -127.5, 126.5]))
    # Ties round up, as TensorFlow's fake quantization has them.
    assert got.tolist() == [[1, 2, 3], [0, -1, -2], [127, -127, 127]]
    grid = np.arange(-128, 127).reshape(-1, 3)
    (got,) = runner(rows(*grid))
    np.testing.assert_array_equal(got, grid)


def test_fake_quantization_sees_the_same_ties(passing):
    net, path = passing
    quantized = quantize(net, rows([-128, 127, 0]))
    x = rows([0.5, 1.5, 2.5], [-0.5, -1.5, -2.5])
    (output,) = verify(path, against=quantized, data=x).outputs
    assert output.max_difference == 0.0


def test_int8_against_its_quantized_model(files, quantized):
    for path in (files["int8"].path, files["int8"].uint8_path):
        report = verify(path, against=quantized, data=(IMAGES, LABELS))
        assert report.outputs[0].max_difference <= 1.001
        assert report.argmax_agreement >= 0.95
        assert report.samples == 20
        logits = quantized.predict_on_batch(IMAGES)
        assert report.keras_accuracy == np.mean(logits.argmax(1) == LABELS)
        (steps,) = litert.Runner(path)(IMAGES)
        assert report.file_accuracy == np.mean(steps.argmax(1) == LABELS)
        assert report.broken - report.repaired == round(
            20 * (report.keras_accuracy - report.file_accuracy)
        )


def test_float_file(files, net):
    report = verify(files["float32"].path, against=net, data=(IMAGES, LABELS))
    (output,) = report.outputs
    assert output.unit == "absolute"
    assert output.within_one_step is None
    assert output.max_difference <= 1e-5
    assert report.argmax_agreement == 1.0
    assert report.clipped_inputs == 0.0


def test_saved_model_and_forms_of_data(files, quantized, tmp_path):
    saved = tmp_path / "quantized.keras"
    quantized.save(saved)
    path = files["int8"].path
    expected = verify(path, against=quantized, data=(IMAGES, LABELS))
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))
    one_hot = np.eye(5, dtype="float32")[LABELS]
    for against, data in (
        (saved, (IMAGES, LABELS)),
        (str(saved), dataset.batch(7)),
        (quantized, dataset),
        (quantized, (IMAGES, LABELS[:, None])),
        (quantized, (IMAGES, one_hot)),
        (quantized, [(IMAGES[:13], LABELS[:13]), (IMAGES[13:], LABELS[13:])]),
        (quantized, (tf.constant(IMAGES), tf.constant(LABELS))),
    ):
        report = verify(path, against=against, data=data)
        assert counts(report) == counts(expected)
        # Batches of other sizes are summed in another order.
        assert report.outputs[0].mean_difference == pytest.approx(
            expected.outputs[0].mean_difference, abs=1e-4
        )
    for data in (IMAGES, dataset.map(lambda x, y: x).batch(20)):
        unlabelled = verify(path, against=quantized, data=data)
        assert unlabelled.outputs == expected.outputs
        assert unlabelled.keras_accuracy is None


def counts(report):
    return (
        report.samples,
        report.keras_accuracy,
        report.file_accuracy,
        report.broken,
        report.repaired,
        report.argmax_agreement,
    )


def test_report(files, quantized):
    report = verify(files["int8"].path, against=quantized, data=(IMAGES, LABELS))
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["samples"] == 20
    assert stored["outputs"][0]["name"] == "classifier"
    assert f"keras accuracy    {report.keras_accuracy:.6g}" in str(report)


NAN = IMAGES.copy()
NAN[3, 0, 0, 0] = np.nan
MISTAKES = {
    "nan": ((NAN, LABELS), "Batch 0 of the data holds NaN or infinity"),
    "empty array": (IMAGES[:0], "data are empty"),
    "empty dataset": (tf.data.Dataset.from_tensor_slices(IMAGES).take(0), "are empty"),
    "empty list": ([], "data are empty"),
    "shape": (IMAGES[:, :4], r"shapes \[\(8, 8, 3\)\].*Received: \[\(20, 4, 8, 3\)\]"),
    "length": ((IMAGES, LABELS[:9]), r"equally long. Received: \[9, 20\]"),
    "label": ((IMAGES, LABELS + 1), "labels go from 1 to 5, the model has the classes"),
    "negative": ((IMAGES, LABELS - 1), "labels go from -1 to 3"),
    "rows": ((IMAGES, np.eye(6)[LABELS]), "rows of 6 classes, the model has 5"),
    "nothing": (7, "data must be arrays or an iterable. Received: 7"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, files, quantized):
    data, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        verify(files["int8"].path, against=quantized, data=data)


def test_another_number_of_classes(files):
    with pytest.raises(ValueError, match=r"\[\(5,\)\] .*'small' \[\(7,\)\]: the class"):
        verify(files["int8"].path, against=small_net(classes=7), data=IMAGES)


def test_fewer_outputs_than_the_model(files, net):
    both = keras.Model(net.input, [net.output, net.get_layer("pool").output])
    with pytest.raises(ValueError, match=r"outputs of the shapes \[\(5,\)\]"):
        verify(files["int8"].path, against=both, data=IMAGES)


def test_labels_without_classes(tmp_path):
    image = keras.Input((8, 8, 3))
    net = keras.Model(image, keras.layers.Conv2D(4, 1)(image))
    path = convert(net, tmp_path / "a.tflite").path
    report = verify(path, against=net, data=IMAGES)
    assert report.argmax_agreement is None
    with pytest.raises(ValueError, match=r"Labels need a first output \(N, classes\)"):
        verify(path, against=net, data=(IMAGES, LABELS))


def test_files_that_cannot_be_run(files, net, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        verify(tmp_path / "nothing.tflite", against=net, data=IMAGES)
    model = litert.File(files["int8"].path).model
    main = model.subgraphs[0]
    main.tensors[main.inputs[0]].shape = [4, 8, 8, 3]
    path = tmp_path / "batch.tflite"
    path.write_bytes(litert.pack(model))
    with pytest.raises(ValueError, match="only files of batch size 1"):
        verify(path, against=net, data=IMAGES)

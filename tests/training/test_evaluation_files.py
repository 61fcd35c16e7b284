"""Figures of every kind of file are equal, and those of Keras' own accuracy."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.int8_nets import photo_bytes, scaled, small_net

from keras_attention import data, mobile, training
from keras_attention.training.evaluation import evaluate


def batches(x, y, size=16):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


X = scaled(photo_bytes(60, 8))


@pytest.fixture(scope="module")
def answers():
    """A net, and labels that it has right for two samples in three."""
    net = small_net(classes=7)
    labels = net.predict(X, verbose=0).argmax(1)
    labels[::3] = (labels[::3] + 1) % 7
    return net, labels


@pytest.fixture(scope="module")
def folder(answers, tmp_path_factory):
    net, _ = answers
    folder = tmp_path_factory.mktemp("files")
    int8, int16 = (mobile.quantize(net, X, scheme=s) for s in ("int8", "int16x8"))
    for name, model in (("net", net), ("int8", int8), ("int16", int16)):
        model.save(folder / f"{name}.keras")
        mobile.convert(model, folder / f"{name}.tflite")
    for precision in ("float16", "dynamic"):
        mobile.convert(net, folder / f"{precision}.tflite", precision=precision)
    mobile.convert(net, folder / "net_softmax.tflite", softmax=True)
    mobile.convert(int8, folder / "int8_softmax.tflite", softmax=True)
    return folder


@pytest.fixture(scope="module")
def reports(answers, folder):
    _, labels = answers
    return {
        path.name: evaluate(path, batches(X, labels))
        for path in sorted(folder.glob("*.*"))
        if path.suffix in (".keras", ".tflite")
    }


def far(first, second):
    """The largest difference of what two reports measure."""
    names = ("top1", "top5", "loss", "calibration_error")
    return max(abs(getattr(first, n) - getattr(second, n)) for n in names)


class TestFormats:
    def test_keras_models_are_their_files(self, answers, reports):
        net, labels = answers
        report = evaluate(net, batches(X, labels))
        assert report.top1 == 2 / 3
        assert 2 / 3 < report.top5 < 1
        assert far(report, reports["net.keras"]) == 0

    # Float kernels differ by the order of a sum; those of float16 store kernels to
    # 5e-4. One integer step of a logit is 0.02 here, and one sample 1 / 60.
    @pytest.mark.parametrize(
        ("file", "like", "tolerance"),
        [
            ("net.tflite", "net.keras", 1e-5),
            ("net_softmax.tflite", "net.keras", 1e-5),
            ("float16.tflite", "net.keras", 1e-3),
            ("dynamic.tflite", "net.keras", 2e-2),
            ("int16.keras", "net.keras", 1e-2),
            ("int16.tflite", "int16.keras", 1e-3),
            ("int8.keras", "net.keras", 5e-2),
            ("int8.tflite", "int8.keras", 1e-2),
        ],
    )
    def test_same_figures(self, reports, file, like, tolerance):
        assert far(reports[file], reports[like]) <= tolerance

    def test_the_uint8_twin_is_the_int8_file(self, reports):
        for name in ("int8", "int8_softmax"):
            twin, file = (reports[f"{name}{s}.tflite"] for s in ("_uint8", ""))
            assert far(twin, file) == 0
            np.testing.assert_array_equal(twin.confusion, file.confusion)

    def test_integer_probabilities(self, reports):
        found, logits = reports["int8_softmax.tflite"], reports["int8.tflite"]
        assert (found.outputs, logits.outputs) == ("probabilities", "logits")
        # Half a step of 1/256 makes ties, each of which may cost a sample of 60.
        assert far(found, logits) <= 2 / 60
        # Probabilities that were read as logits would be as good as uniform.
        assert abs(found.loss - np.log(7)) > 0.3

    def test_what_verify_counts(self, answers, folder, reports):
        _, labels = answers
        verified = mobile.verify(
            folder / "int8.tflite",
            against=folder / "int8.keras",
            data=(X, labels),
            reference_samples=0,
            worst_layers=0,
        )
        assert verified.file_accuracy == reports["int8.tflite"].top1
        assert verified.keras_accuracy == reports["int8.keras"].top1


def test_image_data():
    digits = data.load("digits", image_size=8)
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    training.fit_classifier(model, digits, epochs=3)
    report = evaluate(model, digits)
    assert report.count == digits.test_size == report.confusion.sum()
    assert report.top1 == training.accuracy(model, digits.test)
    assert [c.label for c in report.classes] == list("0123456789")
    assert [c.count for c in report.classes] == report.confusion.sum(1).tolist()
    # The same samples as tf.data with a column of labels, and other names.
    column = digits.test.map(lambda x, y: (x, tf.cast(y, tf.uint8)[:, None]))
    renamed = evaluate(model, column, labels=list("abcdefghij"))
    assert far(renamed, report) == 0
    assert renamed.confused[0].truth == "abcdefghij"[int(report.confused[0].truth)]


ON_JAX = """
import json, pathlib, sys
import keras, numpy as np
from keras_attention.training.evaluation import evaluate
x, y = (np.load(path) for path in sys.argv[2:])
folder = pathlib.Path(sys.argv[1])
print(json.dumps([
    keras.backend.backend(),
    *(evaluate(folder / name, [(x, y)]).to_dict() for name in
      ("net.keras", "int8.tflite")),
]))
"""


def test_on_jax(answers, folder, reports, tmp_path):
    paths = [tmp_path / "x.npy", tmp_path / "y.npy"]
    for path, array in zip(paths, (X, answers[1]), strict=True):
        np.save(path, array)
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX, folder, *paths],
        env=os.environ
        | {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    backend, *found = json.loads(done.stdout.splitlines()[-1])
    assert backend == "jax"
    # Other float32 kernels, and the same file on the same LiteRT.
    for stored, file, tolerance in zip(
        found, ("net.keras", "int8.tflite"), (1e-5, 0), strict=True
    ):
        for name in ("loss", "top1", "calibration_error"):
            assert abs(stored[name] - getattr(reports[file], name)) <= tolerance


def test_images_of_another_shape(folder):
    with pytest.raises(ValueError, match=r"takes arrays .* \[\(8, 8, 3\)\]"):
        evaluate(folder / "net.tflite", [(np.zeros((2, 4, 4, 3)), np.array([0, 2]))])

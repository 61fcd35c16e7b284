"""Figures of classifiers: computed by hand, and against scikit-learn."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from sklearn import calibration, metrics

from keras_attention.training import evaluation
from keras_attention.training.evaluation import evaluate


def passing(classes, activation=None):
    """A model whose outputs are its inputs, or their softmax."""
    x = keras.Input((classes,))
    return keras.Model(x, keras.layers.Activation(activation or "linear")(x), name="it")


def batches(x, y, size=16):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


# Probabilities of the answers: 0.7, 0.7, 0.5 (a tie: class 0), 0.9.
ROWS = np.array([[3, 7, 0], [7, 0, 3], [2, 2, 0], [0.5, 0.5, 9]])


@pytest.fixture(scope="module")
def by_hand():
    logits = np.log(np.maximum(ROWS, 1e-30)).astype("float32")
    return evaluate(passing(3), batches(logits, np.array([1, 2, 1, 2]), 3), bins=4)


class TestByHand:
    def test_counts(self, by_hand):
        assert (by_hand.model, by_hand.count, by_hand.outputs) == ("it", 4, "logits")
        # The third row is a tie that the lower class wins, so the answer is wrong.
        assert by_hand.top1 == 2 / 4
        assert by_hand.top5 is None
        np.testing.assert_array_equal(
            by_hand.confusion, [[0, 0, 0], [1, 1, 0], [1, 0, 1]]
        )
        assert by_hand.confusion.dtype == np.int64

    def test_classes(self, by_hand):
        first, second, third = by_hand.classes
        assert first == evaluation.ClassFigures("0", 0, 0.0, None, 0.0)
        assert second == evaluation.ClassFigures(
            "1", 2, 1.0, 0.5, pytest.approx(2 / 3, abs=1e-12)
        )
        assert dataclasses.replace(third, label="1") == second

    def test_loss_and_calibration(self, by_hand):
        # Float32 logits, each good to 1e-7 of its size.
        shares = np.array([0.7, 0.3, 0.5, 0.9])
        assert by_hand.loss == pytest.approx(-np.log(shares).mean(), abs=1e-6)
        # Of the bins (0.25, 0.5], (0.5, 0.75] and (0.75, 1].
        expected = abs(0 - 0.5) + abs(1 - 1.4) + abs(1 - 0.9)
        assert by_hand.calibration_error == pytest.approx(expected / 4, abs=1e-6)
        assert [bin.count for bin in by_hand.bins] == [0, 1, 2, 1]
        assert by_hand.bins[0].confidence is by_hand.bins[0].accuracy is None
        assert by_hand.bins[2].accuracy == 0.5
        assert by_hand.bins[2].confidence == pytest.approx(0.7, abs=1e-6)

    def test_confused(self, by_hand):
        # Equally often: the lower class first.
        assert by_hand.confused == (
            evaluation.Confusion("1", "0", 1, 0.5),
            evaluation.Confusion("2", "0", 1, 0.5),
        )

    def test_report(self, by_hand):
        stored = json.loads(json.dumps(by_hand.to_dict()))
        assert stored["confusion"] == by_hand.confusion.tolist()
        assert stored["classes"][0]["recall"] is None
        assert stored["bins"][3] == {
            "low": 0.75,
            "high": 1.0,
            "count": 1,
            "confidence": pytest.approx(0.9, abs=1e-6),
            "accuracy": 1.0,
        }
        text = str(by_hand)
        assert "top1               0.5\n" in text
        assert "top5               -\n" in text
        assert "truth 2, answer 0, count 1, share 0.5" in text
        assert "recall" not in text


def test_bin_edges():
    """Guo et al.: the bins are ((m - 1) / M, m / M]."""
    rows = np.array([[0.5, 0.5], [0.75, 0.25], [1, 0]], "float32")
    report = evaluate(passing(2), [(rows, np.zeros(3, int))], bins=4)
    assert report.outputs == "probabilities"
    assert [bin.count for bin in report.bins] == [0, 1, 1, 1]
    assert [(bin.low, bin.high) for bin in report.bins][1] == (0.25, 0.5)


def test_ties_count_for_the_lower_class():
    rows = np.zeros((7, 7), "float32")
    report = evaluate(passing(7), [(rows, np.arange(7))])
    assert report.top1 == 1 / 7
    assert report.top5 == 5 / 7
    np.testing.assert_array_equal(report.confusion[:, 0], np.ones(7))


def test_probability_zero_costs_as_in_keras():
    rows = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]], "float32")
    labels = np.array([1, 2, 2])
    report = evaluate(passing(3), [(rows, labels)])
    loss = keras.losses.SparseCategoricalCrossentropy()(labels, rows)
    # Keras computes in float32, near 16, and holds back 1e-7 at 1 as well.
    assert report.loss == pytest.approx(float(loss), abs=1e-5)
    assert np.isfinite(report.loss)


def test_replicas_that_answer_twice(monkeypatch):
    """What `predict_on_batch` gives of a model that MirroredStrategy holds twice."""
    model = passing(3)
    plain = evaluate(model, [GOOD])
    once = model.predict_on_batch
    monkeypatch.setattr(
        model, "predict_on_batch", lambda x: np.concatenate([once(x), once(x)])
    )
    assert evaluate(model, [GOOD]) == plain


@pytest.fixture(scope="module")
def drawn():
    """Logits of 12 classes, with which 60 % of the answers are right."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, 500)
    logits = rng.normal(0, 1.5, (500, 12)) + 3 * np.eye(12)[labels]
    return logits.astype("float32"), labels


@pytest.fixture(scope="module")
def report(drawn):
    return evaluate(passing(12), batches(*drawn))


class TestAgainstScikitLearn:
    def test_accuracies(self, report, drawn):
        logits, labels = drawn
        assert 0.4 < report.top1 < 0.8 < report.top5 < 1  # nothing is trivial
        for k, found in ((1, report.top1), (5, report.top5)):
            assert found == metrics.top_k_accuracy_score(labels, logits, k=k)

    def test_loss(self, report, drawn):
        logits, labels = drawn
        powers = np.exp(logits.astype("float64"))
        shares = powers / powers.sum(1, keepdims=True)
        # The same numbers in float64: a sum's rounding.
        expected = metrics.log_loss(labels, shares)
        assert report.loss == pytest.approx(expected, abs=1e-12)

    def test_confusion(self, report, drawn):
        logits, labels = drawn
        expected = np.zeros((12, 12), int)
        np.add.at(expected, (labels, logits.argmax(1)), 1)
        np.testing.assert_array_equal(report.confusion, expected)
        mistakes = expected - np.diag(expected.diagonal())
        assert len(report.confused) == evaluation.PAIRS
        assert [c.count for c in report.confused] == sorted(mistakes.flat)[:-11:-1]
        for pair in report.confused:
            truth, answer = int(pair.truth), int(pair.answer)
            assert pair.count == mistakes[truth, answer]
            assert pair.share == pair.count / (labels == truth).sum()

    def test_classes(self, report, drawn):
        logits, labels = drawn
        expected = metrics.classification_report(
            labels, logits.argmax(1), output_dict=True
        )
        for found in report.classes:
            row = expected[found.label]
            assert found.count == row["support"]
            assert (found.precision, found.recall) == (row["precision"], row["recall"])
            assert found.f1 == pytest.approx(row["f1-score"], abs=1e-12)

    def test_calibration(self, report, drawn):
        logits, labels = drawn
        powers = np.exp(logits.astype("float64"))
        shares = powers / powers.sum(1, keepdims=True)
        right = logits.argmax(1) == labels
        accuracies, confidences = calibration.calibration_curve(
            right, shares.max(1), n_bins=15
        )
        filled = [bin for bin in report.bins if bin.count]
        np.testing.assert_allclose([b.accuracy for b in filled], accuracies, 1e-12)
        np.testing.assert_allclose([b.confidence for b in filled], confidences, 1e-12)
        gaps = [b.count * abs(b.accuracy - b.confidence) for b in filled]
        assert report.calibration_error == pytest.approx(sum(gaps) / 500, abs=1e-12)
        assert report.calibration_error > 0.01

    def test_probabilities_are_read_as_such(self, report, drawn):
        found = evaluate(passing(12, "softmax"), batches(*drawn))
        assert (report.outputs, found.outputs) == ("logits", "probabilities")
        # Keras' softmax is float32; 1e-7 is the least that a probability counts.
        for name in ("loss", "calibration_error"):
            assert getattr(found, name) == pytest.approx(
                getattr(report, name), abs=1e-5
            )
        assert (found.top1, found.top5) == (report.top1, report.top5)
        assert found.classes == report.classes


def test_a_perfectly_calibrated_model():
    """Labels are drawn with the probabilities that the model states."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), 40_000)
    labels = (rng.random((40_000, 1)) > shares.cumsum(1)).sum(1)
    report = evaluate(passing(3), [(shares, labels)])
    # 15 bins of 2,700 samples: the accuracy of each is off by 0.01 or less.
    assert report.calibration_error < 0.01
    sure = np.eye(3)[shares.argmax(1)] * 20
    assert evaluate(passing(3), [(sure, labels)]).calibration_error > 0.2


GOOD = (np.zeros((2, 3), "float32"), np.array([0, 2]))
MISTAKES = {
    "empty": ([], "data are empty: there is nothing"),
    "not iterable": (7, "iterable of batches .*, got int"),
    "no labels": ([GOOD[0]], r"must yield pairs: \(x, class numbers\)"),
    "one-hot": ([(GOOD[0], np.eye(3)[:2])], r"class numbers, .* float64 \(2, 3\)"),
    "length": ([(GOOD[0], np.arange(3))], r"of the shape \(2,\); got int64 \(3,\)"),
    "label": ([(GOOD[0], np.array([1, 3]))], "go from 1 to 3, it has the classes 0 to"),
    "negative": ([(GOOD[0], np.array([-1, 1]))], "labels go from -1 to 1"),
    "nan": ([(GOOD[0] * np.nan, GOOD[1])], "it gives outputs that are not finite"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_data(mistake):
    given, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        evaluate(passing(3), given)


def test_mistakes_in_models(tmp_path):
    with pytest.raises(ValueError, match="it has 3 outputs, the data 2 classes: a, b"):
        evaluate(passing(3), [GOOD], labels=["a", "b"])
    names = [f"n{number}" for number in range(14)]
    with pytest.raises(ValueError, match=r"14 classes: n0, .*, n11, \.\.\.$"):
        evaluate(passing(3), [GOOD], labels=names)
    image = keras.Input((4, 4, 3))
    maps = keras.Model(image, keras.layers.Conv2D(5, 1)(image))
    with pytest.raises(ValueError, match=r"must give \(N, classes\) .* \(2, 4, 4, 5\)"):
        evaluate(maps, [(np.zeros((2, 4, 4, 3)), GOOD[1])])
    with pytest.raises(ValueError, match=r"a \.keras or a \.tflite file; got .*a\.h5"):
        evaluate(tmp_path / "a.h5", [GOOD])
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.tflite"):
        evaluate(tmp_path / "none.tflite", [GOOD])


@pytest.mark.parametrize("bins", [0, 1.5, -3])
def test_bins_out_of_range(bins):
    with pytest.raises(
        ValueError, match=f"bins must be a positive integer, got {bins}"
    ):
        evaluate(passing(3), [GOOD], bins=bins)

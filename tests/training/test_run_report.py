"""Pages and pictures of runs and evaluations: that they show the figures, whole."""

import ast
import dataclasses
import html.parser
import json
import pathlib

import keras
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import keras_attention
from keras_attention import html_page
from keras_attention.training import evaluation_pictures, run_report
from keras_attention.training.evaluation import evaluate

NAMES = ["<b>cat</b>", "$x^$", "漢字", "a name that is longer than any of these axes"]
HISTORY = {
    "epoch": [0.0, 1.0, 2.0],
    "loss": [2.0, 1.5, float("nan")],
    "val_loss": [2.1, 1.6, 1.2],
    "learning_rate": [0.1, 0.05, 0.0],
    "seconds": [3600.0, 60.0, 5.4],
    "images_per_second": [10.0, 1200.0, 1300.0],
}
ENVIRONMENT = {"devices": ["cpu:0", "cpu:1"], "replicas": 2, "versions": {"keras": "3"}}


@dataclasses.dataclass(frozen=True)
class Rates:
    lr: float = 0.1
    milestones: tuple = (3, 5)


@dataclasses.dataclass(frozen=True)
class SmallRecipe:
    data: str = "folder:<photos>"
    optimizer: Rates = Rates()
    image_size: None = None
    arguments: dict = dataclasses.field(default_factory=dict)


pytestmark = pytest.mark.usefixtures("matplotlib_stays")


def evaluated(confusion, labels=None):
    """An evaluation with that confusion matrix."""
    confusion = np.asarray(confusion)
    classes = len(confusion)
    pairs = np.repeat(np.argwhere(confusion), confusion[confusion > 0], axis=0)
    x = keras.Input((classes,))
    model = keras.Model(x, keras.layers.Activation("linear")(x), name="net")
    # Another margin for each sample: the bins of the calibration fill.
    margins = 1 + np.arange(len(pairs))[:, None] % 5
    outputs = (np.eye(classes)[pairs[:, 1]] * margins).astype("float32")
    report = evaluate(model, [(outputs, pairs[:, 0])], labels=labels)
    np.testing.assert_array_equal(report.confusion, confusion)
    return report


@pytest.fixture(scope="module")
def four():
    confusion = [[8, 2, 0, 0], [0, 9, 1, 0], [0, 0, 7, 0], [0, 0, 0, 0]]
    return evaluated(confusion, NAMES)


class Page(html.parser.HTMLParser):
    """The words, tables and pictures of a page; fails where a tag is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.cells, self.pictures = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        references = [v for k, v in attributes.items() if k.endswith("href")]
        assert all(reference.startswith("#") for reference in references)
        if tag == "img":
            self.pictures.append(attributes["src"])
        elif tag != "meta":
            self.open.append(tag)
        if tag in ("td", "th", "b"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)
        if self.open and self.open[-1] in ("td", "th", "b"):
            self.cells[-1] += text


class TestRun:
    def test_files(self, four, tmp_path):
        out = tmp_path / "run"
        report = run_report.write(out, SmallRecipe(), HISTORY, four, ENVIRONMENT)
        assert {p.name for p in out.iterdir()} == {
            *("report.html", "report.json", "curves.png")
        }
        text = (out / "report.json").read_text("utf-8")
        assert json.loads(text) == json.loads(json.dumps(report))
        # A list of numbers is one line.
        assert '"learning_rate": [ 0.1, 0.05, 0.0 ]' in text
        assert report["recipe"]["optimizer"] == {"lr": 0.1, "milestones": [3, 5]}
        assert report["environment"] == ENVIRONMENT
        assert report["history"]["loss"] == [2.0, 1.5, None]
        assert (report["epochs"], report["seconds"]) == (3, 3665.4)
        assert report["images_per_second"] == 1250  # without the epoch that traces
        assert report["evaluation"]["top1"] == 24 / 27
        with Image.open(out / "curves.png") as picture:
            assert picture.format == "PNG"

    def test_page(self, four, tmp_path):
        run_report.write(tmp_path, SmallRecipe(), HISTORY, four, ENVIRONMENT)
        page = Page((tmp_path / "report.html").read_text("utf-8"))
        assert len(page.pictures) == 2
        assert all(p.startswith("data:image/png;base64,") for p in page.pictures)
        assert "Training on folder:<photos>" in page.words
        for value in ("88.89%", "1:01:05", "1,250"):
            assert value in page.cells, value
        cells = " | ".join(page.cells)
        for row in (
            *("data | folder:<photos>", "optimizer.lr | 0.1", "image_size | -"),
            *("optimizer.milestones | 3, 5", "arguments | -", "replicas | 2"),
            *("devices | cpu:0, cpu:1", "versions.keras | 3"),
            "<b>cat</b> | $x^$ | 2 | 20.00%",
            "漢字 | 7 | 87.50% | 100.00% | 93.33%",
            f"{NAMES[3]} | 0 | - | - | -",
        ):
            assert row in cells, row

    def test_without_evaluation_and_times(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text("epoch,loss\n0,2.5\n1,1.5\n")
        report = run_report.write(tmp_path, {"epochs": 2}, path, None, {})
        assert report["evaluation"] is None
        assert report["history"] == {"epoch": [0, 1], "loss": [2.5, 1.5]}
        assert "seconds" not in report
        page = Page((tmp_path / "report.html").read_text("utf-8"))
        assert page.pictures == []
        assert "Training" in page.words
        path.write_text("epoch,loss\n")
        with pytest.raises(ValueError, match="one value per epoch; got the lengths"):
            run_report.write(tmp_path, {}, path, None, {})

    def test_environment(self):
        found = run_report.environment(strategy="mirrored", replicas=2)
        assert found["versions"]["keras"] == keras.__version__
        assert found["backend"] == "tensorflow"
        assert found["devices"][0] == "cpu:0"
        assert (found["strategy"], found["replicas"]) == ("mirrored", 2)
        assert list(found)[-1] == "versions"
        json.dumps(found)


class TestEvaluation:
    def test_files(self, four, tmp_path):
        out = tmp_path / "new" / "folder"
        run_report.write_evaluation(out, dataclasses.replace(four, model="a/net.keras"))
        assert {p.name for p in out.iterdir()} == {
            *("evaluation.json", "evaluation.html"),
            *("confusion_matrix.png", "reliability.png"),
        }
        stored = json.loads((out / "evaluation.json").read_text("utf-8"))
        assert stored == four.to_dict() | {"model": "a/net.keras"}
        page = Page((out / "evaluation.html").read_text("utf-8"))
        assert "Evaluation of net.keras" in page.words
        assert len(page.pictures) == 2
        assert "Most frequent mistakes" in page.words

    def test_no_mistakes(self, tmp_path):
        run_report.write_evaluation(tmp_path, evaluated(np.eye(3, dtype=int)))
        page = Page((tmp_path / "evaluation.html").read_text("utf-8"))
        assert "None." in page.words

    def test_texts_keep_what_looks_like_lists(self, tmp_path):
        names = ["a [1,  2]", "b"]
        run_report.write_evaluation(tmp_path, evaluated(np.eye(2, dtype=int), names))
        stored = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
        assert stored["classes"][0]["label"] == names[0]

    def test_many_classes_show_the_worst(self):
        confusion = np.diag([9] * 40)
        confusion[17, 17], confusion[17, 3] = 2, 7
        confusion[5] = 0
        title, rows = run_report.class_rows(evaluated(confusion), 30)
        assert title == "The 30 of 40 classes with the lowest F1 score"
        assert rows[0] == ["17", "9", "100.00%", "22.22%", "36.36%"]
        assert rows[1][0] == "3"
        assert len(rows) == 30
        assert "5" not in [row[0] for row in rows]


def drawn(figure):
    """The colours of a figure's first plot by its own coordinates, and the plot."""
    figure.set_dpi(160)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    axes = figure.axes[0]

    def at(x, y):
        column, row = axes.transData.transform((x, y))
        return pixels[len(pixels) - 1 - int(row), int(column)].astype(int)

    return at, axes


def is_orange(colour):
    return colour[0] > colour[1] > colour[2] and colour[0] - colour[2] > 40


def is_blue(colour):
    return colour[2] > colour[0] + 40


class TestConfusionMatrix:
    def test_few_classes(self, four):
        at, axes = drawn(evaluation_pictures.confusion_matrix(four))
        counts = {t.get_position(): t.get_text() for t in axes.texts}
        assert counts == {
            (column, row): str(four.confusion[row, column])
            for row, column in np.argwhere(four.confusion)
        }
        # Beside the number in the cell's middle.
        assert is_blue(at(0.3, 0.3))
        assert is_orange(at(1.3, 0.3))
        assert at(0.3, 1.3).min() == 255
        labels = [text.get_text() for text in axes.get_yticklabels()]
        # No formula; a letter that the font lacks; a name that is cut.
        assert labels == ["<b>cat</b>", "$x^$", "□□", "a name that is longer t…"]
        assert axes.get_title() == "88.89% of 27 samples right"

    @pytest.mark.parametrize(("classes", "ticks"), [(60, 60), (1000, 20)])
    def test_many_classes(self, four, classes, ticks):
        confusion = np.diag([50] * classes)
        places = ((3, classes - 9), (classes - 1, 0), (classes // 2, 7))
        for row, column in places:
            confusion[row, column] = 1
        report = dataclasses.replace(
            four, confusion=confusion, classes=four.classes[-1:] * classes
        )
        at, axes = drawn(evaluation_pictures.confusion_matrix(report))
        # A single mistake among 51 samples is seen, and what is right.
        for row, column in places:
            assert is_orange(at(column, row)), (row, column)
            assert is_blue(at(row, row))
            assert not is_orange(at(row, column))
        assert len(axes.get_xticks()) == ticks
        assert not axes.texts
        width = axes.get_window_extent().width
        assert width / classes >= 2  # pixels per class


def test_reliability_diagram(four):
    figure = evaluation_pictures.reliability_diagram(four)
    upper, lower = figure.axes
    filled = [bin for bin in four.bins if bin.count]
    assert len(filled) > 2
    accuracies, gaps = ([p.get_height() for p in c] for c in upper.containers)
    np.testing.assert_allclose(accuracies, [bin.accuracy for bin in filled], rtol=1e-12)
    tops = np.add(accuracies, gaps)
    np.testing.assert_allclose(tops, [bin.confidence for bin in filled], rtol=1e-12)
    (shares,) = ([p.get_height() for p in c] for c in lower.containers)
    np.testing.assert_allclose(np.multiply(shares, 27), [b.count for b in four.bins])
    assert f"{four.calibration_error:.4f}" in upper.get_title()
    html_page.png(figure)


def test_what_measures_and_logs_needs_no_pictures():
    # Pictures, scikit-learn and TensorFlow come when they are asked for.
    folder = pathlib.Path(keras_attention.__file__).parent / "training"
    for name in ("evaluation.py", "logs.py"):
        body = ast.parse((folder / name).read_text("utf-8")).body
        imports = [ast.unparse(node) for node in body if "mport" in type(node).__name__]
        assert len(imports) > 5
        for library in ("matplotlib", "sklearn", "tensorflow", "html_page"):
            assert not [line for line in imports if library in line], library

"""Learning curves: what they show, and that they stand alone inside of a page."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import pyplot

from keras_attention import html_page
from keras_attention.training import curves, logs

NAN = float("nan")
HISTORY = {
    "epoch": [0.0, 1.0, 2.0],
    "accuracy": [0.2, 0.5, 0.8],
    "loss": [2.0, float("inf"), 1.0],
    "top5": [0.5, 0.6, 0.7],
    "val_accuracy": [NAN, 0.4, NAN],
    "val_loss": [2.1, 1.6, 1.2],
    "learning_rate": [0.1, 0.05, 0.0],
    "seconds": [9.0, 2.0, 2.0],
    "images_per_second": [10.0, 40.0, 50.0],
}


pytestmark = pytest.mark.usefixtures("matplotlib_stays")


def panels(figure):
    """{title: {label: (epochs, values)}} of what is drawn."""
    return {
        axes.get_title(): {
            line.get_label(): tuple(array.tolist() for array in line.get_data())
            for line in axes.get_lines()
        }
        for axes in figure.axes
        if axes.axison
    }


def test_what_is_drawn():
    figure = curves.figure(HISTORY)
    assert panels(figure) == {
        # What is missing or not finite is left out.
        "loss": {"training": ([1, 3], [2, 1]), "test": ([1, 2, 3], [2.1, 1.6, 1.2])},
        "accuracy": {"training": ([1, 2, 3], [0.2, 0.5, 0.8]), "test": ([2], [0.4])},
        "top5": {"training": ([1, 2, 3], [0.5, 0.6, 0.7])},
        "learning rate": {"training": ([1, 2, 3], [0.1, 0.05, 0])},
    }
    assert list(panels(figure)) == ["loss", "accuracy", "top5", "learning rate"]
    assert len(figure.axes) == 6  # two of them are empty
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["training", "test"]


def test_a_history_of_keras():
    found = panels(curves.figure({"loss": [3.0, 2.0], "val_loss": [4.0, 3.0]}))
    assert found == {"loss": {"training": ([1, 2], [3, 2]), "test": ([1, 2], [4, 3])}}


def test_later_epochs_stand_where_they_are():
    found = panels(curves.figure({"epoch": [7.0, 8.0], "loss": [3.0, 2.0]}))
    assert found["loss"]["training"][0] == [8, 9]


def test_a_single_epoch_is_seen():
    ends = {}
    for length in (1, 40):
        history = {"loss": [1.0] * length}
        pixels = pyplot.imread(png(curves.figure(history)))[..., :3]
        orange = np.abs(pixels - np.array([0xD9, 0x73, 0x0D]) / 255).max(-1) < 0.1
        ends[length] = orange.sum()
    # The legend's line is there in both.
    assert 20 < ends[1] < ends[40]


def png(figure):
    import io

    return io.BytesIO(html_page.png(figure))


def test_from_the_file(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss,learning_rate,seconds\n0,2.5,0.1,3\n1,1.5,0.0,1\n")
    found = panels(curves.figure(logs.read(path)))
    assert found["loss"]["training"] == ([1, 2], [2.5, 1.5])
    assert list(found) == ["loss", "learning rate"]


def test_drawing_is_a_part_of_a_page():
    svg = html_page.drawing(curves.figure(HISTORY), 'loss & "rate"')
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label") == 'loss & "rate"'
    assert root.get("role") == "img"
    for element in root.iter():
        for name, value in element.attrib.items():
            # Nothing is fetched: references lead to the drawing itself.
            assert not name.endswith("href") or value.startswith("#")
            assert all(u.startswith("#") for u in re.findall(r"url\((.*?)\)", value))
        assert not element.tag.endswith(("}image", "}script", "}metadata"))
    assert not svg.startswith("<?xml")
    assert "<!DOCTYPE" not in svg


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({}, r"one value per epoch; got the lengths \[\]"),
        ({"loss": []}, r"got the lengths \[0\]"),
        ({"loss": [1.0], "val_loss": [1.0, 2.0]}, r"got the lengths \[1, 2\]"),
    ],
)
def test_mistakes(history, message):
    with pytest.raises(ValueError, match=message):
        curves.figure(history)

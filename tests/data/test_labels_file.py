"""labels.txt: class names in the order of the outputs."""

import pytest

from keras_attention import data


def test_labels_survive_the_file(tmp_path):
    labels = ["zebra", "Äpfel und Birnen", "名前"]
    data.write_labels(tmp_path / "labels.txt", labels)
    text = (tmp_path / "labels.txt").read_text(encoding="utf-8")
    assert text == "zebra\nÄpfel und Birnen\n名前\n"
    assert data.read_labels(tmp_path / "labels.txt") == labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "holds no class name"),
        (["a", ""], "class name 1 must be one non-empty line, got ''"),
        (["a\nb"], "class name 0 must be one non-empty line"),
        (["a", "b", "a"], r"must differ, got twice: \['a'\]"),
    ],
)
def test_unusable_labels_are_refused_and_nothing_is_written(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        data.write_labels(tmp_path / "labels.txt", labels)
    assert list(tmp_path.iterdir()) == []


def test_unusable_files_are_named(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("a\n\nb\n")
    with pytest.raises(ValueError, match=r"labels\.txt: class name 1"):
        data.read_labels(path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"labels\.txt holds no class name"):
        data.read_labels(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        data.read_labels(tmp_path / "missing.txt")

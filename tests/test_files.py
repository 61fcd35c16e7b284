"""Files are written as a whole or not at all."""

import pytest

from keras_attention import files


def test_replacing_writes_as_a_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with files.replacing(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="halfway"):
        with files.replacing(path) as temporary:
            temporary.write_text("new")
            raise RuntimeError("halfway")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_permissions_are_those_of_a_plain_file(tmp_path):
    (tmp_path / "plain.txt").write_text("")
    with files.replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("")
    modes = {entry.stat().st_mode for entry in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("write", [files.require_writable, lambda p: enter(p)])
def test_unwritable_places_are_named(tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/a\.txt: "):
        write(tmp_path / "file" / "a.txt")


def enter(path):
    with files.replacing(path):
        pass


def test_a_folder_cannot_be_a_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        files.require_writable(tmp_path)
    assert files.require_writable(tmp_path / "a.txt") == tmp_path / "a.txt"
    assert list(tmp_path.iterdir()) == []

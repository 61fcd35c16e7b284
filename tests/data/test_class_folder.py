"""Class folders: what is found, how it is split, and what is refused."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_attention import data


def fill(folder, count=10, suffix=".png", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (12, 16, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{number:03}{suffix}")
    return folder


def names(samples, root):
    return {sample.path.relative_to(root).as_posix() for sample in samples}


def test_labels_are_the_sorted_folder_names(tmp_path):
    for name in ("pear", "Apple", "fig"):
        fill(tmp_path / name)
    found = data.scan_folder(tmp_path)
    assert found.labels == ("Apple", "fig", "pear")
    for sample in (*found.train, *found.test):
        assert found.labels[sample.label] == sample.path.parent.name


def test_split_is_fixed_by_each_files_name(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / name, 100)
    before = data.scan_folder(tmp_path)
    sizes = len(before.train), len(before.test)
    assert sum(sizes) == 200
    # 40 expected; a binomial draw leaves this interval once in ten thousand names.
    assert 20 <= sizes[1] <= 60
    assert not names(before.train, tmp_path) & names(before.test, tmp_path)
    fill(tmp_path / "a", 30, start=100)
    after = data.scan_folder(tmp_path)
    assert names(before.train, tmp_path) <= names(after.train, tmp_path)
    assert names(before.test, tmp_path) <= names(after.test, tmp_path)


def test_split_does_not_depend_on_where_the_folder_is(tmp_path):
    for place in ("here", "there"):
        for name in ("a", "b"):
            fill(tmp_path / place / name)
    first, second = tmp_path / "here", tmp_path / "there"
    assert names(data.scan_folder(first).test, first) == names(
        data.scan_folder(second).test, second
    )


@pytest.mark.parametrize("count", [2, 3])
def test_small_classes_have_images_on_both_sides(tmp_path, count):
    for name in "abcdefgh":
        fill(tmp_path / name, count)
    found = data.scan_folder(tmp_path)
    for samples in (found.train, found.test):
        assert {sample.label for sample in samples} == set(range(8))


@pytest.mark.parametrize("test_name", ["val", "validation", "test"])
def test_given_split_is_kept(tmp_path, test_name):
    for name in ("a", "b"):
        fill(tmp_path / "train" / name, 3)
        fill(tmp_path / test_name / name, 2)
    found = data.scan_folder(tmp_path)
    assert names(found.train, tmp_path / "train") == {
        f"{name}/00{i}.png" for name in "ab" for i in range(3)
    }
    assert names(found.test, tmp_path / test_name) == {
        f"{name}/00{i}.png" for name in "ab" for i in range(2)
    }


def test_suffixes_in_any_case_and_any_depth(tmp_path):
    fill(tmp_path / "a", 2, ".JPG")
    fill(tmp_path / "a" / "deeper", 2, ".Png", start=2)
    fill(tmp_path / "b", 2, ".jpeg")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._000.jpg").write_text("left by a file manager")
    (tmp_path / ".cache").mkdir()
    found = data.scan_folder(tmp_path)
    assert found.labels == ("a", "b")
    assert len(found.train) + len(found.test) == 6
    assert found.skipped == ()


def test_damaged_files_are_skipped_by_name_or_refused(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / name, 5, ".jpg")
    damaged = tmp_path / "b" / "002.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    found = data.scan_folder(tmp_path)
    assert [skipped.path for skipped in found.skipped] == [damaged]
    assert "truncated" in found.skipped[0].reason.lower()
    assert len(found.train) + len(found.test) == 9
    with pytest.raises(ValueError, match=r"1 of 10 image files .*b/002\.jpg: "):
        data.scan_folder(tmp_path, strict=True)


def test_class_without_images(tmp_path):
    fill(tmp_path / "a", 3)
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*b holds no image; expected"):
        data.scan_folder(tmp_path)
    (tmp_path / "b" / "x.png").write_text("no image")
    with pytest.raises(ValueError, match=r"b holds no image \(1 can't be read\)"):
        data.scan_folder(tmp_path)


def test_class_with_one_image(tmp_path):
    fill(tmp_path / "a", 3)
    fill(tmp_path / "b", 1)
    with pytest.raises(ValueError, match="b holds one image; it takes two"):
        data.scan_folder(tmp_path)


def test_too_few_classes(tmp_path):
    with pytest.raises(ValueError, match="at least two class folders .* found none"):
        data.scan_folder(tmp_path)
    fill(tmp_path / "only")
    with pytest.raises(ValueError, match=r"two class folders .* found \['only'\]"):
        data.scan_folder(tmp_path)


def test_missing_folder_and_file_in_its_place(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        data.scan_folder(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"):
        data.scan_folder(tmp_path / "file")


def test_classes_must_be_the_same_in_both_splits(tmp_path):
    for name in ("a", "b", "c"):
        fill(tmp_path / "train" / name, 2)
    for name in ("a", "b", "d"):
        fill(tmp_path / "val" / name, 2)
    with pytest.raises(
        ValueError, match=r"first: \['c'\], only in the second: \['d'\]"
    ):
        data.scan_folder(tmp_path)


@pytest.mark.parametrize(
    ("train_name", "test_name"),
    [("train", "valid"), ("Train", "VAL"), ("TRAIN", "Test")],
)
def test_names_of_splits_in_any_case(tmp_path, train_name, test_name):
    for name in ("a", "b"):
        fill(tmp_path / train_name / name, 3)
        fill(tmp_path / test_name / name, 2)
    found = data.scan_folder(tmp_path)
    assert found.labels == ("a", "b")
    assert (len(found.train), len(found.test)) == (6, 4)


def test_val_comes_before_test(tmp_path):
    for split, count in (("test", 4), ("train", 3), ("valid", 2)):
        for name in ("a", "b"):
            fill(tmp_path / split / name, count)
    assert len(data.scan_folder(tmp_path).test) == 4
    for name in ("a", "b"):
        fill(tmp_path / "val" / name, 1)
    assert len(data.scan_folder(tmp_path).test) == 2


@pytest.mark.parametrize(
    ("splits", "named"), [(["train"], "train"), (["Val", "test"], "Val, test")]
)
def test_splits_without_their_other_half_are_no_classes(tmp_path, splits, named):
    for split in splits:
        for name in ("a", "b"):
            fill(tmp_path / split / name, 3)
    with pytest.raises(
        ValueError, match=f"only {named}, .*: put .*train/ and one of val/"
    ):
        data.scan_folder(tmp_path)


def test_two_folders_for_one_split(tmp_path):
    for split in ("train", "Train", "val"):
        fill(tmp_path / split / "a", 2)
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system does not tell upper from lower case")
    with pytest.raises(ValueError, match="more than one folder named train"):
        data.scan_folder(tmp_path)


def test_link_that_leads_nowhere_is_a_damaged_file(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / name, 5)
    link = tmp_path / "b" / "gone.jpg"
    link.symlink_to(tmp_path / "nowhere.jpg")
    found = data.scan_folder(tmp_path)
    assert [skipped.path for skipped in found.skipped] == [link]
    assert "gone.jpg" in found.skipped[0].reason
    assert len(found.train) + len(found.test) == 10
    with pytest.raises(ValueError, match=r"1 of 11 image files .*b/gone\.jpg"):
        data.scan_folder(tmp_path, strict=True)


def test_class_name_that_is_no_utf8(tmp_path):
    fill(tmp_path / "a", 3)
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    try:
        fill(pathlib.Path(bad), 3)
    except OSError:
        pytest.skip("this file system stores valid UTF-8 only")
    with pytest.raises(ValueError, match=r"class folder .*'caf\\udce9' .* UTF-8"):
        data.scan_folder(tmp_path)


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    for name in ("a", "b"):
        fill(tmp_path / "photos" / name, 4)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.scan_folder("~/photos").labels == ("a", "b")
    images = data.load("folder:~/photos", image_size=8)
    assert images.train_size + images.test_size == 8

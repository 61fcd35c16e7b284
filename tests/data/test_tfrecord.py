"""TFRecord files: written from folders, read in any order, damage and all."""

import numpy as np
import pytest
import tensorflow as tf
from support.datasets import by_pixels, collect
from support.photo_folders import fill

from keras_attention import data
from keras_attention.data import records, tfrecord

COUNTS = {"cat": 12, "dog": 9, "eel": 10}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("photos"), COUNTS)


@pytest.fixture(scope="module")
def written(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("records")
    data.write_tfrecords(photos, out, images_per_file=10)
    return out


def example(image, label, text=None):
    def feature(**value):
        return tf.train.Feature(**value)

    features = {
        "image/encoded": feature(bytes_list=tf.train.BytesList(value=[image])),
        "image/class/label": feature(int64_list=tf.train.Int64List(value=[label])),
    }
    if text:
        value = tf.train.BytesList(value=[text.encode()])
        features["image/class/text"] = feature(bytes_list=value)
    return tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString()


def write(path, photos, first=0, texts=False, counts=None):
    """All photos of a folder in one file, labelled from `first` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, name in enumerate(sorted(entry.name for entry in photos.iterdir())):
            for file in sorted((photos / name).iterdir())[slice(counts)]:
                text = name if texts else None
                writer.write(example(file.read_bytes(), number + first, text))
    return path


def test_written_folders_are_the_same_data(photos, written):
    scan = data.scan_folder(photos)
    files = sorted(path.name for path in written.iterdir())
    shards = -(-len(scan.train) // 10)
    assert files == [
        "labels.txt",
        *(f"train-{number:05}-of-{shards:05}" for number in range(shards)),
        "validation-00000-of-00001",
    ]
    folder, packed = (
        data.load(spec, image_size=16, batch_size=4)
        for spec in (f"folder:{photos}", f"tfrecord:{written}")
    )
    assert packed.labels == folder.labels == tuple(COUNTS)
    assert (packed.train_size, packed.test_size) == (
        folder.train_size,
        folder.test_size,
    )
    for part in ("test", "calibration"):
        assert by_pixels(getattr(packed, part)) == by_pixels(getattr(folder, part))


def test_records_are_read_at_random_and_again(written):
    arguments = {"image_size": 16, "batch_size": 4, "seed": 2}
    packed = data.load(f"tfrecord:{written}", **arguments)
    first = [x.tobytes() for x, _ in packed.epochs().take(12).as_numpy_iterator()]
    again = data.load(f"tfrecord:{written}", cache=True, **arguments)
    steps = again.steps_per_epoch
    rest = again.epochs(1, 1).take(12 - steps - 1).as_numpy_iterator()
    assert [x.tobytes() for x, _ in rest] == first[steps + 1 :]


def test_a_file_a_pattern_and_a_folder_name_the_same(photos, tmp_path):
    path = write(tmp_path / "deeper" / "all.tfrecord", photos, texts=True)
    (tmp_path / "deeper" / "notes.txt").write_text("no records")
    loaded = [
        data.load(f"tfrecord:{spec}", image_size=8)
        for spec in (path, tmp_path, tmp_path / "deeper" / "*.tfrecord")
    ]
    expected = collect(loaded[0].test)
    for images in loaded:
        assert images.labels == tuple(COUNTS)
        assert images.train_size + images.test_size == sum(COUNTS.values())
        np.testing.assert_array_equal(collect(images.test)[0], expected[0])


def test_split_depends_on_the_images_alone(photos, tmp_path):
    one = write(tmp_path / "a" / "all.tfrecord", photos)
    # Backwards, in two files, all in train: still the same images are for testing.
    raw = [bytes(record.numpy()) for record in tf.data.TFRecordDataset(str(one))]
    (tmp_path / "b").mkdir()
    for number, group in enumerate((raw[20:], raw[:20])):
        name = tmp_path / "b" / f"train-{number:05}-of-00002"
        with tf.io.TFRecordWriter(str(name)) as writer:
            for record in reversed(group):
                writer.write(record)
    tests = [
        by_pixels(data.load(f"tfrecord:{tmp_path / name}", image_size=8).test)
        for name in "ab"
    ]
    assert tests[0] == tests[1]
    # At least one of each class; a fifth of 31, give or take two deviations of 2.2.
    assert set(tests[0].values()) == {0, 1, 2}
    assert 3 <= len(tests[0]) <= 11


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("named", [False, True])
def test_labels_count_from_zero_or_one(photos, tmp_path, first, named):
    path = write(tmp_path / "all.tfrecord", photos, first)
    if named:
        data.write_labels(tmp_path / "labels.txt", ["x", "y", "z"])
    images = data.load(f"tfrecord:{path}", image_size=8)
    numbers = tuple(str(number + first) for number in range(3))
    assert images.labels == (("x", "y", "z") if named else numbers)
    _, labels = collect(images.calibration)
    assert set(labels.tolist()) == {0, 1, 2}


def test_labels_outside_of_the_names(photos, tmp_path):
    path = write(tmp_path / "all.tfrecord", photos, first=2)
    data.write_labels(tmp_path / "labels.txt", ["x", "y", "z"])
    with pytest.raises(ValueError, match=r"go from 2 to 4, there are 3 class names"):
        data.load(f"tfrecord:{path}")
    negative = write(tmp_path / "b" / "all.tfrecord", photos, first=-1)
    with pytest.raises(ValueError, match=r"go from -1 to 1, .* expected two classes"):
        data.load(f"tfrecord:{negative}")


def test_names_must_all_have_a_part_or_none(photos, tmp_path):
    for name in ("train.tfrecord", "extra.tfrecord"):
        write(tmp_path / name, photos, counts=3)
    with pytest.raises(ValueError, match=r"none of them any: 1 with none, 1 with trai"):
        data.load(f"tfrecord:{tmp_path}")


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_no_files(tmp_path, what):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=f"no TFRecord file at .*{what}: expected a"):
        data.load(f"tfrecord:{tmp_path / what}")


def places(path):
    return list(records._offsets(str(path), []))


def damage_data(path, content):
    content[places(path)[4] + 100] ^= 1


def damage_length(path, content):
    content[places(path)[20]] ^= 1


def tear(path, content):
    del content[places(path)[20] + 50 :]


@pytest.mark.parametrize(
    ("damage", "left", "reason"),
    [
        (
            damage_data,
            30,
            "the record at byte .* checksum is wrong, or it has no image",
        ),
        (damage_length, 20, "damaged, compressed or no TFRecord file from byte"),
        (tear, 20, r"no TFRecord file from byte \d+ to its end at \d+"),
    ],
)
def test_damaged_records_are_skipped_or_refused(photos, tmp_path, damage, left, reason):
    path = write(tmp_path / "all.tfrecord", photos)
    content = bytearray(path.read_bytes())
    damage(path, content)
    path.write_bytes(content)
    found = records.index([path], tfrecord.KEYS, strict=False)
    assert len(found) == left
    assert len(found.skipped) == 1
    with pytest.raises(ValueError, match=f"1 of {left + 1} records .*: .*{reason}"):
        records.index([path], tfrecord.KEYS, strict=True)


def test_records_that_are_no_images(photos, tmp_path):
    path = write(tmp_path / "all.tfrecord", photos)
    raw = [bytes(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in (example(b"no image", 1), b"no example", *raw):
            writer.write(record)
    images = data.load(f"tfrecord:{path}", image_size=8)
    assert images.train_size + images.test_size == sum(COUNTS.values())
    reasons = [skipped.reason for skipped in images.skipped]
    assert [r.split(": ", 1)[1][:24] for r in reasons] == [
        "cannot read the image: it"[:24],
        "its checksum is wrong, or it has no"[:24],
    ]


def test_a_file_that_is_no_tfrecord_file(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"0123456789abcdef" * 4)
    with pytest.raises(
        ValueError, match="hold no usable record; the first of 1: .*no T"
    ):
        data.load(f"tfrecord:{path}")


def test_checksums_are_those_that_tensorflow_writes(written):
    content = (written / "validation-00000-of-00001").read_bytes()
    length, checksum = records._HEADER.unpack(content[:12])
    assert records._checksum(content[:8]) == checksum
    body = content[12 : 12 + length]
    assert records._checksum(body).to_bytes(4, "little") == content[12 + length :][:4]


@pytest.mark.parametrize("count", [0, 2.5])
def test_images_per_file_must_be_positive(photos, tmp_path, count):
    with pytest.raises(ValueError, match="images_per_file must be a positive integer"):
        data.write_tfrecords(photos, tmp_path, images_per_file=count)
    assert list(tmp_path.iterdir()) == []

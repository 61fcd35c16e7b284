"""TensorFlow Datasets: prepared, mocked, and out of reach."""

import http.server
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from support.datasets import by_pixels, collect
from support.photo_folders import smooth

from keras_attention import data
from keras_attention.data import tfds as source


class Critters(tfds.core.GeneratorBasedBuilder):
    """Four classes of small photos that need no download."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = ("train", "validation")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        sizes = {"train": 30, "validation": 12}
        return {name: self._generate_examples(sizes[name]) for name in self.SPLITS}

    def _generate_examples(self, count):
        for number in range(count):
            picture = np.asarray(smooth(number * 100 + count))
            yield number, {"image": picture, "label": number % 3}


class CrittersWithoutTest(Critters):
    """The same without a part for testing."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = ("train",)


class Sentences(tfds.core.GeneratorBasedBuilder):
    """No images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "word"}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))


def test_prepared_data_is_read_in_place(monkeypatch):
    arguments = {"image_size": 16, "batch_size": 5}
    images = data.load("tfds:critters", **arguments)
    assert images.labels == ("ant", "bee", "cat")
    assert (images.train_size, images.test_size) == (30, 12)
    assert (images.augmentation.crop, images.augmentation.flip) == ("resized", True)
    assert images.skipped == ()
    assert np.bincount(collect(images.test)[1]).tolist() == [4, 4, 4]
    whole = [x.tobytes() for x, _ in images.epochs().take(12).as_numpy_iterator()]
    rest = images.epochs(1, 2).take(4).as_numpy_iterator()
    assert [x.tobytes() for x, _ in rest] == whole[8:]
    # What is no TFRecord file is read into memory; the data is the same.
    monkeypatch.setattr(source, "_in_place", lambda builder, splits: False)
    listed = data.load("tfds:critters", **arguments)
    assert by_pixels(listed.test) == by_pixels(images.test)
    assert by_pixels(listed.calibration) == by_pixels(images.calibration)
    assert listed.cache_bytes == images.cache_bytes


def test_train_alone_is_split_by_the_images():
    images = data.load("tfds:critters_without_test", image_size=8)
    assert images.train_size + images.test_size == 30
    # At least one of each class; a fifth, give or take two deviations of 2.2.
    assert 3 <= images.test_size <= 11
    assert set(collect(images.test)[1].tolist()) == {0, 1, 2}
    assert not set(by_pixels(images.test)) & set(by_pixels(images.calibration))


@pytest.mark.parametrize(
    ("name", "splits", "classes", "first", "size", "crop"),
    [
        ("cifar10", "train test", 10, "0", 32, "padded"),
        ("cifar100", "train test", 100, "0", 32, "padded"),
        ("mnist", "train test", 10, "0", 28, "padded"),
        ("imagenet2012", "train validation test", 1000, "n01440764", 224, "resized"),
        ("imagenette/320px-v2", "train validation", 10, "n01440764", 224, "resized"),
        ("food101", "train validation", 101, "apple_pie", 224, "resized"),
    ],
)
def test_well_known_data_sets(monkeypatch, name, splits, classes, first, size, crop):
    def prepare(builder, _):
        # The mock makes up images, but does not know the splits (nor the names of
        # CIFAR's classes, which are among the downloaded files).
        builder.info.set_splits(
            tfds.core.SplitDict(
                [split_info(builder, split) for split in splits.split()]
            )
        )

    monkeypatch.setattr(source, "_prepare", prepare)
    with tfds.testing.mock_data(num_examples=6):
        images = data.load(f"tfds:{name}", batch_size=2)
    assert (len(images.labels), images.labels[0]) == (classes, first)
    assert images.image_shape == (size, size, 3)
    assert (images.train_size, images.test_size) == (6, 6)
    assert images.augmentation.crop == crop
    assert images.augmentation.flip == (name != "mnist")
    x, y = next(images.epochs().as_numpy_iterator())
    assert x.shape == (2, size, size, 3)
    assert (y >= 0).all()
    assert (y < classes).all()


def split_info(builder, name):
    template = tfds.core.ShardedFileTemplate(
        data_dir=builder.data_dir,
        dataset_name=builder.name,
        split=name,
        filetype_suffix="tfrecord",
    )
    return tfds.core.SplitInfo(
        name=name, shard_lengths=[6], num_bytes=1, filename_template=template
    )


def test_unknown_names_show_the_nearest():
    with pytest.raises(
        ValueError, match=r"no data set 'cifar11'; nearest names: cifar"
    ):
        data.load("tfds:cifar11")


def test_data_without_images_is_refused():
    with pytest.raises(
        ValueError, match="tfds:sentences is no image classification .*"
    ):
        data.load("tfds:sentences")


def test_offline_it_fails_in_seconds_and_says_what_to_do(monkeypatch):
    # A host that exists nowhere: the same as no network.
    monkeypatch.setattr(source, "_answers", answers_of_an_unknown_host(source._answers))
    start = time.monotonic()
    with pytest.raises(
        ConnectionError, match=r"run `tfds build cifar100` where .*TFDS"
    ):
        data.load("tfds:cifar100")
    assert time.monotonic() - start < 10


def answers_of_an_unknown_host(answers):
    return lambda url: answers(url.replace("cs.toronto.edu", "nowhere.invalid"))


def test_silent_hosts_are_given_up(monkeypatch):
    monkeypatch.setattr(source, "_PATIENCE", 0.5)
    asked = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.set()
            time.sleep(1)

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    for handler, answers in ((Silent, False), (Refusing, True)):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/data.tar"
        start = time.monotonic()
        assert source._answers(url) is answers
        assert time.monotonic() - start < 5
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked.is_set()


def test_what_is_downloaded_by_hand_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=f"imagenet2012 has to be downloaded by hand, into manual_dir {tmp_path}",
    ):
        data.load("tfds:imagenet2012")

"""Published weights: the table, the cache, the network, the local server in between."""

import dataclasses
import hashlib
import http.server
import re
import socket
import threading

import keras
import numpy as np
import pytest
from support import torch_files
from support.comparing import difference
from support.small_networks import images, randomize

from keras_attention import models
from keras_attention.models import mobilenet_v2
from keras_attention.weights import imagenet
from keras_attention.weights.torch_state import torch_parameters

NETWORK = "MobileNetV2"
# A network that is small, but has the published one's classes.
SMALL = {"input_shape": (32, 32, 3), "width": 0.35}
STAGES = ((1, 16, 1, 1), (6, 24, 1, 2))


@pytest.fixture(scope="module")
def published():
    """Stands for the published network; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet_v2, "STAGES", STAGES)
        model = models.MobileNetV2(**SMALL)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def data(published, tmp_path_factory):
    """Its checkpoint."""
    parameters = torch_parameters(published)
    state = {name: p.to_torch(p.variable.numpy()) for name, p in parameters.items()}
    path = tmp_path_factory.mktemp("published") / "small.pth"
    torch_files.write_zip(path, torch_files.tensors(state))
    return path.read_bytes()


class Server(http.server.ThreadingHTTPServer):
    """Answers every request with `data` of which `missing` bytes are not sent."""

    data, missing, status, requests = b"", 0, 200, 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests += 1
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(server.data)))
        self.end_headers()
        if server.status == 200:
            self.wfile.write(server.data[: len(server.data) - server.missing])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(data):
    with Server(("127.0.0.1", 0), Handler) as server:
        server.data = data
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def entry(server, data, published, monkeypatch):
    """The table's entry for `data` on the server, and the builder to go with it."""
    monkeypatch.setattr(mobilenet_v2, "STAGES", STAGES)
    sha256 = hashlib.sha256(data).hexdigest()
    entry = dataclasses.replace(
        imagenet.FILES[NETWORK],
        url=f"http://127.0.0.1:{server.server_port}/models/small-{sha256[:8]}.pth",
        sha256=sha256,
        parameters=sum(int(np.prod(w.shape)) for w in published.trainable_weights),
        arguments="width=0.35",
    )
    monkeypatch.setitem(imagenet.FILES, NETWORK, entry)
    return entry


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty folder in Keras' place for files."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


def files(home):
    """Returns what is in the cache, by the paths in it."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*.*"))


def bytes_and_normalized(entry):
    """Returns images as the builders take them, and as the weights were trained."""
    photo = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))
    wanted = (photo / 255 - np.array(entry.mean)) / np.array(entry.std)
    return (photo / 128 - 1).astype("float32"), wanted.astype("float32")


class TestTable:
    @pytest.mark.parametrize("network", imagenet.FILES)
    def test_entries(self, network):
        entry = imagenet.FILES[network]
        assert hasattr(models, network)
        assert entry.url.startswith("https://")
        assert re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", entry.sha256)
        # torch.hub's rule, by which torchvision's files are called
        stem, _, digits = entry.file_name.removesuffix(".pth").rpartition("-")
        assert stem and entry.sha256.startswith(digits)
        assert 60 < entry.top1 < entry.top5 < 100
        assert len(entry.mean) == len(entry.std) == 3

    # papers.md 4.4 and 5.1 have the other depths; they take long to build
    @pytest.mark.parametrize("network", ["MobileNetV2", "ResNet18", "ResNeXt50"])
    def test_parameters_are_the_builders(self, network):
        model = getattr(models, network)((32, 32, 3))
        counted = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
        assert counted == imagenet.FILES[network].parameters


class TestDownload:
    def test_gives_the_published_network(self, entry, published, home, server):
        model = models.MobileNetV2(**SMALL, weights="imagenet")
        assert files(home) == [f"models/{entry.file_name}"]
        x, normalized = bytes_and_normalized(entry)
        expected = published(normalized)
        # rounding of the normalization in float32, then the same network
        assert difference(model(x), expected) < 1e-5
        assert difference(model(normalized), expected) > 0.1

        again = models.MobileNetV2(**SMALL, weights="imagenet")
        np.testing.assert_array_equal(again(x), model(x))
        assert server.requests == 1

    def test_prefix_of_the_checksum(self, entry, home, monkeypatch):
        short = dataclasses.replace(entry, sha256=entry.sha256[:8])
        monkeypatch.setitem(imagenet.FILES, NETWORK, short)
        assert imagenet.fetch(short) == home / "models" / entry.file_name
        wrong = dataclasses.replace(entry, sha256="0" * 8)
        message = "its sha256 is [0-9a-f]{64}, not one that begins with 00000000"
        with pytest.raises(ValueError, match=message):
            imagenet.fetch(wrong)

    def test_without_top(self, entry, published):
        model = models.MobileNetV2(
            **SMALL, classes=7, include_top=False, weights="imagenet"
        )
        x, normalized = bytes_and_normalized(entry)
        head = published.get_layer("head_relu").output
        expected = keras.Model(published.input, head)(normalized)
        assert difference(model(x), expected) < 1e-5

    def test_file_in_the_cache_needs_no_network(self, entry, data, home, server):
        (home / "models").mkdir(parents=True)
        (home / "models" / entry.file_name).write_bytes(data)
        models.MobileNetV2(**SMALL, weights="imagenet")
        assert server.requests == 0


class TestRefusals:
    def check(self, error, message, entry, home):
        with pytest.raises(error, match=message):
            models.MobileNetV2(**SMALL, weights="imagenet")
        assert files(home) == []

    @pytest.mark.parametrize("length", [0, 1000, -1])
    def test_another_file(self, entry, home, server, length):
        server.data = server.data[:length]  # whole as the server says
        message = (
            f"{entry.url} gave a file whose sha256 is [0-9a-f]{{64}}, not "
            f"{entry.sha256}; nothing of it was kept"
        )
        self.check(ValueError, message, entry, home)

    def test_truncated_download(self, entry, home, server):
        server.missing = 5000
        message = f"Can't download {entry.url}: .*retrieval incomplete"
        self.check(OSError, message, entry, home)

    def test_server_without_the_file(self, entry, home, server):
        server.status = 404
        self.check(OSError, f"Can't download {entry.url}: .*404", entry, home)

    def test_no_network(self, entry, home, monkeypatch):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/small-01234567.pth"
        offline = dataclasses.replace(entry, url=url, sha256="01234567")
        monkeypatch.setitem(imagenet.FILES, NETWORK, offline)
        path = re.escape(str(home / "models" / "small-01234567.pth"))
        message = (
            f"Can't download {url}: .*[Rr]efused.*Without a network, put the file at "
            f"{path}; its sha256 is one that begins with 01234567"
        )
        self.check(OSError, message, offline, home)

    def test_cache_that_cannot_be_written_to(self, entry, home, server):
        home.write_text("a file in the place of the folder")
        message = (
            f"Can't write to the cache {re.escape(str(home / 'models'))}: .* Name "
            "another folder by the environment variable KERAS_HOME"
        )
        with pytest.raises(OSError, match=message):
            models.MobileNetV2(**SMALL, weights="imagenet")
        assert server.requests == 0

    def test_wrong_file_in_the_cache_stays(self, entry, home, server):
        path = home / "models" / entry.file_name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"the user's own")
        message = (
            f"{re.escape(str(path))} is not the file of {entry.url}: its sha256 is "
            f"[0-9a-f]{{64}}, not {entry.sha256}. Remove it"
        )
        with pytest.raises(ValueError, match=message):
            models.MobileNetV2(**SMALL, weights="imagenet")
        assert path.read_bytes() == b"the user's own"
        assert server.requests == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"attention": "coord"},
                r"for attention=None; received blocks \['coord'\]. Build .* "
                r"models.insert\(model, 'coord', at='mobilenet_v2', warm_start=True\)",
            ),
            ({"attention": "simam"}, r"received blocks \['simam'\]"),
            ({"attention": ["se", "eca"]}, r"received blocks \['eca', 'se'\]"),
            ({"classes": 10}, "has 1000 classes; received classes=10.*include_top"),
            (
                {"width": 0.5},
                r"a file of MobileNetV2 with width=0.35, 1,[\d,]+ parameters; received "
                r"arguments that make 1,[\d,]+",
            ),
            (
                {"width": 0.5, "include_top": False},
                r"with width=0.35, \d\d,\d+ parameters; .* that make \d\d,\d+",
            ),
            ({"input_shape": (32, 32, 1)}, r"\(H, W, 3\) for weights='imagenet'"),
        ],
    )
    def test_other_networks(self, entry, home, server, arguments, message):
        with pytest.raises(ValueError, match=message):
            models.MobileNetV2(**SMALL | arguments, weights="imagenet")
        assert server.requests == 0 and not home.exists()

    def test_cifar_stem(self):
        with pytest.raises(ValueError, match="ResNet18 with stem='imagenet', 11,689,5"):
            models.ResNet18((32, 32, 3), stem="cifar", weights="imagenet")

    def test_network_without_a_file(self):
        with pytest.raises(
            ValueError, match="no public file .* of MobileNeXt, only of"
        ):
            models.MobileNeXt((32, 32, 3), weights="imagenet")


class TestFilesOfNormalizingNetworks:
    def test_keras_file_brings_the_layer(self, entry, tmp_path):
        model = models.MobileNetV2(**SMALL, weights="imagenet")
        model.save(tmp_path / "model.keras")
        x = images(2, 32, 32, 3)
        loaded = models.MobileNetV2(
            **SMALL, dropout=0.3, weights=tmp_path / "model.keras"
        )
        np.testing.assert_array_equal(loaded(x), model(x))

    def test_weights_file_does_not(self, entry, published, tmp_path):
        model = models.MobileNetV2(**SMALL, weights="imagenet")
        model.save_weights(tmp_path / "model.weights.h5")
        message = "model.weights.h5 is of one with a layer 'normalization', whose mean"
        with pytest.raises(ValueError, match=message):
            models.MobileNetV2(**SMALL, weights=tmp_path / "model.weights.h5")
        published.save_weights(tmp_path / "plain.weights.h5")
        models.MobileNetV2(**SMALL, weights=tmp_path / "plain.weights.h5")

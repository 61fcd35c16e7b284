"""load_torch on whole networks: the authors' names, and files that do not fit."""

import os
import pickle

import numpy as np
import pytest
from support import torch_files
from support.small_networks import images, narrow_resnet, randomize

from keras_attention import models, registry, weights
from keras_attention.models import mobilenet_v2
from keras_attention.weights import torch_names
from keras_attention.weights.torch_state import torch_parameters

WEIGHTLESS = {name for name, parts in torch_names.NAMES.items() if not parts}
# Of the modules of torchvision's units, those of d-li14/mobilenetv2.pytorch.
LI = {
    "expanding": {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7},
    "first": {"0.0": 0, "0.1": 1, "1": 3, "2": 4},
}


def build(attention=None, width=0.35, **arguments):
    """A MobileNetV2 of three units."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet_v2, "STAGES", ((1, 16, 1, 1), (6, 24, 2, 2)))
        return models.MobileNetV2(
            (16, 16, 3), 5, width=width, attention=attention, **arguments
        )


def state_of(model):
    """Returns a network's parameters by the first of the authors' names."""
    return {
        name: parameter.to_torch(parameter.variable.numpy())
        for name, parameter in torch_parameters(model).items()
    }


def random_state(model, seed=1):
    """Gives a network random weights and returns them as `state_of`."""
    randomize(model, seed)
    return state_of(model)


def check_round_trip(model, state):
    """Checks that a network gets the weights back that it had as `state`."""
    before = [weight.copy() for weight in model.get_weights()]
    randomize(model, seed=2)
    assert len(weights.load_torch(model, state).loaded) == len(model.weights)
    assert all(map(np.array_equal, before, model.get_weights()))


def renamed(state, *pairs):
    """Returns a state dict with parts of its names replaced."""
    for old, new in pairs:
        assert any(old in name for name in state), old
        state = {name.replace(old, new): value for name, value in state.items()}
    return state


def li(state):
    """Returns torchvision's names as d-li14's."""
    names = {}
    for name in state:
        head, _, rest = name.partition(".conv.")
        kind = "first" if head == "features.1" else "expanding"
        for theirs, index in LI[kind].items() if rest else ():
            if (
                rest.startswith(f"{theirs}.")
                and rest.count(".") == theirs.count(".") + 1
            ):
                names[name] = f"{head}.conv.{index}.{rest.rpartition('.')[2]}"
        names.setdefault(
            name,
            name.replace("features.18.", "conv.").replace(
                "classifier.1.", "classifier."
            ),
        )
    return {names[name]: value for name, value in state.items()}


@pytest.fixture(scope="module")
def published():
    """A network without blocks on random weights, and these; not to be changed."""
    model = build()
    return model, random_state(model)


@pytest.fixture
def target():
    """A network that a file goes into, and its weights before that."""
    model = build(name="target")
    return model, [weight.copy() for weight in model.get_weights()]


def assert_unchanged(target):
    model, before = target
    assert all(map(np.array_equal, before, model.get_weights()))


class TestNamesInMobileNetV2:
    @pytest.mark.parametrize(
        ("attention", "theirs"),
        [
            # BangguWu/ECANet, models/eca_mobilenetv2.py
            ("eca", "features.3.conv.4.conv.weight"),
            # landskape-ai/triplet-attention, MODELS/mobilenet.py
            ("triplet", "features.3.conv.4.hw.conv.bn.running_var"),
            ("se", "features.2.se.fc1.weight"),
            ("cbam", "features.2.cbam.ChannelGate.mlp.1.weight"),
            ("aw", "features.2.conv.1.0.pw1.weight"),
            ("sk", "features.2.conv.1.0.attn.bn.weight"),
            (["se", "eca"], "features.3.conv.4.conv.weight"),
            (["se", "eca"], "features.3.se.fc2.bias"),
        ],
    )
    def test_of_blocks(self, attention, theirs):
        model = build(attention)
        names = torch_parameters(model)
        assert theirs in names
        assert len(names) == len(model.weights)
        plain = set(torch_parameters(build()))
        lost = {"features.2.conv.1.0.weight", "features.3.conv.1.0.weight"}
        assert plain - set(names) == (lost if attention == "sk" else set())
        new = set(names) - plain
        assert all(name.startswith(("features.2.", "features.3.")) for name in new)

    @pytest.mark.parametrize("block", sorted(set(registry.names()) - WEIGHTLESS))
    def test_every_block_makes_a_round_trip(self, block):
        model = build(block)
        check_round_trip(model, random_state(model))

    @pytest.mark.parametrize(("width", "stem"), [(0.5, 16), (1.0, 32), (1.4, 48)])
    def test_at_any_width(self, width, stem):
        model = build(width=width)
        state = random_state(model)
        assert state["features.0.0.weight"].shape == (stem, 3, 3, 3)
        check_round_trip(model, state)

    def test_of_li(self, published, target):
        state = li(published[1])
        modules = {name.rpartition(".")[0] for name in state}
        unit = {f"features.2.conv.{index}" for index in (0, 1, 3, 4, 6, 7)}
        first = {f"features.1.conv.{index}" for index in (0, 1, 3, 4)}
        ends = {"features.0.0", "features.0.1", "conv.0", "conv.1", "classifier"}
        assert {m for m in modules if "features.3" not in m} == unit | first | ends
        assert len(weights.load_torch(target[0], state).loaded) == len(state)
        x = images(1, 16, 16, 3)
        np.testing.assert_array_equal(target[0](x), published[0](x))

    def test_of_houqb(self):
        model = build("coord")
        state = li(random_state(model))  # up to the block and what is behind it
        state = renamed(
            {
                name.replace("classifier.", "classifier.1."): v
                for name, v in state.items()
            },
            ("conv_h.", "conv2."),
            ("conv_w.", "conv3."),
        )
        for unit in ("features.2", "features.3"):
            state = renamed(
                state,
                (f"{unit}.conv.7.", f"{unit}.conv.8."),
                (f"{unit}.conv.6.", f"{unit}.conv.7."),
                (f"{unit}.coord.", f"{unit}.conv.6."),
            )
        assert "features.2.conv.6.conv2.bias" in state
        check_round_trip(model, state)


class TestOtherNamesOfBlocks:
    @pytest.mark.parametrize("make", [build, narrow_resnet])
    @pytest.mark.parametrize(
        ("block", "pairs"),
        [
            (
                "triplet",
                [
                    ("cw.conv.", "ChannelGateH.spatial."),
                    ("hc.conv.", "ChannelGateW.spatial."),
                    ("hw.conv.", "SpatialGate.spatial."),
                ],
            ),
            ("se", [("se.fc1.", "se.fc.0."), ("se.fc2.", "se.fc.2.")]),
        ],
    )
    def test_in_networks(self, make, block, pairs):
        model = make(attention=block)
        check_round_trip(model, renamed(random_state(model), *pairs))


class TestInserted:
    """`models.insert` gives layers other names than the builder does."""

    @pytest.mark.parametrize("block", ["coord", "aw", "se"])
    @pytest.mark.parametrize(
        ("make", "at"), [(build, "mobilenet_v2"), (narrow_resnet, "resnet")]
    )
    def test_the_builders_names(self, make, at, block):
        built, inserted = make(attention=block), models.insert(make(), block, at=at)
        state = random_state(built)
        assert len(weights.load_torch(inserted, state).loaded) == len(built.weights)
        x = images(2, *built.input_shape[1:])
        np.testing.assert_allclose(inserted(x), built(x), rtol=1e-5, atol=1e-5)


class TestFilesThatDoNotFit:
    @pytest.mark.parametrize(
        "write", [torch_files.write_zip, torch_files.write_legacy], ids=["zip", "old"]
    )
    @pytest.mark.parametrize("share", [0.0001, 0.5, 0.9999])
    def test_truncated(self, published, target, tmp_path, write, share):
        path = tmp_path / "model.pth"
        write(path, {"state_dict": torch_files.tensors(published[1]), "epoch": 90})
        assert len(weights.load_torch(build(), path).missing) == 0
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(
            ValueError, match="Cannot read the checkpoint '.*model.pth'"
        ):
            weights.load_torch(target[0], path)
        assert_unchanged(target)

    def test_malicious(self, published, target, tmp_path):
        trace = tmp_path / "trace"

        class Attack:
            def __reduce__(self):
                return os.system, (f"touch {trace}",)

        pickle.loads(pickle.dumps(Attack()))
        assert trace.exists()  # it works where nothing prevents it
        trace.unlink()
        path = tmp_path / "model.pth.tar"
        state = torch_files.tensors(published[1])
        torch_files.write_zip(path, {"state_dict": state, "optimizer": Attack()})
        with pytest.raises(ValueError, match="posix.system.*nothing was executed"):
            weights.load_torch(target[0], path)
        assert not trace.exists()
        assert_unchanged(target)

    def test_another_architecture(self, target):
        state = state_of(narrow_resnet())
        message = (
            r"does not fit model 'target': missing \['features.0.0.weight', .*\] and "
            r"\d\d more, unexpected \['conv1.weight', .*\] and \d\d+ more"
        )
        with pytest.raises(ValueError, match=message):
            weights.load_torch(target[0], state)
        report = weights.load_torch(target[0], state, strict=False)
        assert report.loaded == ()
        assert report.unexpected == tuple(state)
        assert report.missing == tuple(torch_parameters(target[0]))
        assert_unchanged(target)

    def test_another_width(self, target):
        message = (
            r"'features.0.0.weight' has the shape \(32, 3, 3, 3\), but model 'targ"
        )
        for strict in (True, False):
            with pytest.raises(ValueError, match=message):
                weights.load_torch(target[0], state_of(build(width=1.0)), strict)
        assert_unchanged(target)

    def test_block_that_the_network_has_not(self, target):
        state = state_of(build("eca"))
        message = (
            r"missing \[\], unexpected \['features.2.conv.4.conv.weight', "
            r"'features.3.conv.4.conv.weight'\]. strict=False"
        )
        with pytest.raises(ValueError, match=message):
            weights.load_torch(target[0], state)
        assert_unchanged(target)

    def test_half_matching_names(self, published, target):
        state = published[1]
        half = {n: x for n, x in state.items() if n.startswith(("features.2", "cl"))}
        rest = {f"backbone.{n}": x for n, x in state.items() if n not in half}
        assert half and rest
        with pytest.raises(
            ValueError, match=r"missing \['features.0.0.weight'.*backbo"
        ):
            weights.load_torch(target[0], half | rest)
        assert_unchanged(target)
        report = weights.load_torch(target[0], half | rest, strict=False)
        assert set(report.loaded) == set(half)
        assert report.unexpected == tuple(rest)
        assert set(report.missing) == set(state) - set(half)
        after = state_of(target[0])
        assert all(np.array_equal(after[name], state[name]) for name in half)
        assert not np.array_equal(
            after["features.0.0.weight"], state["features.0.0.weight"]
        )

"""read_state_dict on checkpoints of PyTorch: what it reads, and which part of it."""

import argparse
import collections
import hashlib
import itertools
import pathlib
import pickle
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import torch_files
from support.checkpoints import STATE, assert_same, raises
from support.torch_files import Parameter, Size, Storage, Tensor, tensor, tensors
from support.torch_weights import random_weights

from keras_attention import CoordAttention, weights
from keras_attention.weights import read_state_dict


class TestWriter:
    """Sums of what PyTorch 2.13 wrote for the same tensors."""

    @pytest.fixture
    def content(self):
        weight = Storage(np.arange(1, 5, dtype="float32"), key="94566655080480")
        halves = np.array([0.5, -0.5], ml_dtypes.bfloat16).view("uint16")
        bias = Storage(halves, "bfloat16", key="94566657070880")
        content = collections.OrderedDict(
            weight=Tensor(weight, 0, (2, 2), (2, 1)), bias=Tensor(bias, 0, (2,), (1,))
        )
        content._metadata = collections.OrderedDict({"": {"version": 1}})
        return content

    def test_zip(self, content):
        for key, item in enumerate(content.values()):
            item.storage.key = str(key)
        data = torch_files.records(content)["data.pkl"]
        expected = "ca1cb36d315b670ba333b381db7a0e0a8270f4474d9371720318a2c6df46097d"
        assert hashlib.sha256(data).hexdigest() == expected

    def test_legacy(self, content):
        data = torch_files.legacy(content)
        assert (
            hashlib.sha256(data).hexdigest()
            == "336a678b4de3e6246bd5236b2362da50604cb8ee3c53978ac923f75d18043933"
        )


class TestReads:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_state_dict(self, write, protocol):
        content = collections.OrderedDict(tensors(STATE))
        content._metadata = collections.OrderedDict({"": {"version": 1}})
        assert_same(read_state_dict(write(content, protocol=protocol)), STATE)

    def test_path_as_text_and_arrays_can_be_written_to(self, write):
        state = read_state_dict(str(write(tensors(STATE))))
        state["weight"] += 1
        np.testing.assert_array_equal(state["weight"], STATE["weight"] + 1)

    @pytest.mark.parametrize("dtype", sorted(set(torch_files.KINDS) - {"bfloat16"}))
    def test_types(self, write, dtype):
        array = np.array([[0, 1, 100], [3, 4, 5]]).astype(dtype)
        if array.dtype.kind in "fi":
            array[1] *= -1
        state = {"w": array, "scalar": array[0, 1], "empty": array[:, :0]}
        assert_same(read_state_dict(write(tensors(state))), state)

    def test_bfloat16_becomes_float32(self, write):
        every = np.arange(2**16, dtype="uint16")
        view = Tensor(Storage(every, "bfloat16"), 0, (256, 256), (256, 1))
        actual = read_state_dict(write({"w": view}))["w"]
        assert actual.dtype == "float32"
        expected = every.view(ml_dtypes.bfloat16).astype("float32").reshape(256, 256)
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(number, ~np.isnan(actual))
        np.testing.assert_array_equal(
            actual[number].view("uint32"), expected[number].view("uint32")
        )

    def test_other_values_beside_the_weights(self, write):
        optimizer = {
            "state": {0: {"step": 3, "exp_avg": tensor(np.ones(6))}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1]}],
        }
        content = {
            "epoch": 3,
            "best_acc1": tensor(np.float32(76.1)),
            "arch": "resnet50",
            "big": [2**40, -(2**70), None, True, 1.5, ()],
            "size": Size((1, 2)),
            "state_dict": tensors(STATE),
            "optimizer": optimizer,
        }
        assert_same(read_state_dict(write(content)), STATE)

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_what_training_scripts_leave_beside_them(self, write, protocol):
        content = {
            "args": argparse.Namespace(lr=0.1, schedule=[30, 60]),
            "best_acc1": np.float64(76.1),
            "loss": np.float32(1.5),
            "steps": np.int64(3),
            "state_dict": tensors(STATE),
        }
        assert_same(read_state_dict(write(content, protocol=protocol)), STATE)

    def test_parameters_and_numbers_among_the_tensors(self, write):
        content = {name: Parameter(item) for name, item in tensors(STATE).items()}
        assert_same(read_state_dict(write(content | {"version": 2})), STATE)

    def test_shared_storages(self, write):
        storage = Storage(np.arange(10, dtype="float32"))
        content = {
            "encoder": Tensor(storage, 0, (2, 5), (5, 1)),
            "decoder": Tensor(storage, 0, (5, 2), (1, 5)),
            "row": Tensor(storage, 5, (5,), (1,)),
        }
        state = read_state_dict(write(content))
        assert np.shares_memory(state["encoder"], state["row"])
        np.testing.assert_array_equal(state["decoder"], state["encoder"].T)
        np.testing.assert_array_equal(state["row"], np.arange(5, 10))

    def test_archives_of_older_versions(self, tmp_path):
        records = torch_files.records(tensors(STATE))
        old = {name: data for name, data in records.items() if "/" in name}
        path = tmp_path / "old.pth.tar"
        torch_files.write_records(
            path, {"data.pkl": records["data.pkl"]} | old, folder="old.pth"
        )
        assert_same(read_state_dict(path), STATE)

    def test_pickles_of_python_2(self, tmp_path):
        # Its texts are bytes, its OrderedDict is called with a list of pairs.
        def text(value):
            return b"U" + bytes([len(value)]) + value

        zero = b"K\x00"
        storage = b"".join(
            [b"(", text(b"storage"), b"ctorch\nFloatStorage\n", text(b"7")]
            + [text(b"cpu"), b"K\x03", b"N", b"tQ"]
        )
        rebuilt = b"ctorch._utils\n_rebuild_tensor\n(" + storage + zero
        rebuilt += b"\x8a\x01\x03\x85" + b"K\x01\x85" + b"tR"
        pairs = b"](](" + text(b"w") + rebuilt + b"ee"
        content = b"\x80\x02ccollections\nOrderedDict\n" + pairs + b"\x85R."
        head = [torch_files.MAGIC, torch_files.PROTOCOL, torch_files.SYSTEM]
        data = b"".join(pickle.dumps(item, 2) for item in head) + content
        data += b"\x80\x02](" + text(b"7") + b"e." + (3).to_bytes(8, "little")
        array = np.array([1.5, -2, 3], "float32")
        path = tmp_path / "old.pth"
        path.write_bytes(data + array.tobytes())
        assert_same(read_state_dict(path), {"w": array})

    def test_load_torch_reads_files(self, write, tmp_path):
        layer = CoordAttention()
        layer.build((None, 4, 4, 16))
        state = random_weights(layer)
        wrapped = {f"module.{name}": array for name, array in state.items()}
        path = write({"state_dict": tensors(wrapped), "epoch": 7})
        assert len(weights.load_torch(layer, path).loaded) == len(state)
        expected = state["conv_h.weight"][:, :, 0, 0].T
        np.testing.assert_array_equal(layer.expand_h.kernel[0, 0], expected)
        before = layer.get_weights()
        for bad in [write({"conv_h.weight": tensor(np.ones(3))}), write({"epoch": 1})]:
            with pytest.raises(ValueError, match="does not fit|no state dict"):
                weights.load_torch(layer, str(bad))
        with pytest.raises(FileNotFoundError, match="absent.pth"):
            weights.load_torch(layer, tmp_path / "absent.pth")
        assert all(map(np.array_equal, before, layer.get_weights()))


@st.composite
def views(draw):
    """Draws a storage, and an offset, a shape and strides that fit into it."""
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    strides = draw(st.lists(st.integers(0, 9), min_size=len(shape), max_size=5))
    strides = strides[: len(shape)]
    offset = draw(st.integers(0, 7))
    reach = offset + sum(
        max(size - 1, 0) * stride for size, stride in zip(shape, strides, strict=True)
    )
    dtype = draw(st.sampled_from(sorted(set(torch_files.KINDS) - {"bfloat16"})))
    numbers = np.arange(reach + 1 + draw(st.integers(0, 3))) % 100
    return Storage(numbers.astype(dtype)), offset, tuple(shape), tuple(strides)


@given(views(), st.sampled_from([torch_files.write_zip, torch_files.write_legacy]))
def test_any_view(tmp_path_factory, view, write):
    storage, offset, shape, strides = view
    path = tmp_path_factory.mktemp("view") / "some.pt"
    write(path, {"w": Tensor(storage, offset, shape, strides)})
    expected = np.empty(shape, storage.numbers.dtype)
    for index in itertools.product(*map(range, shape)):
        steps = zip(index, strides, strict=True)
        expected[index] = storage.numbers[offset + sum(i * step for i, step in steps)]
    assert_same(read_state_dict(path), {"w": expected})


class TestChoice:
    @pytest.mark.parametrize(
        "entry",
        [
            *("state_dict", "model", "model_state_dict", "net"),
            *("ema", "model_ema", "state_dict_ema", "ema_state_dict", "anything"),
        ],
    )
    def test_entries(self, write, entry):
        content = {"epoch": 1, entry: tensors(STATE), "optimizer": {"state": {}}}
        assert_same(read_state_dict(write(content)), STATE)

    def test_the_documented_order_and_a_chosen_entry(self, write):
        ema = {name: array + 1 for name, array in STATE.items()}
        path = write(
            {
                "ema": tensors(ema),
                "other": tensors({"x": np.ones(1)}),
                "model": tensors(STATE),
            }
        )
        assert_same(read_state_dict(path), STATE)
        assert_same(read_state_dict(path, entry="ema"), ema)
        with pytest.raises(ValueError, match=r"'epoch' is no state dict in it: .*ema"):
            read_state_dict(path, entry="epoch")

    def test_several(self, write):
        path = write({"generator": tensors(STATE), "critic": tensors(STATE)})
        raises(path, "2 state dicts, 'generator', 'critic'; choose one.*entry=")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({}, "no state dict: its entries are none"),
            ({"epoch": 3, "lr": 0.1}, r"'epoch' \(int\), 'lr' \(float\)"),
            ({"model": {}}, r"'model' \(dict\)"),
            ({1: tensor(np.ones(2))}, r"'1' \(Tensor\)|1 \(Tensor\)"),
            ([tensor(np.ones(2))], "holds a list"),
            (tensor(np.ones(2)), "holds a Tensor"),
        ],
    )
    def test_none(self, write, content, message):
        raises(write(content), message)

    @pytest.mark.parametrize(
        ("prefix", "kept"),
        [
            ("module.", ""),
            ("_orig_mod.", ""),
            ("_orig_mod.module.", ""),
            ("module.features.", "features."),
            ("modules.", "modules."),
        ],
    )
    def test_prefixes(self, write, prefix, kept):
        content = {f"{prefix}{name}": item for name, item in tensors(STATE).items()}
        expected = {f"{kept}{name}": array for name, array in STATE.items()}
        assert_same(read_state_dict(write(content)), expected)

    def test_a_prefix_that_only_some_have_stays(self, write):
        state = {"module.weight": STATE["weight"], "bias": STATE["bias"]}
        assert_same(read_state_dict(write(tensors(state))), state)


def test_folders_and_absent_files(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_state_dict(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        read_state_dict(pathlib.Path(tmp_path, "absent.pth"))


def test_the_writer_leaves_no_stand_ins(tmp_path):
    before = {name for name in sys.modules if name.split(".")[0] == "torch"}
    torch_files.write_zip(tmp_path / "some.pth", tensors(STATE))
    after = {name for name in sys.modules if name.split(".")[0] == "torch"}
    assert before == after

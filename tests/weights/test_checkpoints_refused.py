"""read_state_dict on hostile and damaged files: clear errors, and nothing happens."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import torch_files
from support.checkpoints import STATE, assert_same, raises
from support.torch_files import Storage, Tensor, tensor, tensors

from keras_attention.weights import read_state_dict


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TestHostile:
    @pytest.mark.parametrize("entry", ["model", "optimizer"])
    @pytest.mark.parametrize("protocol", [2, 4])
    def test_calls_of_functions(self, write, tmp_path, entry, protocol):
        trace = tmp_path / "trace"
        attack = Call(os.system, f"touch {trace}")
        pickle.loads(pickle.dumps(attack))
        assert trace.exists()  # it works where nothing prevents it
        trace.unlink()
        path = write({"state_dict": tensors(STATE), entry: attack}, protocol=protocol)
        raises(path, "'(posix|nt).system'.*nothing was executed")
        for protocol in range(6):
            bare = tmp_path / "bare.pth"
            bare.write_bytes(pickle.dumps(attack, protocol))
            raises(bare, "nothing was executed|no file of PyTorch")
        assert not trace.exists()

    @pytest.mark.parametrize(
        ("program", "message"),
        [
            (b"cbuiltins\neval\n", "'builtins.eval'"),
            (b"c__builtin__\ngetattr\n", "'__builtin__.getattr'"),
            (b"ctorch.storage\n_load_from_bytes\n", "_load_from_bytes'"),
            (b"ctorch\nFloatStorage.__init__\n", "'torch.FloatStorage.__init__'"),
            (b"cnumpy.core.multiarray\n_reconstruct\n", "multiarray._reconstruct'"),
            (b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R", "wrong arguments of 'numpy.d"),
            (b"cnumpy.core.multiarray\nscalar\n)R", "wrong arguments of 'numpy.core"),
            (
                b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R",
                "wrong arg",
            ),
            (b"\x8c\x02os\x8c\x06system\x93", "'os.system'"),
            (b"\x8c\x02os" + b")" + b"\x85" * 10_000 + b"\x93", "damaged"),
            (b"(ios\nsystem\n", "the operation INST"),
            (b"(K\x01o", "the operation OBJ"),
            (b"\x82\x01", "the operation EXT1"),
            (b"ccollections\nOrderedDict\nK\x01\x81", "a call without a function"),
            (b"P1\n", "the operation PERSID"),
            # attributes of an allowed function
            (b"ctorch._utils\n_rebuild_parameter\n}b", "damaged"),
            (b"K\x01)R", "a call without a function"),
            (b"ctorch\nFloatStorage\n)R", "a call without a function"),
            (b"ctorch\nfloat32\n)R", "a call without a function"),
            (b"ccollections\nOrderedDict\nK\x01R", "a call without a function"),
            (b"ccollections\nOrderedDict\nK\x01\x85R", "wrong arguments"),
            (b"ccollections\nOrderedDict\n]K\x01a\x85R", "wrong arguments"),
            (b"ctorch\nSize\nK\x01\x85R", "wrong arguments"),
            (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "wrong arguments"),
            (b"ctorch._utils\n_rebuild_parameter\n}\x85R", "wrong arguments"),
            (b"K\x01Q", "something else than a storage"),
            (b"(X\x06\x00\x00\x00modulectorch\nSize\nNNtQ", "something else"),
            # a view of a storage, as before PyTorch 0.4
            (
                b"(U\x07storagectorch\nFloatStorage\nU\x01aU\x03cpuK\x01(K\x02ttQ",
                "something else than a storage",
            ),
            (b"}K\x01\x85K\x02s", "a key that is no text and no number"),
            (b"}(K\x01u", "damaged"),
            (b"K\x01K\x02a", "damaged"),
            (b"", "damaged"),
            (b"h\x05", "damaged"),
            (b"\x86", "damaged"),
            (b"t", "damaged"),
        ],
    )
    @pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
    def test_pickles(self, tmp_path, program, message, form):
        data = b"\x80\x02" + program + b"."
        path = tmp_path / "hostile.pth"
        if form == "zip":
            torch_files.write_records(path, {"data.pkl": data})
        elif form == "legacy":
            head = [torch_files.MAGIC, torch_files.PROTOCOL, torch_files.SYSTEM]
            path.write_bytes(b"".join(pickle.dumps(item, 2) for item in head) + data)
        else:
            path.write_bytes(data)
        raises(path, message)

    def test_deep_nesting(self, tmp_path):
        # The hash of such a key would overflow the stack of the process.
        path = tmp_path / "deep.pth"
        data = b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s."
        torch_files.write_records(path, {"data.pkl": data})
        raises(path, "a key that is no text")
        path.write_bytes(torch_files.safetensors(b'{"a":' + b"[" * 300_000, b""))
        raises(path, "no JSON")

    def test_huge_views_take_no_memory(self, write):
        one = Storage(np.ones(1, "float32"))
        state = read_state_dict(write({"w": Tensor(one, 0, (2**20, 2**20), (0, 0))}))
        assert state["w"].shape == (2**20, 2**20) and state["w"][-1, -1] == 1
        raises(write({"w": Tensor(one, 0, (2**40, 2**40), (0, 0))}), "too big|large")
        raises(write({"w": Tensor(one, 0, (2**70,), (0,))}), "dimension")
        # the stride of an axis of size 1 is arbitrary
        path = write({"w": Tensor(one, 0, (1, 1), (2**62, 2**80))})
        np.testing.assert_array_equal(read_state_dict(path)["w"], [[1]])

    @pytest.mark.parametrize(
        ("size", "message"),
        [
            (2**40, "numbers|bytes|truncated"),
            (3, "3"),
            (0, "0"),
            (-1, "something else"),
        ],
    )
    def test_declared_sizes(self, write, size, message):
        storage = Storage(np.ones(4, "float32"), size=size)
        raises(write({"w": Tensor(storage, 0, (1,), (1,))}), message)

    @pytest.mark.parametrize("field", ["file_size", "compress_size", "both"])
    def test_sizes_in_the_directory(self, tmp_path, field):
        path = tmp_path / "some.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", torch_files.records({})["data.pkl"])
            for name in ["file_size", "compress_size"] if field == "both" else [field]:
                setattr(archive.getinfo("a/data.pkl"), name, 2**40)
        raises(path, "its record 'a/data.pkl' does not fit into it")

    @pytest.mark.parametrize(
        ("fields", "value"),
        [(["extract_version"], 99), (["file_size", "compress_size"], 100)],
    )
    def test_records_that_zipfile_refuses(self, tmp_path, fields, value):
        # A later version of the format; a record that ends behind the file's end.
        path = tmp_path / "some.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", torch_files.records({})["data.pkl"])
            for name in fields:
                setattr(archive.getinfo("a/data.pkl"), name, value)
        raises(path, "it is truncated or damaged: .")

    def test_overlapping_records(self, tmp_path):
        # many storages in the same few bytes
        content = {str(i): tensor(np.full(100, i)) for i in range(50)}
        records = torch_files.records(content)
        one = {name: records[name] for name in ["data.pkl", "data/0"]}
        path = tmp_path / "overlapping.pth"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in one.items():
                archive.writestr(f"a/{name}", data)
            info = archive.getinfo("a/data/0")
            for key in range(1, 50):
                twin = zipfile.ZipInfo(f"a/data/{key}")
                for field in ["header_offset", "CRC", "compress_size", "file_size"]:
                    setattr(twin, field, getattr(info, field))
                archive.filelist.append(twin)
                archive.NameToInfo[twin.filename] = twin
        raises(path, "its storages need 40000 bytes")

    @pytest.mark.parametrize(
        ("offset", "shape", "strides", "message"),
        [
            (3, (2,), (1,), r"'w' of shape \(2,\) reaches number 4 of a storage of 4"),
            (0, (2, 3), (3, 1), "reaches number 5"),
            (0, (2,), (2**70,), "reaches number"),
            (4, (), (), "reaches number 4"),
            (-1, (2,), (1,), "wrong arguments"),
            (0, (-1,), (1,), "wrong arguments"),
            (0, (2,), (-1,), "wrong arguments"),
            (0, (2,), (1, 1), "wrong arguments"),
            (0, (2.0,), (1,), "wrong arguments"),
            (0, (True,), (1,), "wrong arguments"),
            (0.0, (2,), (1,), "wrong arguments"),
            (0, [2], (1,), "wrong arguments"),
            (0, (1,) * 70, (1,) * 70, "dimension"),
        ],
    )
    def test_views_outside_of_their_storage(
        self, write, offset, shape, strides, message
    ):
        storage = Storage(np.ones(4, "float32"))
        raises(write({"w": Tensor(storage, offset, shape, strides)}), message)

    def test_negative_views(self, write):
        # PyTorch stores x.imag of a conjugate with the opposite sign.
        view = Tensor(Storage(np.ones(4)), 0, (4,), (1,), metadata={"neg": True})
        raises(write({"w": view}), "conjugate or negative")

    def test_one_storage_of_two_types(self, write):
        content = tensors({"a": np.ones(4, "float32"), "b": np.ones(4)})
        for item in content.values():
            item.storage.key = "0"
        raises(write(content), "storage '0' is described twice")


class TestBadFiles:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "it is empty"),
            (b"weights\n", r"no file of PyTorch or safetensors.*starts with b'weights"),
            (b"<!DOCTYPE html><html>Sign in</html>", "<!DOCTYPE html>"),
            (b"version https://git-lfs.github.com/spec/v1", "git-lfs|version https"),
            (pickle.dumps({"w": 1}, 2), "a pickle, but not of PyTorch"),
            (b"PK\x03\x04 and no more", "truncated or damaged"),
            (b"\0" * 257 + b"ustar\0" + b"\0" * 300, "a tar archive.*PyTorch 0.1"),
        ],
    )
    def test_no_checkpoint(self, tmp_path, data, message):
        path = tmp_path / "some.pth"
        path.write_bytes(data)
        raises(path, message)

    def test_other_archives(self, tmp_path):
        path = tmp_path / "some.npz"
        np.savez(path, w=np.ones(3))
        raises(path, r"a zip archive with 0 records '\*/data.pkl'")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"data/1": None}, "record 'archive/data/1' is missing"),
            ({"data/0": b"\0" * 20}, "has 20 bytes, .* of 6 float32: 24 bytes"),
            ({"data/0": b"\0" * 28}, "has 28 bytes, .* of 6 float32: 24 bytes"),
            ({"byteorder": b"big"}, "byte order is b'big', not little-endian"),
            ({"data.pkl": None}, "0 records"),
        ],
    )
    def test_records(self, tmp_path, changes, message):
        records = torch_files.records(tensors(STATE)) | changes
        path = tmp_path / "some.pth"
        kept = {name: data for name, data in records.items() if data is not None}
        torch_files.write_records(path, kept)
        raises(path, message)

    def test_compressed_records(self, tmp_path):
        path = tmp_path / "some.pth"
        records = torch_files.records(tensors(STATE))
        torch_files.write_records(path, records, compression=zipfile.ZIP_DEFLATED)
        raises(path, "is compressed or encrypted")

    @pytest.mark.parametrize("start", [0, 908, 2**31])
    def test_a_wrong_place_of_the_directory(self, tmp_path, start):
        path = tmp_path / "some.pth"
        torch_files.write_zip(path, tensors(STATE))
        data = bytearray(path.read_bytes())
        data[-6:-2] = start.to_bytes(4, "little")
        path.write_bytes(data)
        raises(path, "truncated or damaged")

    def test_big_endian_legacy(self, tmp_path):
        path = tmp_path / "some.pth"
        system = torch_files.SYSTEM | {"little_endian": False}
        path.write_bytes(torch_files.legacy(tensors(STATE), system=system))
        raises(path, "byte order is not little-endian")

    def test_legacy_parts(self, tmp_path):
        path = tmp_path / "some.pth"
        data = torch_files.legacy(tensors(STATE))
        version = pickle.dumps(torch_files.PROTOCOL, 2)
        keys = pickle.dumps(["0", "1"], 2)
        assert version in data and keys in data
        for old, new, message in [
            (version, pickle.dumps(1002, 2), "unknown version"),
            (keys, pickle.dumps(["0"], 2), "list of storages does not fit"),
            (keys, pickle.dumps(["0", "1", "2"], 2), "list of storages does not fit"),
            (keys, pickle.dumps(["0", "1", "1"], 2), "list of storages does not fit"),
            (keys, pickle.dumps(["0", 1], 2), "list of storages does not fit"),
            (keys, pickle.dumps("01", 2), "list of storages does not fit"),
        ]:
            path.write_bytes(data.replace(old, new))
            raises(path, message)
        path.write_bytes(data[:-1])
        raises(path, "it is truncated within its storages")

    @pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
    def test_every_truncation(self, tmp_path, form):
        path = tmp_path / "some.pth"
        if form == "safetensors":
            torch_files.write_safetensors(path, STATE)
        else:
            getattr(torch_files, f"write_{form}")(path, tensors(STATE))
        data = path.read_bytes()
        assert_same(read_state_dict(path), STATE)
        for size in range(len(data)):
            path.write_bytes(data[:size])
            raises(
                path, "truncated|damaged|is empty|no file of PyTorch|has .* describes"
            )

    @given(st.data())
    def test_any_damage(self, tmp_path_factory, data):
        path = tmp_path_factory.mktemp("damage") / "some.pth"
        form = data.draw(st.sampled_from(["zip", "legacy", "safetensors"]))
        if form == "safetensors":
            torch_files.write_safetensors(path, STATE)
        else:
            getattr(torch_files, f"write_{form}")(path, tensors(STATE))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            state = read_state_dict(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert all(isinstance(array, np.ndarray) for array in state.values())

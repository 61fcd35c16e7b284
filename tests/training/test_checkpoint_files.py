"""Checkpoint files: their format, damages, and disks that are full."""

import errno
import json
import os
import pathlib
import struct
import subprocess
import sys
import textwrap

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from support.checkpointing import (
    assert_same,
    make_model,
    state,
    train,
)

from keras_attention.training import checkpoint_files
from keras_attention.training.checkpoints import (
    Checkpoints,
    Position,
)

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_a_file_is_a_safetensors_file(tmp_path):
    model = train(make_model())
    path = Checkpoints(tmp_path).save(model, Position(1))
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert all(type(text) is str for text in metadata.values())
    assert length % 8 == 0
    # The tensors lie one behind the other, up to the end of the file.
    ends = [0] + [entry["data_offsets"][1] for entry in header.values()]
    starts = [entry["data_offsets"][0] for entry in header.values()]
    assert starts == ends[:-1] and ends[-1] == len(data) - 8 - length
    kernel = next(iter(header.values()))
    assert (kernel["dtype"], kernel["shape"]) == ("F32", [4, 5])
    first, last = (8 + length + offset for offset in kernel["data_offsets"])
    np.testing.assert_array_equal(
        np.frombuffer(data[first:last], "<f4").reshape(4, 5),
        model.layers[0].kernel.numpy(),
    )


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / f"small{checkpoint_files.SUFFIX}"
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(True)}
    checkpoint_files.write(path, arrays, {"position": 1})
    return path


@hypothesis.settings(max_examples=200)
@hypothesis.given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_and_any_missing_byte_is_noticed(small_file, position, bit):
    data = bytearray(small_file.read_bytes())
    byte = int(position * len(data))
    copy = small_file.with_name("copy")
    copy.write_bytes(data[:byte])
    with pytest.raises(checkpoint_files.DamagedFileError, match="checksum is wrong"):
        checkpoint_files.read(copy)
    data[byte] ^= 1 << bit
    copy.write_bytes(data)
    with pytest.raises(checkpoint_files.DamagedFileError, match="copy is damaged"):
        checkpoint_files.read(copy)
    data[byte] ^= 1 << bit
    copy.write_bytes(data)
    assert checkpoint_files.read(copy)[1] == {"position": 1}


def test_what_no_file_can_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^text: no checkpoint can hold dtype <U1$"):
        checkpoint_files.write(tmp_path / "x", {"text": np.array("a")}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, call):
    model = train(make_model())
    checkpoints = Checkpoints(tmp_path)
    good = checkpoints.save(model, Position(1))
    before, expected = good.read_bytes(), state(model)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":

        class Full:
            def __init__(self, path, mode):
                pathlib.Path(path).write_bytes(b"half of it")

            __enter__ = lambda self: self  # noqa: E731
            __exit__ = lambda self, *_: None  # noqa: E731
            write = full

        monkeypatch.setattr(checkpoint_files, "open", Full, raising=False)
    else:
        monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError) as info:
        checkpoints.save(train(model), Position(2))
    monkeypatch.undo()
    assert info.value.errno == errno.ENOSPC
    size = f"{len(before):,}"[:2]  # the position's digits are all that can differ
    message = str(info.value)
    assert f"cannot write a checkpoint of {size}" in message
    assert f"bytes into {tmp_path}: No space left on device" in message
    assert [path.name for path in tmp_path.iterdir()] == [good.name]
    assert good.read_bytes() == before
    other = make_model()
    assert Checkpoints(tmp_path).restore(other) == Position(1)
    assert_same(state(other), expected)


def test_a_file_that_the_system_does_not_let_grow(tmp_path):
    # A disk can't be filled without rights; a limit on files' sizes fails as one does.
    script = """
        import pathlib, resource, signal, sys
        import numpy as np
        sys.path.insert(0, sys.argv[2])  # the module alone: Keras takes long to import
        import checkpoint_files
        folder = pathlib.Path(sys.argv[1])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        arrays = {"a": np.zeros(1 << 12, "float32")}
        checkpoint_files.write(folder / "small", arrays, {})
        try:
            checkpoint_files.write(folder / "large", arrays | {"b": np.zeros(9000)}, {})
        except OSError as error:
            print(error)
        checkpoint_files.read(folder / "small")
        print(sorted(path.name for path in folder.iterdir()))
    """
    module = os.path.dirname(checkpoint_files.__file__)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), module],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    error, files = result.stdout.splitlines()
    assert f"bytes into {tmp_path}: File too large. The checkpoints that are" in error
    assert files == "['small']"


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    model = train(make_model())
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(model, Position(1))
    left = checkpoint_files.temporary_path(
        path.with_name("epoch00002" + path.name[10:])
    )
    left.write_bytes(b"half")
    assert Checkpoints(tmp_path).restore(model) == Position(1)
    checkpoints.save(model, Position(3))
    assert not left.exists()

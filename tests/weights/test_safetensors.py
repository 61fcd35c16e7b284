"""read_state_dict on safetensors files: what it reads and what it refuses."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import torch_files
from support.checkpoints import assert_same, raises
from support.comparing import features

from keras_attention.weights import read_state_dict


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from("bool f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8".split()),
            st.lists(st.integers(0, 4), max_size=4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_round_trip(tmp_path_factory, given):
    state = {
        name: (features(*shape) * 50 if shape else np.array(-1.0)).astype(dtype)
        if dtype not in ("u1", "u2", "u4", "u8")
        else np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        for name, (dtype, shape) in given.items()
    }
    path = tmp_path_factory.mktemp("safe") / "some.safetensors"
    torch_files.write_safetensors(path, state)
    assert_same(read_state_dict(path), state)


def test_bfloat16_and_prefix(tmp_path):
    halves = np.array([1.5, -3], ml_dtypes.bfloat16).view("uint16")
    path = tmp_path / "some.safetensors"
    torch_files.write_safetensors(path, {"module.w": halves}, {"module.w": "BF16"})
    assert_same(read_state_dict(path), {"w": np.array([1.5, -3], "float32")})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "F8_E4M3"}, "'w' has the unknown type F8_E4M3"),
        ({"dtype": 4}, "does not describe the tensor 'w'"),
        ({"shape": [-2]}, "does not describe the tensor 'w'"),
        ({"shape": [2.0]}, "does not describe the tensor 'w'"),
        ({"shape": [True, 2]}, "does not describe the tensor 'w'"),
        ({"shape": [3]}, r"'w' has 8 bytes, \[3\] of F32 are 12"),
        ({"shape": [2**62, 2**62]}, "'w' has 8 bytes"),
        ({"shape": None}, "does not describe the tensor 'w'"),
        ({"data_offsets": [0, 8, 8]}, "does not describe the tensor 'w'"),
        ({"data_offsets": [-8, 0]}, "does not describe the tensor 'w'"),
        ({"data_offsets": [8, 0]}, "'w' has -8 bytes"),
        ({"data_offsets": [4, 12]}, "starts at byte 4, not at 0"),
        ({"data_offsets": [2**60, 2**60 + 8]}, "starts at byte"),
    ],
)
def test_fields(tmp_path, changes, message):
    fields = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    fields = {key: value for key, value in fields.items() if value is not None}
    path = tmp_path / "some.safetensors"
    path.write_bytes(torch_files.safetensors({"w": fields}, b"\0" * 8))
    raises(path, message)


@pytest.mark.parametrize(
    ("second", "size", "message"),
    [
        ([0, 8], 8, "'b' starts at byte 0, not at 8"),  # the same bytes
        ([4, 12], 12, "'b' starts at byte 4, not at 8"),  # an overlap
        ([12, 20], 20, "'b' starts at byte 12, not at 8"),  # a hole
        ([8, 16], 12, "has 12 bytes of tensors, its header describes 16"),
        ([8, 16], 24, "has 24 bytes of tensors, its header describes 16"),
    ],
)
def test_places(tmp_path, second, size, message):
    header = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": place}
        for name, place in {"a": [0, 8], "b": second}.items()
    }
    path = tmp_path / "some.safetensors"
    path.write_bytes(torch_files.safetensors(header, b"\0" * size))
    raises(path, message)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"a": 1, "a": 2}', "a name twice"),
        (b'{"a": ', "no JSON"),
        (b'{"a": 3}', "does not describe the tensor 'a'"),
        (b"{}", "no state dict"),
        (b'{"\xff": 3}', "Cannot read"),
    ],
)
def test_headers(tmp_path, header, message):
    path = tmp_path / "some.safetensors"
    path.write_bytes(torch_files.safetensors(header, b""))
    raises(path, message)


def test_length_of_the_header(tmp_path):
    path = tmp_path / "some.safetensors"
    path.write_bytes((1000).to_bytes(8, "little") + b"{}")
    raises(path, "truncated within its header")

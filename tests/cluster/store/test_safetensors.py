import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import IntegrityError
from cluster.store.safetensors import read_header
from tests.support.version_files import write_safetensors

_BYTES = {"F32": 4, "BF16": 2, "I8": 1, "F4": 0.5}
SHAPES = st.lists(st.integers(0, 6), max_size=3)


@st.composite
def tensors(draw):
    found = {}
    for index in range(draw(st.integers(1, 4))):
        dtype, shape = draw(st.sampled_from(["F32", "BF16", "I8"])), draw(SHAPES)
        count = 1
        for length in shape:
            count *= length
        found[f"t{index}"] = (dtype, shape, bytes(int(count * _BYTES[dtype])))
    return found


@given(written=tensors())
def test_what_was_written_is_read_back(tmp_path_factory, written):
    file = write_safetensors(tmp_path_factory.mktemp("st") / "w.safetensors", written)

    found = read_header(file)

    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {n: v[:2] for n, v in written.items()}
    assert sum(t.end - t.start for t in found.values()) == sum(len(v[2]) for v in written.values())


@given(data=st.data())
def test_every_truncation_is_refused_by_name(tmp_path_factory, data):
    file = write_safetensors(
        tmp_path_factory.mktemp("st") / "w.safetensors",
        {"a": ("F32", [3], bytes(12)), "b": ("I8", [5], bytes(5))},
    )
    whole = file.read_bytes()
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])

    with pytest.raises(IntegrityError, match=r"`w\.safetensors` is truncated or corrupt"):
        read_header(file)


@given(head=st.binary(max_size=60), length=st.integers(0, 2**64 - 1))
def test_noise_is_refused_and_never_crashes(tmp_path_factory, head, length):
    file = tmp_path_factory.mktemp("st") / "noise.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + head)

    with suppress(IntegrityError):
        assert read_header(file) == {}


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1]},
        {"dtype": "F32", "shape": "wide", "data_offsets": [0, 4]},
        [],
    ],
)
def test_entries_that_contradict_themselves_are_refused(tmp_path, entry):
    head = json.dumps({"t": entry}).encode()
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))

    with pytest.raises(IntegrityError):
        read_header(file)


def test_bytes_after_the_last_tensor_are_refused(tmp_path):
    file = write_safetensors(tmp_path / "w.safetensors", {"a": ("I8", [2], bytes(2))})
    file.write_bytes(file.read_bytes() + b"x")

    with pytest.raises(IntegrityError, match="holds 3 bytes of weights, its header says 2"):
        read_header(file)

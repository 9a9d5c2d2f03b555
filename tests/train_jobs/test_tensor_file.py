import json

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load

from train_jobs.tensor_file import TensorFile

KINDS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.uint8]
SHAPES = st.lists(st.integers(0, 5), max_size=3)
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=6), st.tuples(st.sampled_from(KINDS), SHAPES), max_size=6
)


def make(kind, shape, fill):
    return (torch.arange(torch.Size(shape).numel()) + fill).reshape(shape).to(kind)


@hypothesis_settings(deadline=None)
@given(
    st.dictionaries(st.text(min_size=1, max_size=6), st.tuples(st.sampled_from(KINDS), SHAPES), max_size=6)
)
def test_safetensors_reads_back_what_was_copied_in_each_time(wanted):
    tensors = {name: make(kind, shape, 1) for name, (kind, shape) in wanted.items()}
    file = TensorFile(tensors)
    for fill in (1, 2):
        tensors = {name: make(kind, shape, fill) for name, (kind, shape) in wanted.items()}
        file.fill(tensors)
        found = load(bytes(file.data))
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype is tensor.dtype
            assert torch.equal(found[name], tensor)


def test_tensors_that_are_not_contiguous_are_written_in_their_logical_order():
    tensor = torch.arange(6).reshape(2, 3).t()
    file = TensorFile({"a": tensor})
    file.fill({"a": tensor})
    assert torch.equal(load(bytes(file.data))["a"], tensor)


def test_every_tensor_is_aligned_and_the_file_says_it_is_pytorchs():
    data = bytes(TensorFile({"b": torch.zeros(3, dtype=torch.uint8), "a": torch.zeros(2)}).data)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert size % 8 == 0
    assert header["__metadata__"] == {"format": "pt"}
    assert header["a"]["data_offsets"] == [0, 8]
    assert len(data) == 8 + size + 11


def test_a_tensor_of_another_shape_does_not_fit():
    file = TensorFile({"a": torch.zeros(3)})
    with pytest.raises(RuntimeError):
        file.fill({"a": torch.zeros(4)})

"""A safetensors file laid out in memory in advance: copying tensors into it makes the file."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_ALIGNMENT = 8


class TensorFile:
    """Room on the host for tensors of fixed names, kinds and shapes, and the file's bytes around them.

    Given tensors without content it makes room all the same. What is written to `views` is in the file.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        # The widest kinds first keep every tensor aligned.
        ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
        header, size = _header(ordered)
        pinned = any(tensor.is_cuda for tensor in ordered.values())
        # Written once, so that the first copy into it need not wait for the system to hand out pages.
        self._bytes = torch.zeros(len(header) + size, dtype=torch.uint8, pin_memory=pinned).fill_(0)
        self._bytes[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        self.views: dict[str, torch.Tensor] = {}
        start = len(header)
        for name, tensor in ordered.items():
            end = start + tensor.nbytes
            self.views[name] = self._bytes[start:end].view(tensor.dtype).view(tensor.shape)
            start = end

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy tensors of the same names and shapes in; returns once they are on the host."""
        for name, view in self.views.items():
            view.copy_(tensors[name])

    @property
    def data(self) -> memoryview:
        """The whole file; what `fill` copies in next shows in it."""
        return memoryview(self._bytes.numpy())


def _header(tensors: Mapping[str, torch.Tensor]) -> tuple[bytes, int]:
    """The file's bytes before the first tensor, and the size in bytes of all tensors."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, start

"""Reading a safetensors header without torch: tensor shapes, dtypes, and whether the bytes are all there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cluster.config import StrictModel
from cluster.errors import IntegrityError

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip


class Tensor(StrictModel):
    """One tensor's entry in the header; `start` and `end` are byte offsets after the header."""

    dtype: str
    shape: list[int]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file by name.

    Raises IntegrityError when the header does not parse, an entry does not fit its shape, or the file
    is shorter or longer than its tensors.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or not 2 <= length <= min(_LONGEST_HEADER, size - _LENGTH_BYTES):
            raise _broken(file, f"its header cannot be read ({size} bytes in the file)")
        raw = stream.read(length)
    tensors = _parse(file, raw)
    _require_whole(file, tensors, size - _LENGTH_BYTES - length)
    return tensors


def _parse(file: Path, raw: bytes) -> dict[str, Tensor]:
    try:
        header: dict[str, Any] = json.loads(raw)
        header.pop("__metadata__", None)
        return {name: _tensor(entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(file, f"its header is not valid ({error})") from None


def _tensor(entry: dict[str, Any]) -> Tensor:
    start, end = entry["data_offsets"]
    return Tensor(dtype=entry["dtype"], shape=entry["shape"], start=start, end=end)


def _require_whole(file: Path, tensors: dict[str, Tensor], data_bytes: int) -> None:
    expected = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        bits = _BITS.get(tensor.dtype)
        if bits is None:
            raise _broken(file, f"the tensor `{name}` has the unknown dtype {tensor.dtype}")
        if tensor.start != expected or (tensor.end - tensor.start) * 8 != tensor.elements * bits:
            raise _broken(file, f"the tensor `{name}` does not fit its place")
        expected = tensor.end
    if expected != data_bytes:
        raise _broken(file, f"it holds {data_bytes} bytes of weights, its header says {expected}")


def _broken(file: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"`{file.name}` is truncated or corrupt: {what}.",
        code="weights.corrupt",
        hint=f"Fetch or write {file} again.",
    )

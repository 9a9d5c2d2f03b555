"""LoRA on a CPU: one product for the rows of each adapter, none for the rows of the base.

vLLM 0.29's own functions take a row of the base, whose adapter is number -1, for one of the last
adapter as soon as another row of the batch has an adapter. So a base would answer otherwise beside
its adapters. They also copy an adapter's weights once for every token.

`tests/serve_apps/adapters/test_cpu_lora.py` says which version this holds for.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

HOLDS_FOR = "0.29"

Rows = list[tuple[int, torch.Tensor | slice]]


def rows_by_adapter(slots: torch.Tensor) -> Rows:
    """Each adapter's slot with the rows that it is for; -1 is the base, which has none.

    All rows are a slice, with which nothing is copied.
    """
    found = slots.unique().tolist()
    if len(found) == 1 and found[0] >= 0:
        return [(found[0], slice(0, len(slots)))]
    return [(slot, torch.nonzero(slots == slot).flatten()) for slot in found if slot >= 0]


class RowsByAdapter(PunicaWrapperCPU):
    """What vLLM's LoRA layers call; stacked weights are (slots, 1, out, in)."""

    def update_metadata(self, *arguments: Any, **options: Any) -> None:
        """A new batch: which row belongs to which adapter."""
        super().update_metadata(*arguments, **options)
        self._tokens = rows_by_adapter(self.token_lora_indices)
        self._samples = rows_by_adapter(self.sampler_indices)

    def add_lora_linear(  # noqa: PLR0917 (as vLLM calls it)
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """`y[:, slice i] += scale * x @ a[i] @ b[i]`."""
        whole, given = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, which in self._tokens:
            rows, offset = given[which], 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=False):
                shrunk = rows @ _of_slot(a, slot, rows.dtype).T
                _add(whole[:, offset : offset + width], which, shrunk, _of_slot(b, slot, y.dtype), scale)
                offset += width

    def add_shrink(
        self,
        y: tuple[torch.Tensor, ...] | torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        scale: float,
        **_: Any,
    ) -> None:
        """`y[i] = scale * x @ a[i]`."""
        for part, stacked in zip(y, lora_a_stacked, strict=False):
            _shrink(self._tokens, part, x, stacked, scale)

    def add_expand(
        self,
        y: torch.Tensor,
        x: tuple[torch.Tensor, ...] | torch.Tensor,
        lora_b_stacked: tuple[torch.Tensor, ...],
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        *,
        add_inputs: bool = True,
        **_: Any,
    ) -> None:
        """`y[:, slice i] += x[i] @ b[i]`."""
        whole, offset = y.view(-1, y.shape[-1]), offset_start
        for part, stacked, width in zip(x, lora_b_stacked, output_slices, strict=False):
            _expand(self._tokens, whole[:, offset : offset + width], part, stacked, add=add_inputs)
            offset += width

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **_: Any,
    ) -> None:
        """`y += x @ b`, for an embedding that was looked up in `a`."""
        _expand(self._tokens, y, x, lora_b_stacked, add=add_inputs)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """`y += scale * x @ a @ b`, for the rows that are sampled from."""
        rank = lora_b_stacked.size(-1)
        whole, given = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        shrunk = torch.zeros((given.size(0), rank), dtype=torch.float32, device=x.device)
        _shrink(self._samples, shrunk, given, lora_a_stacked, scale)
        _expand(self._samples, whole, shrunk, lora_b_stacked, add=True)


def _shrink(rows: Rows, y: torch.Tensor, x: torch.Tensor, stacked: torch.Tensor, scale: float) -> None:
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    for slot, which in rows:
        weights = _of_slot(stacked, slot, y.dtype)
        y[which, : weights.shape[0]] = scale * (x[which].to(y.dtype) @ weights.T)


def _expand(rows: Rows, y: torch.Tensor, x: torch.Tensor, stacked: torch.Tensor, *, add: bool) -> None:
    for slot, which in rows:
        weights = _of_slot(stacked, slot, y.dtype)
        # The adapter and the model may be padded to different widths.
        width = min(weights.shape[0], y.shape[1])
        if not add:
            y[which, :width] = 0
        _add(y[:, :width], which, x[which], weights[:width], 1.0)


def _add(
    y: torch.Tensor, which: torch.Tensor | slice, x: torch.Tensor, weights: torch.Tensor, scale: float
) -> None:
    """`y[which] += scale * x @ weights.T`, in place."""
    if isinstance(which, slice):
        y[which].addmm_(x.to(y.dtype), weights.T, alpha=scale)
    else:
        y.index_add_(0, which, x.to(y.dtype) @ weights.T, alpha=scale)


def _of_slot(stacked: torch.Tensor, slot: int, dtype: torch.dtype) -> torch.Tensor:
    weights = stacked[slot]
    return (weights.squeeze(0) if weights.dim() == 3 else weights).to(dtype)

"""Tensors of which every worker holds some rows: put together on one of them, and dealt out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from train_jobs.formation.group import Group

# Bytes that one exchange moves together, on the worker that has them all.
_BUNDLE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Piece:
    """This worker's rows of a float32 tensor of shape `whole`; of one without dimensions, all have it.

    As FSDP2 cuts it: each rank has as many rows as the first, until none are left.
    """

    local: torch.Tensor
    whole: torch.Size

    def width(self, size: int) -> int:
        """Numbers that the first of `size` ranks has."""
        return -(-self.whole[0] // size) * self.whole[1:].numel() if self.whole else 1

    def span(self, rank: int, size: int) -> slice:
        """Which numbers of the flattened tensor a rank has."""
        if not self.whole:
            return slice(0, 1)
        total, width = self.whole.numel(), self.width(size)
        return slice(min(rank * width, total), min((rank + 1) * width, total))


def collect(group: Group, pieces: Mapping[str, Piece], whole: Mapping[str, torch.Tensor] | None) -> None:
    """Fill the tensors in `whole`, which rank 0 gives and only rank 0. Raises GroupLostError."""
    for names in _bundles(pieces, group.size):
        chosen = [pieces[name] for name in names]
        parts = group.collect(_packed(chosen, [piece.local.flatten() for piece in chosen], group.size), 0)
        if whole is None:
            continue
        for rank, part in enumerate(parts):
            for name, piece, room in zip(names, chosen, _rooms(chosen, part, group.size), strict=True):
                span = piece.span(rank, group.size)
                whole[name].view(-1)[span].copy_(room[: span.stop - span.start])


def deal(
    group: Group, pieces: Mapping[str, Piece], whole: Mapping[str, torch.Tensor] | None, source: int
) -> None:
    """Every worker takes its rows of `whole`, which the rank `source` gives. Raises GroupLostError."""
    for names in _bundles(pieces, group.size):
        chosen = [pieces[name] for name in names]
        parts = None
        if whole is not None:
            flats = [whole[name].flatten() for name in names]
            parts = [
                _packed(
                    chosen,
                    [flat[piece.span(rank, group.size)] for piece, flat in zip(chosen, flats, strict=True)],
                    group.size,
                )
                for rank in range(group.size)
            ]
        own = group.deal(torch.empty(sum(piece.width(group.size) for piece in chosen)), parts, source)
        for piece, room in zip(chosen, _rooms(chosen, own, group.size), strict=True):
            piece.local.copy_(room[: piece.local.numel()].view_as(piece.local))


def _bundles(pieces: Mapping[str, Piece], size: int) -> Iterator[list[str]]:
    """Names in their order, as many at a time as fit into one exchange."""
    names: list[str] = []
    held = 0
    for name, piece in pieces.items():
        room = piece.width(size) * size * piece.local.element_size()
        if names and held + room > _BUNDLE_BYTES:
            yield names
            names, held = [], 0
        names.append(name)
        held += room
    if names:
        yield names


def _packed(pieces: Sequence[Piece], flats: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    """One rank's numbers of several pieces behind each other, each in the room that the first rank needs."""
    packed = torch.zeros(sum(piece.width(size) for piece in pieces))
    for room, flat in zip(_rooms(pieces, packed, size), flats, strict=True):
        room[: flat.numel()].copy_(flat)
    return packed


def _rooms(pieces: Sequence[Piece], packed: torch.Tensor, size: int) -> Sequence[torch.Tensor]:
    return packed.split([piece.width(size) for piece in pieces])

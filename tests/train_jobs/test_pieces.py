"""Tensors cut by rows over real gloo groups of threads."""

import threading

import pytest
import torch
import torch.distributed as dist

from train_jobs import pieces
from train_jobs.formation.group import Group
from train_jobs.pieces import Piece, collect, deal

SHAPES = {"even": (6, 2), "odd": (5, 3), "fewer rows than members": (2, 4), "row": (1,), "steps": ()}


def cut(tensor, rank, size):
    """As `torch.chunk` does it, which is how FSDP2 does it; all of a tensor without dimensions."""
    if not tensor.dim():
        return tensor.clone()
    chunks = tensor.chunk(size)
    return chunks[rank].clone() if rank < len(chunks) else tensor[:0].clone()


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("bundle", [1, 100, pieces._BUNDLE_BYTES])
def test_rows_come_together_on_rank_0_and_are_dealt_out_from_any(monkeypatch, size, bundle):
    monkeypatch.setattr(pieces, "_BUNDLE_BYTES", bundle)
    wholes = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found = {}

    def act(rank):
        group = Group.form(("127.0.0.1", meeting.port), 1, rank, size, lambda: False)
        held = {name: Piece(cut(whole, rank, size), whole.shape) for name, whole in wholes.items()}
        into = {name: torch.zeros(shape) for name, shape in SHAPES.items()} if rank == 0 else None
        collect(group, held, into)
        for piece in held.values():
            piece.local.zero_()
        deal(group, held, wholes if rank == size - 1 else None, size - 1)
        found[rank] = into, held

    threads = [threading.Thread(target=act, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for name, whole in wholes.items():
        assert torch.equal(found[0][0][name], whole)
        for rank in range(size):
            assert torch.equal(found[rank][1][name].local, cut(whole, rank, size))

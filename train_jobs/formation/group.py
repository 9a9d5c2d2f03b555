"""What the members of a formation do together, over gloo; a process alone is a group of one.

No call waits for ever on a peer that is gone: a broken connection and a formation that the
coordinator dissolved both end it with GroupLostError, and the process lives on.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from cluster.errors import LinnetError
from train_jobs.sampling import slots_of

_TIMEOUT = timedelta(hours=12)
_FORM_TIMEOUT = timedelta(seconds=30)
_LONGEST_NAP_S = 0.001

# A group that was left in the middle of an exchange cannot be destroyed before its peers are: doing so
# joins its threads. What it may still write into is kept alive with it.
_abandoned: list[Any] = []


class GroupLostError(Exception):
    """A peer is gone, or the coordinator dissolved the formation."""


class Group:
    """Rank, size and exchanges of one formation."""

    def __init__(
        self, rank: int = 0, size: int = 1, backend: Any = None, is_over: Callable[[], bool] = bool
    ) -> None:
        self.rank, self.size = rank, size
        self._backend, self._is_over = backend, is_over

    @classmethod
    def form(
        cls, store: tuple[str, int], generation: int, rank: int, size: int, is_over: Callable[[], bool]
    ) -> Group:
        """Meet the other members at a store. Raises GroupLostError when they do not come."""
        if size == 1:
            return cls(is_over=is_over)
        try:
            client = dist.TCPStore(*store, is_master=False, wait_for_workers=False, timeout=_FORM_TIMEOUT)
            prefixed = dist.PrefixStore(f"formation/{generation}", client)
            backend = _connected(lambda: dist.ProcessGroupGloo(prefixed, rank, size, _TIMEOUT), is_over)
        except RuntimeError as error:
            raise GroupLostError(f"the group could not be formed: {error}") from error
        return cls(rank, size, backend, is_over)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all members, in place."""
        if self.size > 1:
            self._wait(lambda: self._backend.allreduce([tensor]), tensor)
        return tensor

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        """The tensor of the rank `source`, in place, on every member."""
        if self.size > 1 and tensor.numel():
            options = dist.BroadcastOptions()
            options.rootRank = source
            self._wait(lambda: self._backend.broadcast([tensor], options), tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Every member's value, by rank, on every member."""
        if self.size == 1:
            return [value]
        own = _to_tensor(pickle.dumps(value))
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = own.numel()
        self.sum(sizes)
        longest = int(sizes.max())
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: own.numel()] = own
        rows = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        self._wait(lambda: self._backend.allgather([rows], [padded]), (rows, padded))
        return [pickle.loads(row[: int(n)].numpy().tobytes()) for row, n in zip(rows, sizes, strict=True)]

    def from_rank(self, source: int, value: Any) -> Any:
        """The value of the rank `source`, on every member."""
        if self.size == 1:
            return value
        data = _to_tensor(pickle.dumps(value) if self.rank == source else b"")
        length = self.broadcast(torch.tensor([data.numel()]), source)
        if self.rank != source:
            data = torch.empty(int(length), dtype=torch.uint8)
        return pickle.loads(self.broadcast(data, source).numpy().tobytes())

    def join_parts(self, whole: torch.Tensor, part: torch.Tensor) -> None:
        """Fill `whole`, of shape (size * length,), with every rank's `part` of shape (length,)."""
        parts = list(whole.split(part.numel()))
        self._wait(lambda: self._backend.allgather([parts], [part]), (whole, part))

    def sum_parts(self, part: torch.Tensor, whole: torch.Tensor) -> None:
        """Fill `part` with this rank's part of the sum of every member's `whole`, added in rank order."""
        got = torch.empty_like(whole)
        self._wait(lambda: self._backend.alltoall_base(got, whole, [], []), (got, whole))
        part.copy_(_added(got.split(part.numel())))

    def collect(self, part: torch.Tensor, root: int) -> list[torch.Tensor]:
        """Every rank's `part`, all of one shape, on the rank `root`; nothing elsewhere."""
        options = dist.GatherOptions()
        options.rootRank = root
        parts = [torch.empty_like(part) for _ in range(self.size)] if self.rank == root else []
        self._wait(lambda: self._backend.gather([parts] if parts else [], [part], options), (parts, part))
        return parts

    def deal(self, part: torch.Tensor, parts: list[torch.Tensor] | None, root: int) -> torch.Tensor:
        """Fill `part` with this rank's one of `parts`, which the rank `root` gives."""
        options = dist.ScatterOptions()
        options.rootRank = root
        self._wait(lambda: self._backend.scatter([part], [parts] if parts else [], options), (part, parts))
        return part

    def raise_together(self, error: LinnetError | None) -> None:
        """Raise on every member what any of them brings, so that none waits for one that gave up."""
        for found in self.gather(error):
            if found is not None:
                raise found

    def sum_slots(self, rows: Mapping[int, torch.Tensor], slots: int) -> torch.Tensor:
        """The sum of all slots' rows, added in slot order whoever holds which.

        `rows` are this member's, each of shape (length,). Every member sums one part of the length for all
        and hands it round, so the traffic is that of a ring, and the result does not depend, in any
        bit, on how many members there are.
        """
        length = next(iter(rows.values())).numel()
        if self.size == 1:
            return _added([rows[slot] for slot in range(slots)])
        part = -(-length // self.size)
        bounds = [(min(r * part, length), min((r + 1) * part, length)) for r in range(self.size)]
        own = [rows[slot] for slot in slots_of(self.rank, self.size, slots)]
        counts = [len(slots_of(r, self.size, slots)) for r in range(self.size)]
        begin, end = bounds[self.rank]
        sent = torch.cat([row[low:high] for low, high in bounds for row in own])
        got = sent.new_empty((end - begin) * slots)
        sent_sizes = [(high - low) * len(own) for low, high in bounds]
        got_sizes = [(end - begin) * count for count in counts]
        self._wait(lambda: self._backend.alltoall_base(got, sent, got_sizes, sent_sizes), (got, sent))
        held = got.view(slots, end - begin)
        order = [slot for r in range(self.size) for slot in slots_of(r, self.size, slots)]
        mine = sent.new_zeros(part)
        mine[: end - begin] = _added([held[order.index(slot)] for slot in range(slots)])
        whole = sent.new_empty(part * self.size)
        parts = list(whole.split(part))
        self._wait(lambda: self._backend.allgather([parts], [mine]), (whole, mine))
        return whole[:length]

    def _wait(self, start: Callable[[], Any], held: Any) -> None:
        """Begin an exchange and wait, ready to leave it; `held` is what it reads and writes."""
        try:
            work = start()
            nap = 0.00005
            while not work.is_completed():
                if self._is_over():
                    _abandoned.append((self._backend, work, held))
                    raise GroupLostError("the coordinator dissolved the formation")
                time.sleep(nap)
                nap = min(2 * nap, _LONGEST_NAP_S)
            work.wait()
        except RuntimeError as error:
            _abandoned.append((self._backend, held))
            raise GroupLostError(str(error).splitlines()[0]) from error


def _connected(connect: Callable[[], Any], is_over: Callable[[], bool]) -> Any:
    """Connect in a thread of its own, because gloo waits for a peer that is gone without looking up."""
    made: list[Any] = []
    failed: list[RuntimeError] = []

    def run() -> None:
        try:
            made.append(connect())
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="linnet-form", daemon=True)
    thread.start()
    while thread.is_alive():
        if is_over():
            _abandoned.append((thread, made))
            raise GroupLostError("the coordinator dissolved the formation")
        thread.join(0.005)
    if failed:
        raise failed[0]
    return made[0]


def _added(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    total = rows[0].clone()
    for row in rows[1:]:
        total.add_(row)
    return total


def _to_tensor(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())

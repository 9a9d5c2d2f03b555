"""A replica near its memory limit, replaced before the kernel picks a victim by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import psutil

from cluster.errors import GateFailedError

NEAR = 0.95
"""Share of the limit at which a replica gives up: what is left is for its requests to end in."""

_CHECK_S = 5.0


def held_bytes(pid: int) -> int:
    """Memory of a process and all below it; pages that they share are counted once among them."""
    root = psutil.Process(pid)
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it ended while it was looked at
    return total


class MemoryGuard:
    """Looks every few seconds, in a thread: reading the page tables takes milliseconds."""

    def __init__(self, pid: int, limit_gib: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pid = pid
        self._limit = int(limit_gib * 2**30)
        self._clock = clock
        self._next = clock()

    async def check(self) -> None:
        """Raises GateFailedError near the limit, which Serve takes for a failed health check."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + _CHECK_S
        held = await asyncio.to_thread(held_bytes, self._pid)
        if held > NEAR * self._limit:
            self._next = self._clock()
            raise GateFailedError(
                f"The replica holds {held / 2**30:.2f} GiB; its limit is {self._limit / 2**30:.2f} GiB.",
                code="gate.memory",
                hint="Raise `memory_limit_gib`, or lower `max_num_seqs` or the KV cache.",
            )

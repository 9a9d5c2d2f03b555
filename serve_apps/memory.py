"""What a replica holds, and its replacement near its memory limit, before the kernel picks a victim."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import psutil

from cluster.errors import GateFailedError
from cluster.state.replicas import DEVICE_MEMORY, MEMORY
from serve_apps import device_memory

NEAR = 0.95
"""Share of the limit at which a replica gives up: what is left is for its requests to end in."""

_CHECK_S = 5.0

_log = logging.getLogger("ray.serve")


def held_bytes(pid: int) -> int:
    """Memory of a process and all below it; pages that they share are counted once among them."""
    total = 0
    for process in _tree(pid):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it ended while it was looked at
    return total


async def told(pid: int) -> dict[str, int | None]:
    """What the row of a replica says of its memory; it never raises, since the row must be renewed."""
    try:
        return await asyncio.to_thread(_told, pid)
    except Exception:
        _log.exception("What process %d holds is not known.", pid)
        return {MEMORY: None}


def _told(pid: int) -> dict[str, int | None]:
    on_devices = device_memory.held_bytes({process.pid for process in _tree(pid)})
    return {MEMORY: held_bytes(pid), DEVICE_MEMORY: on_devices}


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


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

"""Ctrl-C and its kin as KeyboardInterrupt, held back where half a step must not be left."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_S = 0.1


@dataclass
class _Pending:
    """One for the process, as signals are: how many blocks hold back, and whether one has come."""

    holding: int = 0
    arrived: bool = False

    def note(self, _number: int, _frame: FrameType | None) -> None:
        self.arrived = True
        self.raise_unless_held()

    def raise_unless_held(self) -> None:
        if self.arrived and not self.holding:
            self.arrived = False
            raise KeyboardInterrupt


_pending = _Pending()


@contextmanager
def as_keyboard_interrupt() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt; main thread only."""
    former = {number: signal.signal(number, _pending.note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Hold an interruption back until the end of the block."""
    _pending.holding += 1
    try:
        yield
    finally:
        _pending.holding -= 1
    _pending.raise_unless_held()


@contextmanager
def ignored() -> Iterator[None]:
    """Forget interruptions that come within the block, which must end by itself."""
    _pending.holding += 1
    try:
        yield
    finally:
        _pending.arrived = False
        _pending.holding -= 1


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` that an interruption cancels from the outside.

    Raised inside of it, KeyboardInterrupt would end whichever task is at work and leave the loop to
    complain about it.
    """
    with held():
        try:
            return asyncio.run(_watched(work))
        except asyncio.CancelledError:
            _pending.arrived = False
            raise KeyboardInterrupt from None


async def _watched(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    while not task.done() and not _pending.arrived:
        await asyncio.wait([task], timeout=_LOOK_S)
    if not task.done():
        task.cancel()
    return await task

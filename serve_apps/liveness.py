"""Whether an engine computes: its outputs are its pulse, and a tiny generation asks where there are none.

An engine process that is stopped, or stuck in a kernel, still holds its sockets, and vLLM's own
health check calls it healthy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class Pulse:
    """When the engine last put anything out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """An output came."""
        self._last = self._clock()

    def silent_for(self) -> float:
        """Seconds since the last output."""
        return self._clock() - self._last


async def hung(pulse: Pulse, probe: Callable[[], Awaitable[object]], every_s: float, timeout_s: float) -> str:
    """Return, with what is wrong, once the engine has put nothing out for `timeout_s` though it was asked.

    After `every_s` of silence `probe` asks for one token. Under load there is no silence, and no
    probe, so that a long queue is not taken for a dead engine.
    """
    while True:
        await asyncio.sleep(max(every_s - pulse.silent_for(), 0.05 * every_s))
        if pulse.silent_for() < every_s:
            continue
        asked = asyncio.ensure_future(probe())
        try:
            await _until_it_beats(pulse, asked, timeout_s)
        finally:
            asked.cancel()
        if pulse.silent_for() >= timeout_s:
            return f"it put nothing out for {pulse.silent_for():.1f} s, though asked for a token"


async def _until_it_beats(pulse: Pulse, asked: asyncio.Future[object], timeout_s: float) -> None:
    silence = pulse.silent_for()
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and pulse.silent_for() >= silence:
        await asyncio.wait([asked], timeout=min(0.1 * timeout_s, 0.5))
        if asked.done() and not asked.cancelled() and asked.exception() is None:
            pulse.beat()
            return

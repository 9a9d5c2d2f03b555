"""Work with outsiders that no fault ends: the reason is told, and it is tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cluster.errors import LinnetError

AGAIN_S = 10.0
"""How long a fault is left alone: storage that is away, a secret that is not set."""

_log = logging.getLogger(__name__)


async def keep_on(work: Callable[[], Awaitable[None]], tell: Callable[[LinnetError], None]) -> None:
    """Until the work is done, or cancelled. `tell` is called in a thread; what it raises is logged."""
    while True:
        try:
            return await work()
        except LinnetError as error:
            fault = error
        except Exception as error:
            _log.exception("an outsider cannot be asked for now")
            fault = LinnetError(f"{type(error).__name__}: {error}", code="rollout.outsider")
        try:
            await asyncio.to_thread(tell, fault)
        except Exception:
            _log.exception("nobody could be told: %s", fault.message)
        await asyncio.sleep(AGAIN_S)

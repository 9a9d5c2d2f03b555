"""How busy one engine is, from vLLM's own statistics of each step and the requests that came."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

_RECENT_S = 30.0


class EngineLoad:
    """Requests that came, are under way and wait, the KV cache in use, the recent time to first token.

    `ongoing` counts the requests under way: an engine without any takes no steps, so that what it
    said last would stand for ever. `kept`: the version must be able to take all of the traffic.
    `needed`: how many replicas of it a rollout needs at least; `reserved`: this one is for its comparison.
    """

    def __init__(self, ongoing: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._ongoing = ongoing
        self._clock = clock
        self.kept = False
        self.needed = 0
        self.reserved = False
        self._asked = 0
        self._waiting = 0
        self._kv_cache = 0.0
        self._first_tokens: deque[tuple[float, float]] = deque(maxlen=1000)

    def asked(self) -> None:
        """A caller's request came; the replica's own questions to its engine are none."""
        self._asked += 1

    def record(self, scheduler: Any, iteration: Any) -> None:
        """Statistics of one step, as vLLM's stat loggers get them; either may be None."""
        if scheduler is not None:
            self._waiting = scheduler.num_waiting_reqs
            self._kv_cache = scheduler.kv_cache_usage
        if iteration is not None:
            now = self._clock()
            self._first_tokens.extend((now, ttft) for ttft in iteration.time_to_first_tokens_iter)

    def stats(self) -> dict[str, float]:
        """What Serve collects for its autoscaling policies, and it alone.

        `asked` counts from the last time that this was told; `ttft_s` is 0 where no answer began
        lately.
        """
        since = self._clock() - _RECENT_S
        recent = [ttft for at, ttft in self._first_tokens if at >= since]
        ongoing, asked, self._asked = self._ongoing(), self._asked, 0
        return {
            "asked": float(asked),
            "ongoing": float(ongoing),
            "waiting": float(min(self._waiting, ongoing)),
            "kv_cache": self._kv_cache if ongoing else 0.0,
            "ttft_s": sum(recent) / len(recent) if recent else 0.0,
            "kept": float(self.kept),
            "needed": float(self.needed),
            "reserved": float(self.reserved),
        }

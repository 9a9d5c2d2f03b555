"""How many replicas a version wants: Serve's hook for autoscaling policies.

Serve itself counts requests that come by its handles, and knows nothing of an engine: one with few
long requests can be full, and one with many short ones idle. The only calls by handles here are
those that wake a version which has no replica.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

# Longer than any engine takes to load.
_START_S = 900.0

POLICY = "serve_apps.scaling:LoadPolicy"


@dataclass(frozen=True, slots=True)
class Load:
    """One replica, in means over Serve's `look_back_period_s`; `asked` is not 0 where any request came.

    Nor is `kept` where a rollout may have the version take all of the traffic at once; `needed` is how many
    replicas of it that takes, or how many one compares its candidate with and lets serve, in all;
    `reserved` is 1 for one of those to compare with, which gets a part of the traffic as large as the
    candidate's and no more.
    """

    ongoing: float
    asked: float
    waiting: float
    kv_cache: float
    ttft_s: float
    kept: float = 0.0
    needed: float = 0.0
    reserved: float = 0.0


@dataclass(frozen=True, slots=True)
class Goals:
    """`requests` a replica should have, and what makes it overloaded; None for no such bound."""

    requests: float
    waiting: float
    kv_cache: float
    ttft_s: float | None


def wanted(loads: Sequence[Load], running: int, target: int, goals: Goals, *, held: bool = False) -> int:
    """Replicas for these loads; `running` is how many there are, `target` how many were wanted last.

    One more than there are where any is overloaded, and at least one while requests came lately or
    the first one is `held` to. Where some have not told their load, no fewer than were wanted last:
    no data is no sign of idleness. Nor fewer of what a rollout keeps, or than it needs; those that are
    reserved for one are wanted beside those that the other requests are for.
    """
    by_requests = math.ceil(sum(load.ongoing * (1.0 - load.reserved) for load in loads) / goals.requests)
    by_requests += round(sum(load.reserved for load in loads))
    if held or any(load.asked > 0 for load in loads):
        by_requests = max(by_requests, 1)
    if any(_is_overloaded(load, goals) for load in loads):
        by_requests = max(by_requests, running + 1)
    by_requests = max([by_requests, *(math.ceil(load.needed) for load in loads)])
    keeps = len(loads) < running or any(load.kept > 0 for load in loads)
    return max(by_requests, target) if keeps else by_requests


def _is_overloaded(load: Load, goals: Goals) -> bool:
    slow = goals.ttft_s is not None and load.ttft_s > goals.ttft_s
    return load.waiting > goals.waiting or load.kv_cache > goals.kv_cache or slow


class LoadPolicy:
    """Goes by ongoing requests, and by the engines' queues, KV caches and times to first token.

    `target_ongoing_requests`, bounds and delays are Serve's own settings beside it. A replica is
    overloaded with more than `max_waiting_requests` in its queue, more than `max_kv_cache_usage` of
    its cache in use, or a mean TTFT above `max_ttft_s` seconds where that is given.
    """

    def __init__(
        self,
        max_waiting_requests: float = 4.0,
        max_kv_cache_usage: float = 0.9,
        max_ttft_s: float | None = None,
    ) -> None:
        self._waiting = max_waiting_requests
        self._kv_cache = max_kv_cache_usage
        self._ttft_s = max_ttft_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Serve's signature: the wanted number, and a state of which there is none."""
        goals = Goals(
            requests=context.config.get_target_ongoing_requests(),
            waiting=self._waiting,
            kv_cache=self._kv_cache,
            ttft_s=self._ttft_s,
        )
        running, target = len(context.running_replicas), context.target_num_replicas
        held = bool(context.total_queued_requests) or _starts(context)
        return wanted(_loads(context), running, target, goals, held=held), {}


def _starts(context: AutoscalingContext) -> bool:
    """Whether the first replica is on its way: it is to prove itself, even if nobody waits any more.

    One that does not come up is given up after a while, so that a later request tries anew.
    """
    if context.running_replicas or not context.target_num_replicas:
        return False
    wanted_at = context.last_scale_up_time
    return wanted_at is None or context.current_time is None or context.current_time - wanted_at < _START_S


def _loads(context: AutoscalingContext) -> list[Load]:
    """Of the replicas that have told; one of an older version of this code tells less."""
    told = context.aggregated_metrics or {}
    columns = {field.name: told.get(field.name, {}) for field in fields(Load)}
    must = [columns[field.name] for field in fields(Load) if field.default is MISSING]
    return [
        Load(**{name: column[replica] for name, column in columns.items() if replica in column})
        for replica in context.running_replicas
        if all(replica in column for column in must)
    ]

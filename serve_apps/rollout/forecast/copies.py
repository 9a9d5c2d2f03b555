"""How many copies of requests a gateway sends, of those that it would if it had no limit."""

from __future__ import annotations

from serve_apps.gateway.shadow import IN_FLIGHT
from serve_apps.rollout.judge.sketch import Sketch
from serve_apps.sketch import middle


def sent(offered: float, seconds: Sketch | None) -> float:
    """A second, by one gateway, of so many a second that take as long as these answers; all if None is known.

    What comes while `IN_FLIGHT` are under way is lost: Erlang's loss formula, which holds for answers of any
    lengths when requests come independently of each other.
    """
    if seconds is None or not seconds.total:
        return offered
    load = offered * _mean(seconds)
    terms = [1.0]
    for servers in range(1, IN_FLIGHT + 1):
        terms.append(terms[-1] * load / servers)
    return offered * (1 - terms[-1] / sum(terms))


def _mean(seconds: Sketch) -> float:
    return sum(count * middle(bucket) for bucket, count in seconds.counts.items()) / seconds.total

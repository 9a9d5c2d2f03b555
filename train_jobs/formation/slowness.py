"""A member that computes much longer than the others, step after step."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from train_jobs.formation.crew import Member

_SLOWER = 1.8
_SLOWER_BY_S = 0.2
_SLOW_STEPS = 5


def slow_member(members: Sequence[Member]) -> tuple[Member, float] | None:
    """The one that is to be named, once in its life, and how many times as long it takes."""
    times = {m.joined.worker: m.beat.compute_s for m in members if m.beat and m.beat.compute_s > 0}
    for member in members:
        others = [value for worker, value in times.items() if worker != member.joined.worker]
        step = member.beat.step if member.beat else 0
        if not others or step == member.judged_step:
            continue
        member.judged_step = step
        own, usual = times.get(member.joined.worker, 0.0), median(others)
        is_slow = own > _SLOWER * usual and own - usual > _SLOWER_BY_S
        member.slow_steps = member.slow_steps + 1 if is_slow else 0
        if member.slow_steps >= _SLOW_STEPS and not member.was_named:
            member.was_named = True
            return member, own / usual
    return None

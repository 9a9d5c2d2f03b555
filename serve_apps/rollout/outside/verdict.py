"""What an outsider says of a candidate."""

from __future__ import annotations

from enum import StrEnum

from cluster.config import StrictModel


class Verdict(StrEnum):
    """Only what was said is a pass or a fail; silence, faults and nonsense are inconclusive."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Answer(StrictModel):
    """A verdict with the reason for it, a sentence without a full stop."""

    verdict: Verdict
    reason: str


def inconclusive(reason: str) -> Answer:
    """Nothing can be concluded, and why."""
    return Answer(verdict=Verdict.INCONCLUSIVE, reason=reason)

"""What a round of held-out questions came to, pair by pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.config import StrictModel

REASONS = 5
"""Reasons for missing pairs that are kept; the pairs of others are counted together."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Scores from 0 to 1 of both versions on one question.

    `unanswered` versions have 0 because they did not answer; `agreed` is False for a judge that did not.
    """

    index: int
    stable: float
    candidate: float
    unanswered: str = ""
    agreed: bool = True


@dataclass(frozen=True, slots=True)
class MissingPair:
    """A question that says nothing about either version, and why."""

    index: int
    reason: str


class PairedScores(StrictModel):
    """The scores of one round.

    `differences[i]`, candidate minus stable and within -1 and 1, is that of question `indices[i]` of the
    set; both in the order in which the questions were asked. Of `n` pairs, `stable_unanswered` and
    `candidate_unanswered` have a 0 for a version that did not answer while the other did, and in
    `judge_disagreed` the judge preferred by position. `missing` counts pairs by reason, of which nothing is
    known. `repeated` of the questions asked were asked in an earlier round. `set_sha256` is that of the file.
    """

    n: int
    differences: tuple[float, ...]
    indices: tuple[int, ...]
    stable_mean: float | None
    candidate_mean: float | None
    stable_unanswered: int
    candidate_unanswered: int
    judge_disagreed: int
    missing: dict[str, int]
    repeated: int
    set_sha256: str

    def counts(self) -> dict[float, int]:
        """Each difference with how often it came: for scores of 0 and 1 all that McNemar's test needs."""
        return dict(sorted(Counter(self.differences).items()))


def paired(found: Iterable[Pair | MissingPair], *, repeated: int, set_sha256: str) -> PairedScores:
    """Summed up, in the order given."""
    found = list(found)
    pairs = [one for one in found if isinstance(one, Pair)]
    return PairedScores(
        n=len(pairs),
        differences=tuple(pair.candidate - pair.stable for pair in pairs),
        indices=tuple(pair.index for pair in pairs),
        stable_mean=_mean([pair.stable for pair in pairs]),
        candidate_mean=_mean([pair.candidate for pair in pairs]),
        stable_unanswered=sum(pair.unanswered == "stable" for pair in pairs),
        candidate_unanswered=sum(pair.unanswered == "candidate" for pair in pairs),
        judge_disagreed=sum(not pair.agreed for pair in pairs),
        missing=_by_reason(one.reason for one in found if isinstance(one, MissingPair)),
        repeated=repeated,
        set_sha256=set_sha256,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _by_reason(reasons: Iterable[str]) -> dict[str, int]:
    ranked = Counter(reasons).most_common()
    counts = dict(ranked[:REASONS])
    if others := sum(count for _, count in ranked[REASONS:]):
        counts["other reasons"] = others
    return counts

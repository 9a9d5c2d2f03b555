"""What one gateway has counted of a model under one revision of its policy. Cumulative."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_apps.gateway import strata
from serve_apps.gateway.callers import Callers
from serve_apps.gateway.observation import Observation
from serve_apps.gateway.outcome import ErrorKind, error_kind, is_callers, unanswered
from serve_apps.gateway.routes import GENERATING
from serve_apps.sketch import SketchBuilder


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that is over.

    `counted_as`: the version that it was for, or `fresh:VERSION`. `prompt_tokens` are about as many as its
    body holds, whatever the answer says of them, so that it falls into the same stratum whichever version
    answers. `spoke`: the answer had text, or called a tool. `mean_logprob`: of the answer's tokens, where
    the caller asked for them. `caller`: the digest of the key that the split went by; a request without one
    is its own caller. `new_replica`: it was among the first requests of its replica.
    """

    row: Observation
    counted_as: str
    prompt_tokens: int
    spoke: bool
    mean_logprob: float | None = None
    caller: bytes = field(default=b"", repr=False)
    new_replica: bool = False


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A text and what the checks found in it, by check; a check that was not made is missing."""

    counted_as: str
    found: Mapping[str, bool]
    caller: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class NotLookedAt:
    """A text that was to be looked at, when too many waited."""

    counted_as: str


@dataclass(frozen=True, slots=True)
class Shadowed:
    """A copy of a request, sent to the candidate."""

    answered: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """What the checks found in two answers to the same prompt."""

    stable: Mapping[str, bool]
    candidate: Mapping[str, bool]


Seen = Finished | LookedAt | NotLookedAt | Shadowed | Pair

ASKED = "asked"
"""Requests that were answered, well or not, and those that were not for the version's sake."""

JSON_CHECK = "invalid_json"
"""The check that is made only where JSON was asked for."""

_OUTCOMES = {(True, True): "both", (False, True): "only_candidate", (True, False): "only_stable"}
"""By what was found at stable and at the candidate."""


class TallyBuilder:
    """Belongs to one thread."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._callers: defaultdict[str, Callers] = defaultdict(Callers)
        self._sketches: dict[tuple[str, str, str], SketchBuilder] = {}
        self._pairs: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._shadow_requests = 0
        self._shadow_errors = 0

    def add(self, seen: Seen) -> None:
        """Count what was seen."""
        match seen:
            case Finished():
                self._finished(seen)
            case LookedAt():
                self._looked_at(seen)
            case NotLookedAt():
                self._counts[seen.counted_as]["texts_dropped"] += 1
            case Shadowed():
                self._shadow_requests += 1
                self._shadow_errors += not seen.answered
            case Pair():
                self._pair(seen)

    def to_json(self) -> dict[str, Any]:
        """In the form of `cluster.tally.Tally`."""
        versions: defaultdict[str, dict[str, Any]] = defaultdict(lambda: {"counts": {}, "sketches": {}})
        for version, counts in self._counts.items():
            versions[version]["counts"] = dict(counts)
        for (version, metric, stratum), sketch in self._sketches.items():
            versions[version]["sketches"].setdefault(metric, {})[stratum] = sketch.to_json()
        return {
            "versions": dict(versions),
            "pairs": {check: dict(counts) for check, counts in self._pairs.items()},
            "shadow_requests": self._shadow_requests,
            "shadow_errors": self._shadow_errors,
        }

    def _finished(self, seen: Finished) -> None:
        row = seen.row
        if is_callers(row.status, row.error_code):
            why = unanswered(row.status, row.error_code, begun=row.ttft_s is not None)
            if why is not None:
                self._callers[seen.counted_as].at(row.at)
                self._count(seen.counted_as, seen.caller, [ASKED, why.value])
            return
        kind = error_kind(row.status, row.error_code)
        self._callers[seen.counted_as].at(row.at)
        self._count(seen.counted_as, seen.caller, _events(seen, kind))
        if kind is not None:
            return
        for metric, stratum, value in _quantities(seen):
            self._sketch(seen.counted_as, metric, stratum, value)

    def _looked_at(self, seen: LookedAt) -> None:
        events = ["texts", *(check for check, found in seen.found.items() if found)]
        if JSON_CHECK in seen.found:
            events.append("json_texts")
        self._count(seen.counted_as, seen.caller, events)

    def _count(self, version: str, caller: bytes, events: Sequence[str]) -> None:
        counts = self._counts[version]
        for event in events:
            counts[event] += 1
        self._callers[version].count(caller, events, counts)

    def _pair(self, seen: Pair) -> None:
        for check in seen.stable.keys() & seen.candidate.keys():
            counts = self._pairs[check]
            counts["n"] += 1
            outcome = _OUTCOMES.get((seen.stable[check], seen.candidate[check]))
            if outcome is not None:
                counts[outcome] += 1

    def _sketch(self, version: str, metric: str, stratum: str, value: float) -> None:
        place = (version, metric, stratum)
        sketch = self._sketches.get(place)
        if sketch is None:
            sketch = self._sketches[place] = SketchBuilder()
        sketch.add(value)


def _events(seen: Finished, kind: ErrorKind | None) -> list[str]:
    row, events = seen.row, ["requests", ASKED]
    if row.retries or row.continued:
        events.append("retried")
    if kind is not None:
        return [*events, "errors", kind.value]
    if row.route in GENERATING:
        if not seen.spoke:
            events.append("empty")
        if row.finish_reason == "length":
            events.append("cut")
    return events


def _quantities(seen: Finished) -> Iterator[tuple[str, str, float]]:
    """Metric, stratum and value; seconds, tokens, tokens a second, nats."""
    row = seen.row
    by_prompt = strata.of_prompt(seen.prompt_tokens)
    by_both = strata.of_both(seen.prompt_tokens, row.completion_tokens)
    # What a version says does not depend on how warm its replica is; how fast it says it does.
    warmth = strata.NEW if seen.new_replica else ""
    yield "e2el", by_both + warmth, row.e2e_s
    if row.ttft_s is not None:
        yield "ttft", by_prompt + warmth, row.ttft_s
    if row.itl_s is not None:
        yield "itl", by_both + warmth, row.itl_s
    if row.completion_tokens is not None:
        # By the answer's own length, every stratum would hold the same lengths whatever the version.
        yield "answer_tokens", by_prompt, row.completion_tokens
        if row.e2e_s > 0:
            yield "tokens_per_s", by_both + warmth, row.completion_tokens / row.e2e_s
    if seen.mean_logprob is not None:
        # Sketches hold what is not negative, so the distance from certainty.
        yield "mean_logprob", by_both, max(0.0, -seen.mean_logprob)

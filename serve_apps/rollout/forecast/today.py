"""How much a model is asked now, and how its stable version answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cluster.state.tallies import GatewayTally
from cluster.tally import FRESH, PAIRS, VersionTally
from serve_apps.rollout import compact
from serve_apps.rollout.judge import clusters
from serve_apps.rollout.judge.clusters import Side
from serve_apps.rollout.judge.sketch import EMPTY, Sketch
from serve_apps.rollout.metrics import METRICS, Kind, Metric

WINDOW = timedelta(hours=24)
SHORTEST_S = 60.0
"""What was asked in less time is taken as all that was asked in so much."""

_RATES = tuple(metric for metric in METRICS.values() if metric.kind is Kind.RATE)


@dataclass(frozen=True, slots=True)
class Share:
    """`bad` of `n` answers of the stable version; `effect`: so many of the bad ones count as one."""

    bad: int
    n: int
    effect: float = 1.0

    def clustered_as(self, other: Share | None) -> Share:
        """With the other's effect, where there is one."""
        return self if other is None else replace(self, effect=other.effect)


@dataclass(frozen=True, slots=True)
class Today:
    """`requests` of all versions over `seconds` until now; of `answers` of stable the shares and values.

    `json_share`: of texts, how many were asked to be JSON. `source`: where it was read.
    """

    requests: int = 0
    seconds: float = 0.0
    answers: int = 0
    shares: Mapping[str, Share] = field(default_factory=dict)
    sketches: Mapping[str, Sketch] = field(default_factory=dict)
    json_share: float | None = None
    source: str = "nothing"

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    def beside(self, other: Today) -> Today:
        """With what is known from `other` alone."""
        if not other.answers:
            return self
        if not self.answers:
            return other
        return Today(
            requests=self.requests,
            seconds=self.seconds,
            answers=self.answers,
            shares={
                **other.shares,
                # Who asked is not read from the log.
                **{name: share.clustered_as(other.shares.get(name)) for name, share in self.shares.items()},
            },
            sketches={**other.sketches, **self.sketches},
            json_share=other.json_share,
            source=self.source,
        )


def from_tallies(rows: Iterable[GatewayTally], stable: str) -> Today:
    """What gateways have counted for rollouts that were judged in the last day; it holds texts too."""
    counts: Counter[str] = Counter()
    sides: dict[str, Side] = {metric.name: Side() for metric in _RATES}
    sketches: dict[str, Sketch] = {}
    spans: dict[int, tuple[datetime, datetime]] = {}
    requests = 0
    for row in rows:
        asked = sum(found.counts.get("requests", 0) for found in row.tally.versions.values())
        if not asked:
            continue
        requests += asked
        begin, end = spans.get(row.revision, (row.applied_at, row.seen_at))
        spans[row.revision] = min(begin, row.applied_at), max(end, row.seen_at)
        for name in (stable, f"{FRESH}{stable}"):
            found = row.tally.versions.get(name, VersionTally())
            counts.update(found.counts)
            sides = {metric.name: _grown(sides[metric.name], metric, found.counts) for metric in _RATES}
            for metric, strata in found.sketches.items():
                for sketch in strata.values():
                    sketches[metric] = sketches.get(metric, EMPTY).merge(compact.read(sketch))
    if not counts["requests"]:
        return Today()
    seconds = sum((end - begin).total_seconds() for begin, end in spans.values())
    texts = counts["texts"]
    since = min(begin for begin, _ in spans.values())
    return Today(
        requests=requests,
        seconds=max(seconds, SHORTEST_S),
        answers=counts["requests"],
        shares={
            metric.name: Share(
                counts[metric.event], counts[metric.exposure], sides[metric.name].design_effect
            )
            for metric in _RATES
            if counts[metric.exposure]
        },
        sketches=sketches,
        json_share=counts["json_texts"] / texts if texts else None,
        source=f"the tallies of judged rollouts since {since:%Y-%m-%d %H:%M} UTC",
    )


def _grown(side: Side, metric: Metric, counts: Mapping[str, int]) -> Side:
    names = metric.exposure, metric.event, PAIRS + metric.exposure, PAIRS + metric.event
    return clusters.grow(side, *(counts.get(name, 0) for name in names))

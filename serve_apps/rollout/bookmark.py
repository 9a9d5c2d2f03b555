"""How far the tallies of the gateways have been read, and what is new in them."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from cluster.config import StrictModel
from cluster.state.tallies import GatewayTally
from cluster.tally import Pairs, Tally, VersionTally
from cluster.tally import Sketch as Compact
from serve_apps.rollout import compact
from serve_apps.rollout.looks import Counted


class Bookmark(StrictModel):
    """What has been read of each row, by gateway and revision. A row that is gone is forgotten."""

    read: dict[str, Tally] = Field(default_factory=dict)


def news(
    rows: Iterable[GatewayTally], before: Bookmark, *, candidate: str, baseline: str
) -> tuple[tuple[Counted, ...], Bookmark]:
    """What the rows hold that was not read before, by revision, and the bookmark after it.

    `candidate` and `baseline` are the names that gateways count them under.
    """
    read: dict[str, Tally] = {}
    found: dict[int, Counted] = {}
    for row in rows:
        name = f"{row.gateway}/{row.revision}"
        read[name] = row.tally
        new = _new(row.tally, before.read.get(name, Tally()), row.revision, candidate, baseline)
        found[row.revision] = _sum(found.get(row.revision, Counted(revision=row.revision)), new)
    return tuple(one for _, one in sorted(found.items()) if not _is_empty(one)), Bookmark(read=read)


def _new(now: Tally, before: Tally, revision: int, candidate: str, baseline: str) -> Counted:
    empty = VersionTally()
    return Counted(
        revision=revision,
        candidate=_minus(now.versions.get(candidate, empty), before.versions.get(candidate, empty)),
        baseline=_minus(now.versions.get(baseline, empty), before.versions.get(baseline, empty)),
        pairs={
            check: Pairs(
                **{
                    field: getattr(pairs, field) - getattr(before.pairs.get(check, Pairs()), field)
                    for field in Pairs.model_fields
                }
            )
            for check, pairs in now.pairs.items()
        },
    )


def _minus(now: VersionTally, before: VersionTally) -> VersionTally:
    counts = {name: count - before.counts.get(name, 0) for name, count in now.counts.items()}
    sketches = {
        metric: {
            stratum: left
            for stratum, sketch in strata.items()
            if (left := _left(sketch, before.sketches.get(metric, {}).get(stratum))) != Compact()
        }
        for metric, strata in now.sketches.items()
    }
    return VersionTally(
        counts={name: count for name, count in counts.items() if count},
        sketches={metric: strata for metric, strata in sketches.items() if strata},
    )


def _left(now: Compact, before: Compact | None) -> Compact:
    return now if before is None else compact.write(compact.read(now).minus(compact.read(before)))


def _sum(one: Counted, other: Counted) -> Counted:
    checks = one.pairs.keys() | other.pairs.keys()
    return Counted(
        revision=one.revision,
        candidate=_plus(one.candidate, other.candidate),
        baseline=_plus(one.baseline, other.baseline),
        pairs={
            check: Pairs(
                **{
                    field: sum(getattr(side.pairs.get(check, Pairs()), field) for side in (one, other))
                    for field in Pairs.model_fields
                }
            )
            for check in sorted(checks)
        },
    )


def _plus(one: VersionTally, other: VersionTally) -> VersionTally:
    names = one.counts.keys() | other.counts.keys()
    sketches = {metric: dict(strata) for metric, strata in one.sketches.items()}
    for metric, strata in other.sketches.items():
        mine = sketches.setdefault(metric, {})
        for stratum, sketch in strata.items():
            mine[stratum] = compact.merged(mine.get(stratum), sketch)
    counts = {name: one.counts.get(name, 0) + other.counts.get(name, 0) for name in sorted(names)}
    return VersionTally(counts=counts, sketches=sketches)


def _is_empty(one: Counted) -> bool:
    nothing = VersionTally()
    return one.candidate == nothing and one.baseline == nothing and not any(p.n for p in one.pairs.values())

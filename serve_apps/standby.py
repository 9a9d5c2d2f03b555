"""Which replicas of a version stand by: proven and running, and left alone while the others do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cluster.state.replicas import proven_at
from cluster.state.tables import ReplicaRow


@dataclass(frozen=True, slots=True)
class Proof:
    """A replica's own word: since when it serves, and how many of its version are to stand by."""

    at: datetime
    standby: int


def proof(row: ReplicaRow) -> Proof:
    """From the row of a serving replica."""
    return Proof(proven_at(row), int(row.detail.get("standby", 0)))


def standbys(running: Iterable[str], proofs: Mapping[str, Proof], planned: int | None) -> frozenset[str]:
    """Those of `running` that stand by, where `planned` replicas are to run in all.

    The oldest get the requests, so one that arrives stands by and moves nobody, and when one is
    lost the oldest standby takes its place. The youngest known replica says how many are to stand by;
    one without a proof is taken for younger than all others. Where nothing is known, nobody stands by.
    """
    known = {name: proofs[name] for name in running if name in proofs}
    if planned is None or not known:
        return frozenset()
    spare = max(known.items(), key=lambda item: (item[1].at, item[0]))[1].standby
    if not spare:
        return frozenset()
    by_age = [
        *sorted(known, key=lambda name: (known[name].at, name)),
        *sorted(name for name in running if name not in known),
    ]
    return frozenset(by_age[max(1, planned - spare) :])


def took_over(lost: str, running: Iterable[str], proofs: Mapping[str, Proof], at: datetime) -> str | None:
    """The standby that got the requests of `lost`, which was gone at `at`; None where there was none."""
    before = [lost, *(name for name in running if name in proofs and proofs[name].at <= at)]
    spare = standbys(before, proofs, len(before))
    if not spare or lost in spare:
        return None
    return min(spare, key=lambda name: (proofs[name].at, name))

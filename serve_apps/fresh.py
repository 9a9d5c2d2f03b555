"""Which replicas of stable are fresh: as new as the candidate's, and kept for as much traffic.

Kayenta's lesson: a new version in new processes, with cold caches and little traffic, is slower than one that
has been busy for days, whatever its weights are. So it is compared with replicas of stable that are as new.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from cluster.judging import Fresh


def fresh(
    running: Collection[str], started: Mapping[str, datetime], judging: Fresh, *, like: int
) -> frozenset[str]:
    """Of stable's `running` replicas the fresh ones: as many as the candidate has (`like`), at least one.

    They are the first that `started` after the rollout began, so that one which comes later moves nobody.
    None is taken from the number that stable had then: a replica in the place of one that was lost is needed.
    """
    new = sorted(
        (started[name], name) for name in running if started.get(name, judging.since) > judging.since
    )
    beyond = len(running) - judging.others
    return frozenset(name for _, name in new[: max(0, min(max(like, 1), beyond))])

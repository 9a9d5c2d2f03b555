"""A version that was refused a moment ago is not loaded again for nothing.

Serve tries a constructor as often as it finds that replicas have failed to start, and counts among those
the ones that were lost while its own controller was away. So it must be let try more than once, and the
tries after a refusal end at once, with what the first one found.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ray import serve
from sqlalchemy.orm import Session

from cluster.errors import GateFailedError
from cluster.refs import VersionRef
from cluster.state import replicas
from cluster.state.tables import ReplicaRow

WITHIN = timedelta(seconds=60)
"""Longer than Serve takes for three tries; a host that was short of memory is tried again after it."""


def refused_lately(session: Session, ref: VersionRef, now: datetime) -> ReplicaRow | None:
    """The newest refusal of a replica of this version, if it is so new (UTC without a zone)."""
    rows = replicas.refusals(session, ref.model, ref.version)
    return rows[0] if rows and rows[0].seen_at >= now - WITHIN else None


def deployed_at(application: str) -> datetime:
    """When the application was last deployed, by Serve's own clock (UTC without a zone)."""
    at = serve.status().applications[application].last_deployed_time_s
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None)


def again(ref: VersionRef, refusal: ReplicaRow, now: datetime) -> GateFailedError:
    """The same refusal, told without another try."""
    ago = (now - refusal.seen_at).total_seconds()
    return GateFailedError(
        f"A replica of `{ref}` was refused {ago:.0f} s ago: {refusal.detail.get('reason')}",
        code="gate.refused_lately",
        hint="Mend what it says, and deploy it again.",
        retryable=True,
    )

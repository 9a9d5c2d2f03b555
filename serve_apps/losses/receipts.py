"""The receipt of a lost replica, as people and programs read it."""

from __future__ import annotations

from datetime import datetime

from cluster.config import StrictModel
from cluster.state.tables import LossRow


class ReplicaReceipt(StrictModel):
    """Seconds of one loss; what has not come yet is null.

    `detect_s`: from the last sign of life until it was noticed, so at most that. `isolate_s`: from
    there until Serve named the replica no longer. `recover_s`: from there until another had loaded,
    `verify_s`: until that one had proven itself. `total_s` is all of it. A standby had done both
    before it was needed.
    """

    at: datetime
    model: str
    version: str
    replica: str
    signal: str
    detect_s: float
    isolate_s: float
    recover_s: float | None
    verify_s: float | None
    total_s: float | None
    retried: int
    continued: int
    failed: int
    replaced_by: str | None
    by_standby: bool


def receipt(row: LossRow) -> ReplicaReceipt:
    """From the row that the gateways wrote."""
    recover_s = verify_s = total_s = None
    if row.recovered_at is not None and row.prove_s is not None:
        verify_s = row.prove_s
        recover_s = max(0.0, _between(row.isolated_at, row.recovered_at) - verify_s)
        total_s = max(0.0, _between(row.heard_at, row.recovered_at))
    return ReplicaReceipt(
        at=row.detected_at,
        model=row.model,
        version=row.version,
        replica=row.replica,
        signal=row.signal,
        detect_s=max(0.0, _between(row.heard_at, row.detected_at)),
        isolate_s=max(0.0, _between(row.detected_at, row.isolated_at)),
        recover_s=_rounded(recover_s),
        verify_s=_rounded(verify_s),
        total_s=_rounded(total_s),
        retried=row.retried,
        continued=row.continued,
        failed=row.failed,
        replaced_by=row.replaced_by,
        by_standby=row.load_s == 0.0,
    )


def _between(begin: datetime, end: datetime) -> float:
    return round((end - begin).total_seconds(), 2)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)

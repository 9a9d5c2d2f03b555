"""The runs table: who drives a run, how far it is, and why it ended."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import psutil
from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.errors import ConflictError, NotFoundError, did_you_mean, one_of
from cluster.state import events
from cluster.state.tables import RunRow, utc_now

LEASE = timedelta(seconds=60)


class RunStatus(StrEnum):
    """Where a run is."""

    STARTING = "starting"
    RUNNING = "running"
    PUBLISHING = "publishing"
    CANCELLING = "cancelling"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


ACTIVE = frozenset({RunStatus.STARTING, RunStatus.RUNNING, RunStatus.PUBLISHING, RunStatus.CANCELLING})


class Driver(StrictModel):
    """The process that drives a run; `started` tells a reused pid from the real one."""

    pid: int
    started: float
    host: str
    launch: str


def this_driver(launch: str) -> Driver:
    """The driver that the current process is."""
    return Driver(
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        host=socket.gethostname(),
        launch=launch,
    )


def driver_lives(driver: Driver) -> bool | None:
    """Whether the driver's process is there; None when it is on another host."""
    if driver.host != socket.gethostname():
        return None
    try:
        process = psutil.Process(driver.pid)
        same = abs(process.create_time() - driver.started) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def effective(
    row: RunRow, now: datetime, lives: Callable[[Driver], bool | None] = driver_lives
) -> tuple[RunStatus, str]:
    """Status and reason as they are, whatever a driver that died could no longer write.

    A driver on another host counts as gone once it has not renewed its row for LEASE.
    """
    status = RunStatus(row.status)
    if status not in ACTIVE:
        return status, row.reason
    answer = lives(driver_of(row))
    if answer or (answer is None and now - row.updated_at < LEASE):
        return status, row.reason
    if status is RunStatus.CANCELLING:
        return RunStatus.CANCELLED, row.reason
    return RunStatus.INTERRUPTED, "driver_lost"


def driver_of(row: RunRow) -> Driver:
    """The driver that a row names."""
    return Driver.model_validate(row.driver)


def claim(session: Session, name: str, *, driver: Driver, spec_sha256: str, total_steps: int) -> RunRow:
    """Make `driver` the one that drives the run, new or resumed.

    Raises ConflictError while another driver lives.
    """
    row = session.get(RunRow, name, with_for_update=True)
    if row is None:
        row = RunRow(name=name, step=0, attempts=0, published=[], started_at=utc_now())
        session.add(row)
    elif effective(row, utc_now())[0] in ACTIVE:
        holder = driver_of(row)
        raise ConflictError(
            f"The run `{name}` is being trained by pid {holder.pid} on {holder.host}.",
            code="train.running",
            hint=f"`linnet train show {name}` follows it; `linnet train cancel {name}` stops it.",
        )
    row.driver, row.spec_sha256, row.total_steps = driver.model_dump(), spec_sha256, total_steps
    set_status(session, row, RunStatus.STARTING, "claimed")
    return row


def set_status(session: Session, row: RunRow, status: RunStatus, reason: str, sentence: str = "") -> None:
    """Change a run's status and tell it as an event."""
    row.status, row.reason, row.updated_at = status.value, reason[:256], utc_now()
    events.append(
        session,
        kind="run.status",
        subject=f"run/{row.name}",
        sentence=sentence or f"The run {row.name} is {status.value}",
        reason=reason,
        detail={"status": status.value, "step": row.step},
    )


def renew(session: Session, name: str, *, step: int, attempts: int) -> RunStatus:
    """Say that the driver lives and how far the run is; returns the status, which may be CANCELLING."""
    row = require(session, name)
    row.step, row.attempts, row.updated_at = max(step, row.step), attempts, utc_now()
    if RunStatus(row.status) is RunStatus.STARTING and step > 0:
        set_status(session, row, RunStatus.RUNNING, "training")
    return RunStatus(row.status)


def require(session: Session, name: str) -> RunRow:
    """The run's row. Raises NotFoundError with the nearest name."""
    row = session.get(RunRow, name)
    if row is None:
        known = [run.name for run in all_runs(session)]
        raise NotFoundError(
            f"There is no run `{name}`.{did_you_mean(name, known)}",
            code="train.unknown_run",
            hint=f"Runs: {one_of(known)}.",
        )
    return row


def all_runs(session: Session) -> list[RunRow]:
    """Every run, the newest first."""
    return list(session.scalars(select(RunRow).order_by(RunRow.started_at.desc())))


def active_names(session: Session) -> set[str]:
    """The runs that are being driven now."""
    now = utc_now()
    return {row.name for row in all_runs(session) if effective(row, now)[0] in ACTIVE}


def as_dict(row: RunRow, now: datetime) -> dict[str, Any]:
    """A row for `--json` and tables."""
    status, reason = effective(row, now)
    return {
        "run": row.name,
        "status": status.value,
        "reason": reason,
        "step": row.step,
        "total_steps": row.total_steps,
        "attempts": row.attempts,
        "published": list(row.published),
        "started_at": row.started_at,
        "updated_at": row.updated_at,
    }

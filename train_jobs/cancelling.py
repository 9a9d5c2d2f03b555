"""Cancelling a run: the wish is stored, then the driver is told, then its end is awaited."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from cluster.config import Settings
from cluster.errors import ConflictError, TimedOutError
from cluster.state import events
from cluster.state.database import open_database
from cluster.state.tables import utc_now
from train_jobs import runs
from train_jobs.runs import Driver, RunStatus

DEADLINE_S = 60.0
_POLL_S = 0.2


def find(run: str, settings: Settings) -> Driver:
    """Who drives the run. Raises NotFoundError for an unknown run, ConflictError for one that has ended."""
    with open_database(settings.state_url).snapshot() as session:
        row = runs.require(session, run)
        status, _ = runs.effective(row, utc_now())
        if status not in runs.ACTIVE:
            raise ConflictError(
                f"The run `{run}` is {status.value}; there is nothing to cancel.",
                code="train.not_running",
                hint="`linnet train list` shows which runs are active.",
            )
        return runs.driver_of(row)


def cancel(run: str, settings: Settings, *, deadline_s: float = DEADLINE_S) -> str:
    """Stop the run and return its status. Raises TimedOutError when its driver does not end in time.

    A driver on another host finds the wish in the database, where it looks every few seconds.
    """
    driver = find(run, settings)
    database = open_database(settings.state_url)
    with database.transaction() as session:
        row = runs.require(session, run)
        runs.set_status(session, row, RunStatus.CANCELLING, f"cancelled by {events.current_actor()}")
    if runs.driver_lives(driver):
        with contextlib.suppress(ProcessLookupError):
            os.kill(driver.pid, signal.SIGTERM)
    limit = time.monotonic() + deadline_s
    while time.monotonic() < limit:
        with database.snapshot() as session:
            status, _ = runs.effective(runs.require(session, run), utc_now())
        if status not in runs.ACTIVE:
            return status.value
        time.sleep(_POLL_S)
    raise TimedOutError(
        f"The driver of `{run}` (pid {driver.pid} on {driver.host}) still runs after {deadline_s:.0f} s.",
        code="train.cancel_timeout",
        hint=f"Look with `linnet train logs {run}`; the driver still means to stop.",
    )

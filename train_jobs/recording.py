"""What is kept of a launch while it lasts and when it ends: the driver's log and the run's row."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from typing import TextIO

from cluster.errors import InterruptedRunError, LinnetError
from cluster.state.database import Database
from train_jobs import runs, timeline
from train_jobs.ray_errors import brief, unwrap
from train_jobs.run_files import RunFiles
from train_jobs.runs import RunStatus


@contextlib.contextmanager
def recorded(database: Database, files: RunFiles, log: TextIO | None) -> Iterator[None]:
    """Write how the run ended, whichever way it leaves the block."""
    try:
        yield
    except (InterruptedRunError, KeyboardInterrupt) as error:
        status = _end(database, files, RunStatus.INTERRUPTED, "interrupted")
        raise InterruptedRunError(
            f"The run {files.run} is {status.value}; what was committed is kept.",
            hint="Running the same command again resumes it.",
        ) from error
    except LinnetError as error:
        _end(database, files, RunStatus.FAILED, f"{error.code}: {error.message}")
        raise
    except Exception as error:
        if log is not None:
            traceback.print_exc(file=log)
        found = unwrap(error) or LinnetError(
            f"The run {files.run} ended with {brief(error)}",
            code="train.failed",
            hint=f"`linnet train logs {files.run}` has the whole of it; the same command resumes the run.",
        )
        _end(database, files, RunStatus.FAILED, f"{found.code}: {found.message}")
        raise found from error
    _end(database, files, RunStatus.FINISHED, "completed")


def is_recorded_as_finished(database: Database, run: str) -> bool:
    """Whether the row of a run says so."""
    with database.snapshot() as session:
        return any(row.name == run and row.status == RunStatus.FINISHED for row in runs.all_runs(session))


@contextlib.contextmanager
def driver_log(files: RunFiles) -> Iterator[TextIO | None]:
    """logs/driver.log, appended to; None on an object store, where the journals must do."""
    if not files.storage.is_local:
        yield None
        return
    files.storage.make_dirs(files.logs)
    files.storage.append_line(f"{files.logs}/driver.log", f"--- pid {os.getpid()}".encode())
    with files.storage.local_path(f"{files.logs}/driver.log").open("a", encoding="utf-8") as log:
        yield log


def _end(database: Database, files: RunFiles, status: RunStatus, reason: str) -> RunStatus:
    told = timeline.summarize(files.read_attempts(), files.read_steps())
    with database.transaction() as session:
        row = runs.require(session, files.run)
        if status is RunStatus.INTERRUPTED and row.status == RunStatus.CANCELLING.value:
            status, reason = RunStatus.CANCELLED, row.reason
        row.step, row.attempts = told.step, len(told.attempts)
        runs.set_status(session, row, status, reason)
    return status

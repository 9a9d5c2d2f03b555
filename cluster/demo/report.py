"""What a finished demo came to: the record, its verdict, the file and the table."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import psutil
from rich.console import Group, RenderableType
from rich.table import Table

from cluster.config import StrictModel
from cluster.demo import figures
from cluster.demo.client import MODEL
from cluster.demo.figures import (
    MAX_STANDARD_ERRORS,
    MIN_ACCURACY,
    Phase,
    RequestFigures,
    SplitFigures,
    TrainFigures,
)
from cluster.demo.state import Demo
from cluster.errors import LinnetError
from cluster.storage import Storage

_GIB = 2**30


class Report(StrictModel):
    """`report.json`. Accuracies, shares: 0 to 1; durations in seconds."""

    started_at: datetime
    model: str
    version_base: str
    version_tuned: str
    snippets: int
    accuracy_base: float
    accuracy_tuned: float
    train: TrainFigures
    split: SplitFigures
    requests: RequestFigures
    rollback_s: float
    duration_s: float
    phases: list[Phase]
    cores: int
    memory_gib: float


def make_report(demo: Demo) -> Report:
    """Fold what the steps found out."""
    return Report(
        started_at=datetime.fromtimestamp(demo.started_at, UTC),
        model=MODEL,
        version_base=demo.base,
        version_tuned=demo.tuned,
        snippets=demo.snippets,
        accuracy_base=demo.accuracy[demo.base],
        accuracy_tuned=demo.accuracy[demo.tuned],
        train=demo.train,
        split=demo.split,
        requests=figures.requests(demo.answers()),
        rollback_s=demo.rollback_s,
        duration_s=time.time() - demo.started_at,
        phases=demo.phases,
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / _GIB, 1),
    )


def shortfall(report: Report) -> LinnetError | None:
    """The first thing that a demo must show and this one did not."""
    if report.requests.failed:
        why = "; ".join(f"{count} x {error}" for error, count in report.requests.failures.items())
        return LinnetError(
            f"{report.requests.failed} of {report.requests.total} requests failed: {why}.",
            code="demo.requests_failed",
        )
    if report.accuracy_tuned < MIN_ACCURACY:
        return LinnetError(
            f"The tuned version is right on {report.accuracy_tuned:.1%} of the held-out snippets, "
            f"expected at least {MIN_ACCURACY:.0%}.",
            code="demo.accuracy",
            hint=f"`linnet train show {report.train.run}` shows how the training went.",
        )
    if report.split.standard_errors > MAX_STANDARD_ERRORS:
        return LinnetError(
            f"The observed split {report.split.observed:.1%} is "
            f"{report.split.standard_errors:.1f} standard errors from "
            f"{report.split.expected:.1%}, expected at most {MAX_STANDARD_ERRORS:g}.",
            code="demo.split",
        )
    return None


def write_json(demo: Demo, report: Report) -> None:
    """Write `report.json`. Raises StorageError for a disk that is full or cannot be written."""
    text = report.model_dump_json(indent=2) + "\n"
    Storage(str(demo.directory)).write_atomic("report.json", text.encode())


def table(report: Report) -> RenderableType:
    """What a person reads at the end."""
    title = f"{report.model}: from nothing to the loop closed once"
    told = Table(title=title, show_header=False, title_justify="left")
    told.add_column(style="bold")
    told.add_column(justify="right")
    told.add_column(style="dim")
    for row in _rows(report):
        told.add_row(*row)
    return Group(told, _phases(report))


def _rows(report: Report) -> list[tuple[str, str, str]]:
    train, split, asked = report.train, report.split, report.requests
    versions = ", ".join(f"{version} {count}" for version, count in asked.by_version.items())
    return [
        (
            "held-out accuracy",
            f"{report.accuracy_base:.1%} -> {report.accuracy_tuned:.1%}",
            f"{report.version_base} and {report.version_tuned}, {report.snippets} snippets, by gateway",
        ),
        (
            "loss",
            f"{train.first_loss:.3f} -> {train.last_loss:.3f}",
            f"{train.steps} steps on {train.workers} workers",
        ),
        (
            "workers killed",
            str(train.kills),
            f"{train.recovered_s:.1f} s to new work, {train.steps_redone} steps trained again",
        ),
        (
            "split",
            f"{split.observed:.1%}",
            f"expected {split.expected:.0%}, {split.keys} keys, {split.standard_errors:.2f} standard errors",
        ),
        ("requests", f"{asked.failed} of {asked.total} failed", f"{asked.streams} streams; {versions}"),
        ("rollback", f"{report.rollback_s:.2f} s", "from the command to the first answer of the old version"),
        ("duration", clock(report.duration_s), f"{report.cores} cores, {report.memory_gib:g} GiB"),
    ]


def clock(seconds: float) -> str:
    """`11:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _phases(report: Report) -> Table:
    told = Table(title="where the time went", show_header=False, box=None, title_justify="left")
    told.add_column()
    told.add_column(justify="right")
    told.add_column(style="cyan")
    longest = max((phase.seconds for phase in report.phases), default=1.0) or 1.0
    for phase in report.phases:
        told.add_row(phase.name, f"{phase.seconds:.1f} s", "█" * round(24 * phase.seconds / longest))
    return told

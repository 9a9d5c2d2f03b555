"""What a run's two journals say of its failures: work done twice, and seconds until new work."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from cluster.config import StrictModel
from train_jobs.run_files import AttemptRecord, StepRecord, WorkerRecord


class Cause(StrEnum):
    """Why an attempt began."""

    START = "start"
    RECOVERY = "recovery"
    COMMAND = "command"


class AttemptSummary(StrictModel):
    """One attempt. `recovered_s` runs from the last step before it to its first step that was new;
    None for an attempt that recovered nothing or has not got there yet.
    """

    attempt: int
    cause: Cause
    at: float
    resumed_from_step: int
    skipped: list[str]
    workers: list[WorkerRecord]
    steps_redone: int
    recovered_s: float | None


class Timeline(StrictModel):
    """All attempts; `step` is the furthest step that was trained."""

    step: int
    attempts: list[AttemptSummary]

    @property
    def steps_redone(self) -> int:
        """Steps that were trained more than once, counted each time."""
        return sum(attempt.steps_redone for attempt in self.attempts)

    @property
    def recovered_s(self) -> float | None:
        """Seconds lost to all failures that the run recovered from; None without any."""
        spent = [a.recovered_s for a in self.attempts if a.recovered_s is not None]
        return sum(spent) if spent else None


def summarize(attempts: Sequence[AttemptRecord], steps: Sequence[StepRecord]) -> Timeline:
    """Fold the journals, both in order of writing."""
    summaries: list[AttemptSummary] = []
    for index, record in enumerate(attempts):
        before = [s for s in steps if s.attempt < record.attempt]
        own = [s for s in steps if s.attempt == record.attempt]
        furthest = max((s.step for s in before), default=0)
        cause = _cause(attempts[:index], record)
        summaries.append(
            AttemptSummary(
                attempt=record.attempt,
                cause=cause,
                at=record.at,
                resumed_from_step=record.resumed_from_step,
                skipped=record.skipped,
                workers=record.workers,
                steps_redone=sum(s.step <= furthest for s in own),
                recovered_s=_recovered(before, own, furthest) if cause is Cause.RECOVERY else None,
            )
        )
    return Timeline(step=max((s.step for s in steps), default=0), attempts=summaries)


def last_of_each_step(steps: Sequence[StepRecord]) -> list[StepRecord]:
    """The records that count: of a step trained twice the later one."""
    return [record for _, record in sorted({record.step: record for record in steps}.items())]


def _cause(earlier: Sequence[AttemptRecord], record: AttemptRecord) -> Cause:
    if not earlier:
        return Cause.START
    return Cause.RECOVERY if earlier[-1].launch == record.launch else Cause.COMMAND


def _recovered(before: Sequence[StepRecord], own: Sequence[StepRecord], furthest: int) -> float | None:
    fresh = [s.at for s in own if s.step > furthest]
    return min(fresh) - before[-1].at if fresh and before else None

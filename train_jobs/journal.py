"""What rank 0 writes of every step, and what every member keeps of those that no checkpoint holds yet."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile
from statistics import median

from train_jobs import early_stop
from train_jobs.certificate import Certificate, append_certificate
from train_jobs.ledger import StepEntry
from train_jobs.loop import StepResult
from train_jobs.run_files import RunFiles, StepRecord, read_lines
from train_jobs.timeline import last_of_each_step
from train_jobs.tracking import Trackers, metrics_of

_RECENT = 20
Numbers = dict[str, float]


@dataclass(frozen=True)
class Past:
    """What decisions look back at, alike on every member.

    `pending` are the entries that no checkpoint holds, `metrics` and `evaluated` what else is told of them,
    by step; `evaluations` are all `(step, loss)`, `losses` the latest; `skips` counts the newest steps in a
    row that were left out.
    """

    pending: list[StepEntry]
    evaluations: list[tuple[int, float]]
    losses: list[float]
    metrics: dict[int, Numbers] = field(default_factory=dict)
    evaluated: dict[int, Numbers] = field(default_factory=dict)
    skips: int = 0


def entry_of(result: StepResult, attempt: int) -> StepEntry:
    """What the ledger keeps of a step."""
    return StepEntry(
        step=result.step,
        samples=result.samples,
        loss=result.loss,
        grad_norm=result.grad_norm,
        learning_rate=result.learning_rate,
        weight=result.weight,
        tokens=result.tokens,
        draws=result.draws,
        fingerprint=result.fingerprint,
        attempt=attempt,
        skipped=not result.applied,
    )


class Journal:
    """Steps since the newest checkpoint, kept by every member so that any of them can be the next rank 0."""

    def __init__(self, files: RunFiles, trackers: Trackers) -> None:
        self._files, self._trackers = files, trackers
        self._pending: list[StepEntry] = []
        self._metrics: dict[int, Numbers] = {}
        self._evaluated: dict[int, Numbers] = {}
        self._on_disk = 0
        self.evaluations: list[tuple[int, float]] = []
        self._losses: deque[float] = deque(maxlen=_RECENT)
        # How many of the newest steps in a row left the weights as they were.
        self.skips = 0

    def pending(self) -> list[StepEntry]:
        """The entries that no checkpoint holds yet, in order."""
        return list(self._pending)

    def eval_loss(self, step: int) -> float | None:
        """The loss of the evaluation after `step`; None where there was none."""
        return dict(self.evaluations).get(step)

    @property
    def losses(self) -> list[float]:
        """The losses of the latest steps that changed the weights."""
        return list(self._losses)

    def ceiling(self, factor: float | None) -> float:
        """What a step's loss may be at most: `factor` times the median of the latest ones."""
        if factor is None or len(self._losses) < _RECENT:
            return math.inf
        return factor * median(self._losses)

    def take_up(self, past: Past) -> None:
        """Go on from what the member whose state was taken over had kept."""
        self._pending, self.evaluations = list(past.pending), list(past.evaluations)
        self._metrics, self._evaluated = dict(past.metrics), dict(past.evaluated)
        self._losses = deque(past.losses, maxlen=_RECENT)
        self.skips = past.skips

    def past(self) -> Past:
        """What this member keeps, for one that takes over its state."""
        return Past(
            self.pending(),
            list(self.evaluations),
            self.losses,
            metrics=dict(self._metrics),
            evaluated=dict(self._evaluated),
            skips=self.skips,
        )

    def past_at(self, step: int) -> Past:
        """What a member would have kept at a checkpoint's step, read from what earlier attempts wrote."""
        records = [record for record in last_of_each_step(self._files.read_steps()) if record.step <= step]
        applied = [record.loss for record in records if record.applied]
        skips = sum(1 for _ in takewhile(lambda record: not record.applied, reversed(records)))
        return Past([], early_stop.evaluations(records, step), applied[-_RECENT:], skips=skips)

    def enter(self, result: StepResult, attempt: int) -> StepEntry:
        """Keep a step that every member has taken."""
        entry = entry_of(result, attempt)
        self._pending.append(entry)
        self._metrics[entry.step] = result.metrics
        self.skips = 0 if result.applied else self.skips + 1
        if result.applied:
            self._losses.append(result.loss)
        return entry

    def enter_evaluation(self, step: int, found: Numbers) -> None:
        """Keep what the validation samples came to after a step."""
        self.evaluations.append((step, found["eval_loss"]))
        self._evaluated[step] = found

    def trim(self, committed: int) -> None:
        """A checkpoint of the step `committed` is complete."""
        self._pending = [entry for entry in self._pending if entry.step > committed]
        for told in (self._metrics, self._evaluated):
            for step in [step for step in told if step <= committed]:
                del told[step]

    def write(self, entry: StepEntry, seconds: float) -> None:
        """As rank 0: metrics.jsonl for people, witness.jsonl for the next certificate."""
        self._write(entry, time.time(), entry.tokens / seconds, seconds)

    def catch_up(self, now: float) -> None:
        """As the new rank 0: write the steps that the one before had no time to write; how long they took
        went with it.
        """
        written = max((record.step for record in self._files.read_steps()), default=0)
        for entry in [pending for pending in self._pending if pending.step > written]:
            self._write(entry, now, 0.0, 0.0)

    def _write(self, entry: StepEntry, at: float, tokens_per_s: float, step_s: float) -> None:
        record = StepRecord(
            step=entry.step,
            loss=entry.loss,
            grad_norm=entry.grad_norm,
            learning_rate=entry.learning_rate,
            tokens=entry.tokens,
            tokens_per_s=tokens_per_s,
            step_s=step_s,
            attempt=entry.attempt,
            at=at,
            applied=not entry.skipped,
            metrics=self._metrics.get(entry.step, {}),
            eval=self._evaluated.get(entry.step, {}),
        )
        self._files.add_step(record)
        self._trackers.log(entry.step, metrics_of(record))
        self._witness(entry)

    def read_witness(self, after: int) -> dict[int, StepEntry]:
        """Steps beyond `after` that an earlier attempt had done, by step; of one done twice the later."""
        lines = read_lines(self._files.storage, self._files.witness)
        entries = [StepEntry.model_validate(line) for line in lines]
        return {entry.step: entry for entry in entries if entry.step > after}

    def close(self) -> None:
        """As rank 0: the run is over."""
        self._trackers.close()

    def add_certificate(self, certificate: Certificate) -> None:
        """As rank 0: what the comparison after a restore came to."""
        append_certificate(self._files, certificate)

    def _witness(self, entry: StepEntry) -> None:
        """One line a step; begun anew once most of its lines are of steps that a checkpoint holds."""
        storage, path = self._files.storage, self._files.witness
        if self._on_disk > 4 * len(self._pending) + 64:
            lines = [pending.model_dump_json() for pending in self._pending]
            storage.write_atomic(path, ("\n".join(lines) + "\n").encode())
            self._on_disk = len(lines)
            return
        storage.append_line(path, json.dumps(entry.model_dump(mode="json")).encode())
        self._on_disk += 1

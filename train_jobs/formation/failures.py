"""Failures that a run is not past yet, and the receipts that are written of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from statistics import median

from cluster.errors import StorageError
from cluster.recovery import receipts
from cluster.recovery.advising import SpecFacts, advise
from cluster.recovery.classes import FailureClass
from cluster.recovery.deciding import FREE
from cluster.recovery.receipts import Receipt, Victim, goodput
from cluster.recovery.situation import Decision, PastFailure, Tolerance
from train_jobs.formation.crew import Incident
from train_jobs.run_files import RunFiles, StepRecord
from train_jobs.spec import TrainSpec

_LOG = logging.getLogger("train_jobs")
_MOMENT_S = 2.0


@dataclass
class OpenFailure:
    """A failure that the run is not past yet. Times in unix seconds.

    `slots` are the victim's parts of a step; `joins` is the number of the failure whose further victim it is.
    `moves`: a node drains, and its workers have not left it yet.
    """

    number: int
    incident: Incident
    failure_class: FailureClass
    decision: Decision
    attempt: int
    step: int
    committed_step: int
    reached: int
    place: int | None = None
    slots: tuple[int, ...] = ()
    at_work: bool = True
    joins: int | None = None
    samples: tuple[str, ...] = ()
    moves: bool = False
    isolated_at: float | None = None
    formed_at: float | None = None
    restored_at: float | None = None
    resumed_step: int = 0
    stack: str = ""

    def explains(self, failure_class: FailureClass, further: Incident) -> bool:
        """Whether a further incident has the same cause.

        It befell the same formation in the same moment; or it is alike, or on the same node, and its victim
        had not come back from that formation, as when many run out of memory in one step.
        """
        first, victim = self.incident, further.victim
        is_other = self.joins is not None or first.generation != further.generation
        if is_other or not FREE.isdisjoint({self.failure_class, failure_class}):
            return False
        if further.at - first.at <= _MOMENT_S:
            return True
        if victim is None or victim.left_in == further.generation:
            return False
        same_node = first.victim is not None and first.victim.joined.node_id == victim.joined.node_id
        return same_node or failure_class is self.failure_class


class ReceiptBook:
    """Writes receipts: one when a decision is made, before anything acts on it, and one when it is over.

    What storage does not take is kept and written with the next.
    """

    def __init__(self, spec: TrainSpec, files: RunFiles) -> None:
        self._spec, self._files = spec, files
        kept = receipts.read(files.storage, files.receipts)
        self._receipts = {receipt.number: receipt for receipt in kept}
        self._unwritten: list[Receipt] = []

    def next_number(self) -> int:
        """Number of the next receipt."""
        return max(self._receipts, default=0) + 1

    def history(self, without: int | None = None) -> list[PastFailure]:
        """What decisions look back at; of all launches, but for one failure and its further victims."""
        kept = self._receipts.values()
        return receipts.history([r for r in kept if without is None or without not in (r.number, r.joins)])

    def open(self, opened: OpenFailure) -> None:
        """Write down what was decided."""
        self._write(self._receipt(opened, opened.incident.at))

    def close(self, opened: OpenFailure, now: float, attempt_after: int | None, certificate: str) -> None:
        """Write down what it came to; `attempt_after` is None where the run ends with it."""
        steps = self._read_steps()
        told = self._receipt(opened, now).model_copy(
            update={
                "attempt_after": attempt_after,
                "certificate": certificate or "nothing",
                "goodput": goodput(
                    [(s.step, s.step_s) for s in steps], steps[0].at - steps[0].step_s if steps else now, now
                ),
            }
        )
        if attempt_after is not None:
            redone = max(0, opened.step - opened.resumed_step)
            samples = redone * self._spec.global_batch_size
            told = told.model_copy(update={"steps_redone": redone, "samples_redone": samples})
        advice = advise(told, self._facts([s.step_s for s in steps]))
        self._write(told.model_copy(update={"advice": advice}))

    def _read_steps(self) -> list[StepRecord]:
        """What the run did; nothing where storage refuses, since nobody shall wait for a figure."""
        try:
            return self._files.read_steps()
        except StorageError as error:
            _LOG.warning("a receipt is written without the run's goodput: %s", error.message)
            return []

    def _receipt(self, opened: OpenFailure, now: float) -> Receipt:
        incident, victim = opened.incident, opened.incident.victim
        isolated = max(opened.isolated_at or now, incident.at)
        restored = max(opened.restored_at or now, isolated)
        return Receipt(
            number=opened.number,
            run=self._spec.run,
            failure_class=opened.failure_class,
            detail=incident.detail,
            code=incident.error.code if incident.error else "",
            strategy=opened.decision.strategy,
            reason=opened.decision.reason,
            decided=opened.decision.sentence,
            attempt_before=opened.attempt,
            attempt_after=None,
            step=opened.step,
            committed_step=opened.committed_step,
            reached=opened.reached,
            place=opened.place,
            slots=opened.slots,
            at_work=opened.at_work,
            joins=opened.joins,
            victim=Victim(rank=victim.joined.rank, pid=victim.joined.pid, node=victim.joined.node_ip)
            if victim
            else None,
            at=incident.last_sign_at,
            detect_s=max(0.0, incident.at - incident.last_sign_at),
            isolate_s=isolated - incident.at,
            recover_s=restored - isolated,
            verify_s=max(0.0, now - restored),
            waited_s=max(0.0, (opened.formed_at or now) - isolated),
            backoff_s=opened.decision.wait_s,
            total_s=max(0.0, now - incident.last_sign_at),
            samples=opened.samples,
            goodput=0.0,
            stack=opened.stack,
        )

    def _facts(self, step_seconds: list[float]) -> SpecFacts:
        spec = self._spec
        return SpecFacts(
            tolerance=Tolerance(spec.fault_tolerance.value),
            may_continue=not spec.is_sharded,
            hang_timeout_s=spec.failures.hang_timeout_s,
            save_steps=spec.save_steps,
            standby=spec.standby,
            per_device_train_batch_size=spec.per_device_train_batch_size,
            step_s=median(step_seconds) if step_seconds else 0.0,
        )

    def _write(self, receipt: Receipt) -> None:
        self._receipts[receipt.number] = receipt
        self._unwritten.append(receipt)
        try:
            while self._unwritten:
                receipts.append(self._files.storage, self._files.receipts, self._unwritten[0])
                self._unwritten.pop(0)
        except StorageError as error:
            _LOG.warning("receipt %d is not written yet: %s", receipt.number, error.message)

"""What is made of an incident: its class, the decision about it, and the receipt once the run is past it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from cluster.errors import LinnetError
from cluster.recovery import receipts
from cluster.recovery.advising import SpecFacts, advise
from cluster.recovery.classes import Evidence, FailureClass, Signal, classify
from cluster.recovery.deciding import decide
from cluster.recovery.receipts import Receipt, Victim, goodput
from cluster.recovery.situation import (
    Decision,
    NodeRole,
    PastFailure,
    Reason,
    Situation,
    Strategy,
    Tolerance,
)
from train_jobs.formation.messages import Advanced, Formation, Formed, Phase
from train_jobs.formation.roster import Incident, Member, Verdict
from train_jobs.run_files import RunFiles
from train_jobs.spec import BadLoss, TrainSpec

_LOG = logging.getLogger("train_jobs")


@dataclass
class _Open:
    """A failure that the run is not past yet. Times in unix seconds."""

    incident: Incident
    failure_class: FailureClass
    decision: Decision
    attempt: int
    step: int
    committed_step: int
    isolated_at: float | None = None
    formed_at: float | None = None
    restored_at: float | None = None
    resumed_step: int = 0
    stack: str = ""


@dataclass(frozen=True)
class Views:
    """What a judge can ask about: living members, the sample ids of a step, whether Ray has a node."""

    live: Callable[[], int]
    sample_ids: Callable[[int], list[str]]
    node_alive: Callable[[str], bool | None]


class Judge:
    """Called with every incident; it keeps the history that decisions look at, and writes the receipts."""

    def __init__(self, spec: TrainSpec, files: RunFiles, committed_step: int, views: Views) -> None:
        self._spec, self._files, self._views = spec, files, views
        self._committed, self._furthest, self._attempt = committed_step, committed_step, 0
        self._history: list[PastFailure] = []
        self._open: list[_Open] = []
        self._number = len(receipts.read(files.storage, files.receipts))
        self._verdict = ""
        self._divisor = 1
        # Where the run is, which after a restore is behind the furthest step.
        self._step = committed_step
        self._formation: Formation | None = None

    def __call__(self, incident: Incident) -> Verdict:
        """Decide, keep the decision, and answer."""
        failure_class = classify(self._evidence(incident))
        decision = decide(self._situation(failure_class, incident))
        if decision.reason is Reason.DETERMINISTIC:
            named = (
                f"{decision.sentence} Its samples are {', '.join(self._views.sample_ids(self._step + 1))}."
            )
            decision = decision.model_copy(update={"sentence": named})
        _LOG.warning("%s: %s", failure_class.value, decision.sentence)
        self._history.append(
            PastFailure(
                failure_class=failure_class,
                step=self._step,
                committed_step=self._committed,
                at=incident.at,
                victim_rank=self._place_of(incident.victim),
                at_work=_is_at_work(incident),
            )
        )
        opened = _Open(incident, failure_class, decision, self._attempt, self._furthest, self._committed)
        self._open.append(opened)
        if decision.strategy is Strategy.STOP:
            self._close(incident.at, stopped=True)
            return Verdict(stop=self._stop_error(decision, incident))
        shrink = decision.strategy is Strategy.SHRINK_MICROBATCH
        self._divisor *= 2 if shrink else 1
        return Verdict(wait_s=decision.wait_s, shrink_microbatch=shrink)

    @property
    def is_recovering(self) -> bool:
        """Whether a failure is open that the run is not past yet."""
        return bool(self._open)

    def ended(self, worker: str, stack: str, now: float) -> None:
        """A worker that was taken out is dead, and this is where it stood."""
        for opened in self._open:
            victim = opened.incident.victim
            if victim and victim.joined.worker == worker:
                opened.stack, opened.isolated_at = stack, now

    def forming(self, formation: Formation, now: float) -> None:
        """A new formation was announced: whoever failed is out of it."""
        self._formation = formation
        for opened in self._open:
            opened.isolated_at = opened.isolated_at or (
                now if opened.incident.victim is None else opened.incident.at
            )
            opened.formed_at = now

    def formed(self, told: Formed, formation: Formation, now: float) -> None:
        """The new formation stands and has its state."""
        self._attempt, self._verdict = formation.attempt, ""
        self._step = told.step
        for opened in self._open:
            opened.restored_at, opened.resumed_step = now, told.step

    def advanced(self, told: Advanced, now: float) -> None:
        """A step is done; the first that is new closes what was open."""
        self._verdict = told.verdict or self._verdict
        self._step = told.step
        if told.step > self._furthest:
            self._furthest = told.step
            self._close(now)

    def committed(self, step: int) -> None:
        """A checkpoint is complete."""
        self._committed = max(self._committed, step)

    def name_slow(self, member: Member, times: float, now: float) -> None:
        """A member is slower than the others: told, not acted upon."""
        detail = f"rank {member.joined.rank} computes {times:.1f} times as long as the others"
        incident = Incident(Signal.SLOW_PROGRESS, member, detail, now, now, 0)
        decision = decide(self._situation(FailureClass.SLOW_RANK, incident))
        slow = _Open(
            incident, FailureClass.SLOW_RANK, decision, self._attempt, self._furthest, self._committed
        )
        slow.resumed_step = self._furthest
        self._write(slow, now)

    def _place_of(self, victim: Member | None) -> int | None:
        """The victim's rank in its formation, which says what part of the step was its work."""
        workers = self._formation.workers if self._formation else ()
        return workers.index(victim.joined.worker) if victim and victim.joined.worker in workers else None

    def _situation(self, failure_class: FailureClass, incident: Incident) -> Situation:
        spec = self._spec
        return Situation(
            failure_class=failure_class,
            node_role=NodeRole.WORKER,
            tolerance=Tolerance(spec.fault_tolerance.value),
            step=self._step,
            committed_step=self._committed,
            live=self._views.live(),
            min_workers=spec.min_workers,
            slots=spec.slots,
            standby=spec.standby,
            microbatch_rows=max(1, spec.per_device_train_batch_size // self._divisor),
            max_failures=spec.failures.max_failures,
            may_skip=spec.failures.on_bad_loss is BadLoss.SKIP,
            victim_rank=self._place_of(incident.victim),
            at_work=_is_at_work(incident),
            history=tuple(self._history),
            now=incident.at,
        )

    def _stop_error(self, decision: Decision, incident: Incident) -> LinnetError:
        return LinnetError(
            f"{decision.sentence} Last: {incident.detail}",
            code=f"train.{decision.reason.value}",
            hint=f"`linnet train show {self._spec.run}` has the receipts; the same command resumes the run.",
            retryable=True,
        )

    def _close(self, now: float, *, stopped: bool = False) -> None:
        for opened in self._open:
            opened.isolated_at = opened.isolated_at or now
            opened.restored_at = opened.restored_at or now
            self._write(opened, now, stopped=stopped)
        self._open = []

    def _write(self, opened: _Open, now: float, *, stopped: bool = False) -> None:
        self._number += 1
        incident, victim = opened.incident, opened.incident.victim
        isolated = max(opened.isolated_at or now, incident.at)
        restored = max(opened.restored_at or now, isolated)
        redone = 0 if stopped else max(0, opened.step - opened.resumed_step)
        steps = self._files.read_steps()
        receipt = Receipt(
            number=self._number,
            run=self._spec.run,
            failure_class=opened.failure_class,
            detail=incident.detail,
            strategy=opened.decision.strategy,
            reason=opened.decision.reason,
            decided=opened.decision.sentence,
            attempt_before=opened.attempt,
            attempt_after=None if stopped else self._attempt,
            step=opened.step,
            committed_step=opened.committed_step,
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
            steps_redone=redone,
            samples_redone=redone * self._spec.global_batch_size,
            goodput=goodput(
                [(s.step, s.step_s) for s in steps], steps[0].at - steps[0].step_s if steps else now, now
            ),
            certificate=self._verdict or "nothing",
            stack=opened.stack,
        )
        told = receipt.model_copy(update={"advice": advise(receipt, self._facts([s.step_s for s in steps]))})
        receipts.append(self._files.storage, self._files.receipts, told)

    def _facts(self, step_seconds: list[float]) -> SpecFacts:
        spec = self._spec
        return SpecFacts(
            tolerance=Tolerance(spec.fault_tolerance.value),
            hang_timeout_s=spec.failures.hang_timeout_s,
            save_steps=spec.save_steps,
            standby=spec.standby,
            per_device_train_batch_size=spec.per_device_train_batch_size,
            step_s=median(step_seconds) if step_seconds else 0.0,
        )

    def _evidence(self, incident: Incident) -> Evidence:
        alive = self._views.node_alive(incident.victim.joined.node_id) if incident.victim else None
        return Evidence(
            node_alive=alive,
            signal=incident.signal,
            detail=incident.detail,
            peers_waiting=incident.peers_waiting,
        )


def _is_at_work(incident: Incident) -> bool:
    """Whether a victim was computing; one that saved or warmed up did not fail because of its samples."""
    return incident.victim is None or incident.victim.phase is Phase.COMPUTING

"""What is made of an incident: its class, the decision about it, and the receipt once the run is past it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from cluster.errors import LinnetError
from cluster.recovery.classes import Evidence, FailureClass, Signal, classify
from cluster.recovery.deciding import decide
from cluster.recovery.situation import Decision, NodeRole, Reason, Situation, Strategy, Tolerance
from train_jobs.formation.at_work import Reached, is_at_work
from train_jobs.formation.crew import Incident, Member, Verdict
from train_jobs.formation.failures import OpenFailure, ReceiptBook
from train_jobs.formation.messages import Advanced, Formation, Formed, Source
from train_jobs.run_files import RunFiles
from train_jobs.sampling import slots_of
from train_jobs.spec import BadLoss, TrainSpec

_LOG = logging.getLogger("train_jobs")


@dataclass(frozen=True)
class Views:
    """What a judge can ask about: members that live and warm ones that wait, the sample ids of a step,
    whether Ray has a node.

    `driver_node` is the node of the coordinator and the driver.
    """

    live: Callable[[], int]
    standby: Callable[[], int]
    sample_ids: Callable[[int], list[str]]
    node_alive: Callable[[str], bool | None]
    driver_node: str = ""


class Judge:
    """Called with every incident; it keeps the receipts, which are the history that decisions look at.

    The history goes on from the receipts of earlier launches (`receipts.history` says how far back), so a
    crash that repeats itself and a spent budget are recognised whoever starts the run again, and when.
    """

    def __init__(self, spec: TrainSpec, files: RunFiles, committed_step: int, views: Views) -> None:
        self._spec, self._views = spec, views
        self._committed, self._furthest, self._attempt = committed_step, committed_step, 0
        self._book = ReceiptBook(spec, files)
        self._open: list[OpenFailure] = []
        self._verdict = ""
        # Where the run is, which after a restore is behind the furthest step.
        self._step = committed_step
        self._formation: Formation | None = None
        self._formed_in = 0

    def __call__(self, incident: Incident) -> Verdict:
        """Decide, keep the decision, and answer."""
        failure_class = classify(self._evidence(incident))
        cause = next((one for one in self._open if one.explains(failure_class, incident)), None)
        decision = decide(self._situation(failure_class, incident, cause))
        if cause is not None:
            # All of its victims wait at once.
            decision = decision.model_copy(update={"wait_s": 0.0})
        samples = self._samples_to_blame(failure_class, decision, incident)
        if samples and decision.reason is Reason.DETERMINISTIC:
            named = f"{decision.sentence} Its samples are {', '.join(samples)}."
            decision = decision.model_copy(update={"sentence": named})
        _LOG.warning("%s: %s", failure_class.value, decision.sentence)
        opened = self._opened(failure_class, decision, incident)
        opened.samples, opened.joins = samples, cause.number if cause else None
        opened.moves = decision.strategy is Strategy.COMMIT_THEN_MOVE
        self._book.open(opened)
        self._open.append(opened)
        if decision.strategy is Strategy.STOP:
            self._close(incident.at, stopped=True)
            return Verdict(stop=self._stop_error(decision, incident))
        return Verdict(decision.wait_s, shrink_microbatch=decision.strategy is Strategy.SHRINK_MICROBATCH)

    @property
    def is_recovering(self) -> bool:
        """Whether a failure is open that the run is not past yet."""
        return any(not opened.moves for opened in self._open)

    @property
    def committed_step(self) -> int:
        """The newest checkpoint's step."""
        return self._committed

    def ended(self, worker: str, stack: str, now: float) -> None:
        """A worker that was taken out is dead, and this is where it stood."""
        for opened in self._open:
            victim = opened.incident.victim
            if victim and victim.joined.worker == worker:
                opened.stack, opened.isolated_at = stack, opened.isolated_at or now

    def moved(self, now: float) -> None:
        """The workers of draining nodes have left, everything that was done being committed."""
        for opened in self._open:
            if opened.moves:
                opened.moves, opened.isolated_at = False, now
                opened.step, opened.committed_step = self._furthest, self._committed

    def forming(self, formation: Formation, now: float) -> None:
        """A new formation was announced: whoever failed is out of it."""
        self._formation = formation
        for opened in self._open:
            # Whose node went before its workers could: it has a receipt of its own.
            opened.moves = opened.moves and not (opened.incident.victim and opened.incident.victim.is_dead)
        for opened in self._past_moving():
            opened.isolated_at = opened.isolated_at or (
                now if opened.incident.victim is None else opened.incident.at
            )
            opened.formed_at = now

    def formed(self, told: Formed, formation: Formation, now: float) -> None:
        """The new formation stands and has its state."""
        self._attempt, self._verdict = formation.attempt, ""
        self._step, self._formed_in = told.step, told.generation
        if formation.source is Source.CHECKPOINT:
            # Newer ones were damaged, whatever their number.
            self._committed = told.step
        for opened in self._past_moving():
            opened.restored_at, opened.resumed_step = now, told.step

    def advanced(self, told: Advanced, now: float) -> None:
        """A step is done; the first that is new closes what was open."""
        self._verdict = told.verdict or self._verdict
        if told.skipped and told.step > self._furthest:
            self._skipped(told, now)
        self._step = told.step
        if told.step > self._furthest:
            self._furthest = told.step
            self._close(now)

    def committed(self, step: int, now: float) -> None:
        """A checkpoint is complete; of a node that drains and has to be stayed on, nothing more is done."""
        self._committed = max(self._committed, step)
        stays = [opened for opened in self._open if opened.moves and not opened.incident.may_move]
        for opened in stays:
            opened.isolated_at = opened.restored_at = opened.formed_at = now
            opened.resumed_step = opened.step
            self._open.remove(opened)
            self._book.close(opened, now, self._attempt, "")

    def finished(self, now: float) -> None:
        """The run is at its last step, whatever was still to be done about a failure."""
        for opened in self._open:
            if opened.moves:
                opened.moves, opened.resumed_step = False, opened.step
        self._close(now)

    def name_slow(self, member: Member, times: float, now: float) -> None:
        """A member is slower than the others: told, not acted upon."""
        detail = f"rank {member.joined.rank} computes {times:.1f} times as long as the others"
        self._note(FailureClass.SLOW_RANK, Incident(Signal.SLOW_PROGRESS, member, detail, now, now, 0))

    def _skipped(self, told: Advanced, now: float) -> None:
        """A batch was left out: what it cost is the step that went into it."""
        incident = Incident(Signal.NOT_FINITE, None, told.skipped, now - told.seconds, now, told.generation)
        self._note(FailureClass.BAD_LOSS, incident, tuple(self._views.sample_ids(told.step)))

    def _note(self, failure_class: FailureClass, incident: Incident, samples: tuple[str, ...] = ()) -> None:
        """A failure that is over when it is noticed."""
        decision = decide(self._situation(failure_class, incident))
        noted = self._opened(failure_class, decision, incident)
        noted.samples, noted.resumed_step = samples, self._furthest
        self._book.close(noted, incident.at, self._attempt, "")

    def _opened(self, failure_class: FailureClass, decision: Decision, incident: Incident) -> OpenFailure:
        return OpenFailure(
            number=self._book.next_number(),
            incident=incident,
            failure_class=failure_class,
            decision=decision,
            attempt=self._attempt,
            step=self._furthest,
            committed_step=self._committed,
            reached=self._step,
            place=self._place_of(incident.victim),
            slots=self._slots_of(incident.victim),
            at_work=self._is_at_work(incident),
        )

    def _past_moving(self) -> list[OpenFailure]:
        return [opened for opened in self._open if not opened.moves]

    def _samples_to_blame(
        self, failure_class: FailureClass, decision: Decision, incident: Incident
    ) -> tuple[str, ...]:
        """Of the step in hand, where that may have been what failed."""
        stops = decision.strategy is Strategy.STOP and incident.victim is not None
        if failure_class is not FailureClass.BAD_LOSS and not (stops and self._is_at_work(incident)):
            return ()
        step = incident.step or self._step + 1
        return tuple(self._views.sample_ids(step)) if step <= self._spec.max_steps else ()

    def _place_of(self, victim: Member | None) -> int | None:
        """The victim's rank in its formation."""
        workers = self._formation.workers if self._formation else ()
        return workers.index(victim.joined.worker) if victim and victim.joined.worker in workers else None

    def _slots_of(self, victim: Member | None) -> tuple[int, ...]:
        """The parts of a step that are the victim's."""
        place = self._place_of(victim)
        if place is None or self._formation is None:
            return ()
        return tuple(slots_of(place, self._formation.size, self._spec.slots))

    def _is_at_work(self, incident: Incident) -> bool:
        return is_at_work(incident, Reached(self._formed_in, self._step))

    def _situation(
        self, failure_class: FailureClass, incident: Incident, cause: OpenFailure | None = None
    ) -> Situation:
        spec, victim = self._spec, incident.victim
        drains_here = failure_class is FailureClass.NODE_DRAINING and victim is not None
        divisor = self._formation.microbatch_divisor if self._formation else 1
        at_driver = drains_here and victim.joined.node_id == self._views.driver_node
        return Situation(
            failure_class=failure_class,
            node_role=NodeRole.HEAD if at_driver else NodeRole.WORKER,
            tolerance=Tolerance(spec.fault_tolerance.value),
            step=self._step,
            committed_step=self._committed,
            live=self._views.live(),
            min_workers=spec.min_live,
            state_survives=not spec.is_sharded,
            slots=spec.slots,
            standby=self._views.standby(),
            microbatch_rows=max(1, spec.per_device_train_batch_size // divisor),
            max_failures=spec.failures.max_failures,
            may_skip=spec.failures.on_bad_loss is BadLoss.SKIP,
            is_final=incident.error is not None and not incident.error.retryable,
            may_move=incident.may_move,
            victim_slots=self._slots_of(victim) if self._is_at_work(incident) else (),
            history=tuple(self._book.history(without=cause.number if cause else None)),
            now=incident.at,
        )

    def _stop_error(self, decision: Decision, incident: Incident) -> LinnetError:
        """The error that says it all by itself, or one that names the rule and its last cause."""
        cause = incident.error
        if cause is not None and not cause.retryable:
            return cause
        show = f"`linnet train show {self._spec.run}` has the receipts; the same command resumes the run."
        return LinnetError(
            f"{decision.sentence} Last: {incident.detail}",
            code=f"train.{decision.reason.value}",
            hint=f"{cause.hint} {show}" if cause is not None and cause.hint else show,
            retryable=True,
        )

    def _close(self, now: float, *, stopped: bool = False) -> None:
        left = [] if stopped else [opened for opened in self._open if opened.moves]
        for opened in [opened for opened in self._open if opened not in left]:
            opened.isolated_at = opened.isolated_at or now
            opened.restored_at = opened.restored_at or now
            self._book.close(opened, now, None if stopped else self._attempt, self._verdict)
        self._open = left

    def _evidence(self, incident: Incident) -> Evidence:
        alive = self._views.node_alive(incident.victim.joined.node_id) if incident.victim else None
        return Evidence(
            node_alive=alive,
            node_answers=incident.node_answers,
            signal=incident.signal,
            detail=incident.detail,
            peers_waiting=incident.peers_waiting,
        )

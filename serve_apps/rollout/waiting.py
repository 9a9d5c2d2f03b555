"""Waits until a rollout is over, and tells each event as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.errors import GateFailedError, LinnetError, TimedOutError
from cluster.state import looks
from cluster.state.database import Database
from cluster.state.tables import DecisionRow, EventRow, RolloutRow
from serve_apps.rollout import finding_rollouts, propagation, quantities
from serve_apps.rollout.propagation import Followed
from serve_apps.rollout.states import Phase, Reason, percent

PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A rollout at one moment; `why` is the reason of its last decision, `waits_for` what it waits for."""

    model: str
    rollout: int
    candidate: str
    phase: Phase
    reason: Reason
    weight: float
    step: int
    steps: int
    why: str
    waits_for: str
    events: tuple[tuple[int, datetime, str], ...]
    taken_back: Followed | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes by itself. A person's pause ends; one by a gate does not."""
        if self.phase is Phase.PAUSED:
            return self.reason is Reason.GATE_FAILED
        return self.phase in (Phase.PROMOTED, Phase.ROLLED_BACK)

    @property
    def result(self) -> dict[str, Any]:
        """For programs."""
        return {
            "rollout": self.rollout,
            "candidate": self.candidate,
            "phase": self.phase.value,
            "reason": self.reason.value,
            "weight": self.weight,
            "why": self.why,
        }


def read(session: Session, model: str, rollout: int | None, after: int) -> Seen:
    """The rollout, a model's last one without an id, and its events after the one with the id `after`."""
    row = (
        finding_rollouts.newest(session, model)
        if rollout is None
        else finding_rollouts.by_id(session, rollout, model=model)
    )
    decisions = list(
        session.scalars(select(DecisionRow).where(DecisionRow.rollout_id == row.id).order_by(DecisionRow.seq))
    )
    ids = {decision.id for decision in decisions}
    query = select(EventRow).where(EventRow.subject == model, EventRow.id > after).order_by(EventRow.id)
    last = looks.newest(session, row.id)
    return Seen(
        model=model,
        rollout=row.id,
        candidate=row.candidate,
        phase=Phase(row.phase),
        reason=Reason(row.reason),
        weight=row.weight,
        step=row.step + 1,
        steps=row.steps,
        why=_why(session, row, decisions),
        waits_for=last.outcome["conclusion"]["why"] if last is not None else "",
        events=tuple(
            (event.id, event.at, f"{event.sentence} ({event.reason})" if event.reason else event.sentence)
            for event in session.scalars(query)
            if event.detail.get("decision") in ids
        ),
        taken_back=propagation.taking_back(session, row),
    )


def _why(session: Session, row: RolloutRow, decisions: Sequence[DecisionRow]) -> str:
    # The one that took its place has no decision among its own.
    if (successor := finding_rollouts.successor(session, row)) is not None:
        return f"rollout {successor.id} of {successor.candidate} took its place"
    return decisions[-1].inputs.get("reason", "") if decisions else ""


def wait(
    database: Database,
    model: str,
    rollout: int | None,
    *,
    timeout_s: float,
    tell: Callable[[datetime, str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Seen:
    """Until the rollout is over: its last state. Without an id, the model's last one when it begins.

    Raises NotFoundError for one that is not there, and TimedOutError when `timeout_s` have passed. A database
    that does not answer for a while is waited for.
    """
    end, after = clock() + timeout_s, 0
    seen: Seen | None = None
    while True:
        try:
            with database.snapshot() as session:
                seen = read(session, model, seen.rollout if seen else rollout, after)
        except LinnetError as error:
            if seen is None or not error.retryable:
                raise
        else:
            for number, at, sentence in seen.events:
                after = number
                tell(at, sentence)
        if seen.is_over:
            return seen
        left = end - clock()
        if left <= 0:
            raise _timed_out(seen, timeout_s)
        sleep(min(PERIOD_S, left))


def require_promoted(seen: Seen) -> None:
    """Raise TimedOutError for one taken back without a verdict, and GateFailedError for other ends.

    The codes are `rollout.inconclusive`, `rollout.paused_by_gate` and `rollout.taken_back`.
    """
    if seen.phase is Phase.PROMOTED:
        return
    why = f": {seen.why}" if seen.why else ""
    of = f"Rollout {seen.rollout} of `{seen.model}:{seen.candidate}`"
    explain = f"`linnet rollout explain --rollout {seen.rollout}` shows the numbers."
    if seen.phase is Phase.PAUSED:
        raise GateFailedError(
            f"{of} was paused at {percent(seen.weight)}{why}.",
            code="rollout.paused_by_gate",
            hint=f"{explain} Then resume, promote or abort it.",
        )
    after = f" {propagation.in_words(seen.taken_back).capitalize()}." if seen.taken_back else ""
    if seen.reason is Reason.INCONCLUSIVE:
        raise TimedOutError(f"{of} was taken back{why}.{after}", code="rollout.inconclusive", hint=explain)
    raise GateFailedError(
        f"{of} was taken back ({seen.reason.value}){why}.{after}", code="rollout.taken_back", hint=explain
    )


def _timed_out(seen: Seen, timeout_s: float) -> TimedOutError:
    waits_for = f" It waits for {seen.waits_for}." if seen.waits_for else ""
    step = f" at step {seen.step} of {seen.steps}" if seen.steps else ""
    return TimedOutError(
        f"Rollout {seen.rollout} of `{seen.model}:{seen.candidate}` is {seen.phase.value}{step}, "
        f"{percent(seen.weight)}, after {quantities.span(timeout_s)}.{waits_for}",
        code="rollout.not_over",
        hint=f"It goes on; `linnet rollout status {seen.model}` shows it, or wait again.",
        retryable=True,
    )

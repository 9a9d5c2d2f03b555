"""Moves judged rollouts: looks, decides, and stores both with what they change, in one transaction.

It keeps nothing that it could not read again, so it may be killed at any moment. What one look decides is
stored before anybody acts on it, and gateways act on what is stored alone; the epoch that it writes with
keeps a second controller from acting beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Protocol

from cluster.errors import ConflictError, LinnetError
from cluster.judging import Judging
from cluster.registry import ModelStore
from cluster.state import controllers, looks
from cluster.state.tables import utc_now
from serve_apps.rollout import propagation, reading, records
from serve_apps.rollout.conclusion import Action, Conclusion
from serve_apps.rollout.look import Outcome, look
from serve_apps.rollout.looks import LookInputs, Progress, Told
from serve_apps.rollout.machine import decide
from serve_apps.rollout.reading import Facts
from serve_apps.rollout.states import Advance, Command, Pause, Promote, Reason, Rollback

NAME = "rollouts"
"""What a controller is known by to its rivals."""

SHORTEST = timedelta(seconds=1)
LONGEST = timedelta(seconds=30)
PART = 50
"""A step is looked at about each fiftieth of its age, so that looks stay few in a long soak."""

_log = logging.getLogger(__name__)


class Outside(Protocol):
    """Who is asked beyond the cluster; it works in the background and never holds a look up."""

    def follow(self, facts: Facts) -> None:
        """Ask what this rollout needs at this step, unless that is under way."""
        ...

    def only(self, active: Collection[int]) -> None:
        """The others are over."""
        ...

    def told(self, facts: Facts) -> dict[str, Told]:
        """What has come since the last look that was stored."""
        ...

    def confirmation(self, facts: Facts) -> tuple[bool, str]:
        """Whether all agree to the next step, and who does not yet."""
        ...

    def given_up(self, facts: Facts) -> str:
        """Why Serve does not try to start the candidate any more; empty while it does."""
        ...

    def taken(self, facts: Facts, told: dict[str, Told]) -> None:
        """What was told is stored with a look."""
        ...


class Nobody:
    """For rollouts that ask nobody."""

    def follow(self, facts: Facts) -> None:
        """There is nobody to ask."""

    def only(self, active: Collection[int]) -> None:
        """Nobody was asked for the others."""

    def told(self, facts: Facts) -> dict[str, Told]:
        """Nothing."""
        return {}

    def confirmation(self, facts: Facts) -> tuple[bool, str]:
        """Nobody has to agree."""
        return True, ""

    def given_up(self, facts: Facts) -> str:
        """Nobody has."""
        return ""

    def taken(self, facts: Facts, told: dict[str, Told]) -> None:
        """Nothing was told."""


class Controller:
    """One life of it. `tick` is called again and again; nothing else keeps time."""

    def __init__(
        self,
        store: ModelStore,
        holder: str,
        *,
        outside: Outside | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._holder = holder
        self._outside = outside or Nobody()
        self._clock = clock
        self._unreadable: dict[int, str] = {}
        with store.database.transaction() as session:
            self.epoch = controllers.take(session, NAME, holder)

    def tick(self) -> int:
        """Look at each rollout that is due; returns how many looks were stored.

        Raises ConflictError, with code `controller.superseded`, when another has taken over.
        """
        with self._store.database.snapshot() as session:
            active = reading.active(session)
        self._outside.only(active)
        looks_stored = sum(self._attend(rollout) for rollout in active)
        self._keep_ends()
        return looks_stored

    def _attend(self, rollout: int) -> bool:
        try:
            with self._store.database.snapshot() as session:
                facts = reading.read(session, rollout, self._clock())
            return facts is not None and self._look_at(facts)
        except LinnetError as error:
            if error.code == "controller.superseded":
                raise
            # A person was quicker, or the database is away: the next tick sees what is so then.
            _log.warning("rollout %d is not looked at now: %s", rollout, error)
            return False
        except Exception as error:
            # One whose rows cannot be read must not hold up the others.
            if self._unreadable.get(rollout) != repr(error):
                self._unreadable[rollout] = repr(error)
                _log.exception("rollout %d cannot be looked at", rollout)
            return False

    def _keep_ends(self) -> None:
        """How long gateways took to follow, before they forget it."""
        with self._store.database.snapshot() as session:
            found = propagation.to_keep(session, self._clock())
        if not found:
            return
        with self._store.database.transaction() as session:
            controllers.require(session, NAME, self.epoch)
            for rollout, followed in found.items():
                propagation.keep(session, rollout, followed)

    def _look_at(self, facts: Facts) -> bool:
        self._outside.follow(facts)
        now, told = self._clock(), self._outside.told(facts)
        confirmed, unconfirmed = self._outside.confirmation(facts)
        heard = {
            "confirmed": confirmed,
            "unconfirmed": unconfirmed,
            "given_up": self._outside.given_up(facts),
        }
        signals = facts.signals.model_copy(update=heard)
        judging = is_due(facts.progress, now, has_news=bool(facts.counted or told))
        inputs = LookInputs(
            at=now,
            signals=signals,
            counted=facts.counted if judging else (),
            told=told if judging else {},
        )
        progress, outcome = look(facts.spec, facts.progress, inputs)
        if not judging and outcome.conclusion.action is Action.HOLD:
            return False
        self._store_look(facts, inputs, progress, outcome, judged=judging)
        self._outside.taken(facts, inputs.told)
        return True

    def _store_look(
        self, facts: Facts, inputs: LookInputs, progress: Progress, outcome: Outcome, *, judged: bool
    ) -> None:
        bookmark = facts.bookmark if judged else facts.read_before
        with self._store.database.transaction() as session:
            controllers.require(session, NAME, self.epoch)
            row = looks.append(
                session,
                rollout=facts.id,
                seq=facts.seq,
                at=inputs.at,
                inputs=inputs.model_dump(mode="json"),
                outcome=outcome.model_dump(mode="json"),
                progress=reading.to_store(progress, bookmark),
            )
            command = command_for(facts, outcome.conclusion)
            if command is None:
                return
            situation = records.read_situation(session, facts.model)
            if situation.active != facts.state:
                raise ConflictError(
                    f"Rollout {facts.id} was changed while it was looked at.",
                    code="rollout.moved_on",
                    retryable=True,
                )
            decision = decide(command, situation)
            _, row.decision_id = records.write(
                session,
                command,
                situation,
                decision,
                reason=outcome.conclusion.why,
                actor=f"{NAME}/{self._holder}",
            )
        _log.info("%s (%s)", decision.sentence, outcome.conclusion.why)
        if decision.aliases:
            self._mirror(facts.model)

    def _mirror(self, model: str) -> None:
        try:
            self._store.mirror_aliases(model)
        except LinnetError as error:
            _log.warning("aliases.json of %s was not rewritten: %s", model, error)


def is_due(progress: Progress, now: datetime, *, has_news: bool) -> bool:
    """Whether what was seen is to be judged: news after a part of the step's age, silence now and then."""
    if progress.looked_at is None:
        return True
    waited = now - progress.looked_at
    if waited < timedelta(0):
        return True
    pause = min(max(SHORTEST, timedelta(seconds=progress.watched_s / PART)), LONGEST)
    return waited >= (pause if has_news else LONGEST)


def command_for(facts: Facts, conclusion: Conclusion) -> Command | None:
    """What carries a conclusion out; None to hold."""
    model, rollout = facts.model, facts.id
    match conclusion.action:
        case Action.HOLD:
            return None
        case Action.ADVANCE:
            return _advance(facts)
        case Action.PROMOTE:
            return Promote(model=model, rollout=rollout)
        case Action.PAUSE:
            return Pause(model=model, rollout=rollout, why=conclusion.reason or Reason.PAUSED)
        case Action.ROLL_BACK:
            why = conclusion.reason or Reason.GATE_FAILED
            # One of which nothing serves has no traffic that stable would have to take.
            force = why is Reason.CANDIDATE_DOWN and not facts.signals.serving
            return Rollback(model=model, rollout=rollout, why=why, force=force)


def _advance(facts: Facts) -> Advance:
    spec, step = facts.spec, facts.state.step + 1
    weight, approve = spec.steps[step].weight, spec.steps[step].approve
    return Advance(
        model=facts.model,
        rollout=facts.id,
        step=step,
        weight=facts.state.weight if weight is None else weight,
        awaits_approval=approve,
        judging=Judging(
            rollout=facts.id, match=spec.match, shadow=spec.shadow, texts=spec.texts, fresh=facts.fresh
        ),
    )

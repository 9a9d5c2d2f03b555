"""Rollout commands on the state database: planned from one snapshot, carried out in one transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import IntegrityError as ConstraintError

from cluster.config import StrictModel
from cluster.errors import ConflictError, LinnetError, NotFoundError, UsageError
from cluster.refs import VersionRef, parse_ref
from cluster.registry import ModelStore
from cluster.state import events, looks
from cluster.state.tables import RolloutRow
from serve_apps.rollout import beside, records
from serve_apps.rollout.explaining import Arithmetic, arithmetic
from serve_apps.rollout.machine import decide
from serve_apps.rollout.recomputing import recompute
from serve_apps.rollout.refolding import redo
from serve_apps.rollout.spec import Baseline, RolloutSpec
from serve_apps.rollout.states import Begin, Command, Decision, Prompting, Situation, Start


class Plan(StrictModel):
    """A command with the situation that it was planned in and what it would change.

    `spec` is the policy of a rollout that begins; `warning` tells what will hold it, where that is known.
    """

    command: Command
    situation: Situation
    decision: Decision
    spec: RolloutSpec | None = None
    warning: str = ""


class Applied(StrictModel):
    """A carried-out plan; `warning` tells what failed after the commit, and mends itself later."""

    rollout_id: int
    decision_id: int
    decision: Decision
    warning: str = ""


class Explanation(StrictModel):
    """A stored decision and what the same inputs give now; `agrees` when they are equal.

    `looks`: how many looks led to it and were done again, of which `look` is the last, with its findings, and
    `gates` their arithmetic; `differing` is the first of them that says something else now.
    """

    id: int
    rollout_id: int
    command: dict[str, Any]
    situation: dict[str, Any]
    outcome: dict[str, Any]
    recomputed: dict[str, Any]
    agrees: bool
    actor: str
    reason: str
    looks: int = 0
    look: dict[str, Any] | None = None
    gates: tuple[Arithmetic, ...] = ()
    differing: int | None = None


class Rollouts:
    """Starts, weighs, promotes and takes back candidates by hand, and begins those that are judged."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    def plan(self, command: Command) -> Plan:
        """What `command` would change now; changes nothing. Raises what `decide` raises."""
        require_model(self._store, command.model)
        with self._store.database.snapshot() as session:
            situation = records.read_situation(session, command.model)
        situation = situation.model_copy(update={"prompting": self._prompting(command, situation)})
        return Plan(command=command, situation=situation, decision=decide(command, situation))

    def plan_begin(self, model: str, candidate: str, spec: RolloutSpec, *, replace: bool = False) -> Plan:
        """What beginning a rollout by a policy would change now; raises what `plan` raises."""
        spec = spec.model_copy(update={"candidate": candidate})
        command = Begin(
            model=model,
            candidate=candidate,
            spec_sha256=spec.sha256(),
            steps=len(spec.steps),
            allow_tokenizer_change=spec.allow_tokenizer_change,
            replace=replace,
        )
        plan = self.plan(command)
        warning = self._warning(spec, model, plan.decision.rollout.stable)
        return plan.model_copy(update={"spec": spec, "warning": warning})

    def apply(self, plan: Plan, *, reason: str = "", actor: str | None = None) -> Applied:
        """Carry a plan out, all of it or nothing, then mirror the aliases beside the versions.

        Raises ConflictError when another command came in between, and what `decide` raises
        when a replica has gone since.
        """
        try:
            applied = self._commit(plan, reason, actor or events.current_actor())
        except ConstraintError as error:
            # Two first commands on PostgreSQL meet at a primary key rather than at a lock.
            raise _moved_on(plan) from error
        return applied.model_copy(update={"warning": self._mirror(plan.command.model)})

    def run(self, command: Command, *, reason: str = "", actor: str | None = None) -> Applied:
        """Plan and apply in one call."""
        return self.apply(self.plan(command), reason=reason, actor=actor)

    def explain(self, decision_id: int) -> Explanation:
        """Recompute a stored decision from its inputs.

        Raises NotFoundError for an unknown id and IntegrityError for inputs that cannot be read.
        """
        with self._store.database.snapshot() as session:
            row = records.decision_row(session, decision_id)
            last = looks.of_decision(session, decision_id)
            seen = looks.of_rollout(session, last.rollout_id, upto=last.seq) if last else []
            rollout = session.get(RolloutRow, last.rollout_id) if last else None
        if row is None:
            raise NotFoundError(
                f"There is no decision {decision_id}.",
                code="rollout.unknown_decision",
                hint="`linnet rollout history MODEL` lists decisions with their ids.",
            )
        again = recompute(row)
        spec = records.spec_of(rollout) if rollout is not None else None
        redone = list(redo(spec, seen)) if spec is not None else []
        differing = next((one.seq for one in redone if not one.agrees), None)
        return Explanation(
            id=row.id,
            rollout_id=row.rollout_id,
            command=row.inputs["command"],
            situation=row.inputs["situation"],
            outcome=again.stored,
            recomputed=again.now,
            agrees=again.agrees and differing is None,
            looks=len(redone),
            look=redone[-1].outcome.model_dump(mode="json") if redone else None,
            gates=arithmetic(spec, redone[-1]) if spec is not None and redone else (),
            differing=differing,
            actor=row.inputs.get("actor", ""),
            reason=row.inputs.get("reason", ""),
        )

    def _commit(self, plan: Plan, reason: str, actor: str) -> Applied:
        with self._store.database.transaction() as session:
            found = records.read_situation(session, plan.command.model)
            found = found.model_copy(update={"prompting": plan.situation.prompting})
            if (found.policy, found.aliases, found.active) != _seen(plan):
                raise _moved_on(plan)
            decision = decide(plan.command, found)
            rollout_id, decision_id = records.write(
                session, plan.command, found, decision, reason=reason, actor=actor, spec=plan.spec
            )
        return Applied(rollout_id=rollout_id, decision_id=decision_id, decision=decision)

    def _prompting(self, command: Command, situation: Situation) -> dict[str, Prompting]:
        if not isinstance(command, (Start, Begin)) or situation.policy is None:
            return {}
        return {
            version: self._prompting_of(VersionRef(model=command.model, version=version))
            for version in (situation.policy.stable, command.candidate)
        }

    def _prompting_of(self, ref: VersionRef) -> Prompting:
        manifest = self._store.manifest(ref)
        return Prompting(
            tokenizer_sha256=manifest.tokenizer_sha256, chat_template_sha256=manifest.chat_template_sha256
        )

    def _warning(self, spec: RolloutSpec, model: str, stable: str) -> str:
        if spec.baseline is not Baseline.FRESH:
            return ""
        with self._store.database.snapshot() as session:
            reason = beside.beforehand(session, model, stable)
        return f"no fresh replica of stable will serve: {reason}" if reason else ""

    def _mirror(self, model: str) -> str:
        try:
            self._store.mirror_aliases(model)
        except LinnetError as error:
            return f"aliases.json of {model} was not rewritten: {error.message}"
        return ""


def require_model(store: ModelStore, model: str) -> None:
    """Raise UsageError for what is no model's name and NotFoundError for a model that is not there.

    Aliases that the database has lost are restored on the way.
    """
    named = parse_ref(model)
    if model != named.model:
        raise UsageError(
            f"`{model}` names a version; this command takes a model.",
            code="rollout.not_a_model",
            hint=f"Write {named.model}.",
        )
    if not store.aliases(model):
        store.resolve(model)


def _seen(plan: Plan) -> tuple[Any, ...]:
    return plan.situation.policy, plan.situation.aliases, plan.situation.active


def _moved_on(plan: Plan) -> ConflictError:
    return ConflictError(
        f"Another command changed `{plan.command.model}` while `{plan.command.kind}` was being prepared; "
        "nothing was done.",
        code="rollout.moved_on",
        hint=f"Look again (`linnet rollout status {plan.command.model}`) and repeat the command.",
        retryable=True,
    )

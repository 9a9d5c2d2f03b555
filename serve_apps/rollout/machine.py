"""`decide`: from a command and the situation it meets to a decision. Pure: no clock, no store."""

from __future__ import annotations

from cluster.errors import ConflictError, NotFoundError, UsageError
from cluster.refs import CANDIDATE, PREVIOUS, STABLE
from cluster.traffic import TrafficPolicy
from serve_apps.rollout import judged, requirements
from serve_apps.rollout.moves import alias_moves, next_policy, require_active, require_meant
from serve_apps.rollout.states import (
    Command,
    Decision,
    Phase,
    Promote,
    Reason,
    Rollback,
    RolloutState,
    SetWeight,
    Situation,
    Start,
    percent,
)


def decide(command: Command, situation: Situation) -> Decision:
    """What `command` changes in `situation`.

    Raises UsageError for a value that is never accepted, ConflictError for a command that
    does not fit the present phase, NotFoundError for a model without a stable version and
    GateFailedError for a version that must not take traffic.
    """
    policy = situation.policy
    if policy is None:
        raise NotFoundError(
            f"`{situation.model}` has no stable version, so there is nothing to roll out beside.",
            code="rollout.no_stable",
            hint=f"Name one: linnet models alias {situation.model}@{STABLE} VERSION.",
        )
    if isinstance(command, judged.COMMANDS):
        return judged.decide(command, situation, policy)
    match command:
        case Start():
            return _start(command, situation, policy)
        case SetWeight():
            return _set_weight(command, situation, policy)
        case Promote():
            return _promote(command, situation, policy)
        case Rollback():
            if situation.active is not None:
                return _abort(command, situation, policy, situation.active)
            return _undo(command, situation, policy)


def _start(command: Start, situation: Situation, policy: TrafficPolicy) -> Decision:
    model, candidate = situation.model, command.candidate
    weight = _accepted_weight(command.weight)
    if situation.active is not None:
        raise ConflictError(
            f"A rollout of `{model}:{situation.active.candidate}` is active at "
            f"{percent(situation.active.weight)}; a model has one at a time.",
            code="rollout.active",
            hint=f"Change it (linnet rollout set-weight {model} WEIGHT), or end it with promote or rollback.",
        )
    requirements.require_other(situation, policy.stable, candidate)
    if not command.allow_tokenizer_change:
        requirements.require_same_prompting(situation, policy.stable, candidate)
    requirements.require_serving(situation, candidate)
    return Decision(
        policy=next_policy(policy, policy.stable, candidate, weight),
        aliases=alias_moves(situation, {CANDIDATE: candidate}),
        rollout=RolloutState(
            id=None,
            candidate=candidate,
            stable=policy.stable,
            phase=Phase.PROGRESSING,
            reason=Reason.STARTED,
            weight=weight,
        ),
        sentence=f"{model}: rollout of {candidate} started, weight from 0% to {percent(weight)}, "
        f"{policy.stable} from 100% to {percent(100 - weight)}",
    )


def _set_weight(command: SetWeight, situation: Situation, policy: TrafficPolicy) -> Decision:
    weight = _accepted_weight(command.weight)
    active = require_active(situation, "set-weight")
    if active.is_judged:
        raise ConflictError(
            f"The weight of `{situation.model}:{active.candidate}` is moved by the rollout's policy.",
            code="rollout.judged",
            hint=f"`linnet rollout pause {situation.model}` keeps it there; promote and rollback end it.",
        )
    if weight == policy.weight:
        raise UsageError(
            f"The weight of `{situation.model}:{active.candidate}` is {percent(weight)} already.",
            code="rollout.same_weight",
            hint="Give another weight from 0 to 100.",
        )
    if weight > policy.weight:
        requirements.require_answering(situation, active.candidate)
    return Decision(
        policy=next_policy(policy, policy.stable, active.candidate, weight),
        aliases=alias_moves(situation, {CANDIDATE: active.candidate}),
        rollout=active.model_copy(update={"weight": weight, "reason": Reason.WEIGHT_SET}),
        sentence=f"{situation.model}: weight of {active.candidate} from {percent(policy.weight)} "
        f"to {percent(weight)}",
    )


def _promote(command: Promote, situation: Situation, policy: TrafficPolicy) -> Decision:
    active = require_active(situation, "promote")
    require_meant(command.rollout, situation)
    requirements.require_answering(situation, active.candidate)
    return Decision(
        policy=next_policy(policy, active.candidate),
        aliases=alias_moves(situation, {PREVIOUS: policy.stable, STABLE: active.candidate, CANDIDATE: None}),
        rollout=active.model_copy(
            update={"phase": Phase.PROMOTED, "reason": Reason.PROMOTED, "weight": 100.0}
        ),
        sentence=f"{situation.model}: {active.candidate} promoted, from {percent(policy.weight)} to 100%, "
        f"{policy.stable} from {percent(100 - policy.weight)} to 0%, kept as @{PREVIOUS}",
    )


def _abort(command: Rollback, situation: Situation, policy: TrafficPolicy, active: RolloutState) -> Decision:
    require_meant(command.rollout, situation)
    if policy.weight and not command.force:
        requirements.require_landing(situation, source=active.candidate, target=policy.stable)
    return Decision(
        policy=next_policy(policy, policy.stable),
        aliases=alias_moves(situation, {CANDIDATE: None}),
        rollout=active.model_copy(update={"phase": Phase.ROLLED_BACK, "reason": command.why, "weight": 0.0}),
        sentence=f"{situation.model}: {active.candidate} rolled back from {percent(policy.weight)} to 0%, "
        f"{policy.stable} from {percent(100 - policy.weight)} to 100%",
    )


def _undo(command: Rollback, situation: Situation, policy: TrafficPolicy) -> Decision:
    require_meant(command.rollout, situation)
    model, previous = situation.model, situation.aliases.get(PREVIOUS)
    promoted = situation.last_change
    if previous is None or promoted is None:
        raise ConflictError(
            f"No rollout of `{model}` is active and none has been promoted: there is nothing to take back.",
            code="rollout.nothing_to_roll_back",
            hint=f"`linnet rollout status {model}` shows what there is.",
        )
    if promoted.phase is not Phase.PROMOTED:
        raise ConflictError(
            f"`{model}` has been taken back from {promoted.candidate} to {promoted.stable} already.",
            code="rollout.nothing_to_roll_back",
            hint=f"To go forward again: linnet rollout start {model}:{promoted.candidate} --weight 10.",
        )
    if not command.force:
        requirements.require_landing(situation, source=policy.stable, target=previous)
    return Decision(
        policy=next_policy(policy, previous),
        aliases=alias_moves(situation, {STABLE: previous, PREVIOUS: policy.stable, CANDIDATE: None}),
        rollout=promoted.model_copy(
            update={"phase": Phase.ROLLED_BACK, "reason": Reason.UNDONE, "weight": 0.0}
        ),
        sentence=f"{model}: promotion of {policy.stable} undone, from 100% to 0%, {previous} from 0% to 100%",
    )


def _accepted_weight(weight: float) -> float:
    if not 0 <= weight <= 100 or abs(weight - round(weight, 2)) > 1e-9:
        raise UsageError(
            f"The weight {weight:g} is not accepted.",
            code="rollout.weight",
            hint="Give a percentage from 0 to 100 in steps of 0.01, such as 10 or 0.5.",
        )
    return round(weight, 2)

"""Decisions that only rollouts with a policy know: begin, the next step, a person's word."""

from __future__ import annotations

from cluster.errors import ConflictError
from cluster.refs import CANDIDATE
from cluster.traffic import TrafficPolicy
from serve_apps.rollout import requirements
from serve_apps.rollout.moves import alias_moves, next_policy, require_active, require_meant
from serve_apps.rollout.states import (
    Advance,
    Approve,
    Begin,
    Decision,
    Pause,
    Phase,
    Reason,
    Resume,
    RolloutState,
    Situation,
    percent,
)

COMMANDS = (Begin, Advance, Approve, Pause, Resume)


def decide(
    command: Begin | Advance | Approve | Pause | Resume, situation: Situation, policy: TrafficPolicy
) -> Decision:
    """What one of them changes."""
    match command:
        case Begin():
            return begin(command, situation, policy)
        case Advance():
            return advance(command, situation, policy)
        case Approve():
            return approve(situation, policy)
        case Pause():
            return pause(command, situation, policy)
        case Resume():
            return resume(situation, policy)


def begin(command: Begin, situation: Situation, policy: TrafficPolicy) -> Decision:
    """A rollout at 0%, and the end of the one that it replaces."""
    model, candidate, active = situation.model, command.candidate, situation.active
    if active is not None and not command.replace:
        raise ConflictError(
            f"A rollout of `{model}:{active.candidate}` is {active.phase.value} at {percent(active.weight)}; "
            "a model has one at a time.",
            code="rollout.active",
            hint="Replace it with --replace, or end it with promote or rollback.",
        )
    requirements.require_other(situation, policy.stable, candidate)
    if not command.allow_tokenizer_change:
        requirements.require_same_prompting(situation, policy.stable, candidate)
    if active is not None and policy.weight:
        requirements.require_landing(situation, source=active.candidate, target=policy.stable)
    return Decision(
        policy=next_policy(policy, policy.stable, candidate),
        aliases=alias_moves(situation, {CANDIDATE: candidate}),
        rollout=RolloutState(
            id=None,
            candidate=candidate,
            stable=policy.stable,
            phase=Phase.PENDING,
            reason=Reason.STARTED,
            weight=0.0,
            spec_sha256=command.spec_sha256,
            steps=command.steps,
        ),
        replaced=_superseded(active),
        sentence=f"{model}: rollout of {candidate} begun at 0% of {command.steps} steps, "
        f"{policy.stable} at 100%" + _in_place_of(active, policy),
    )


def advance(command: Advance, situation: Situation, policy: TrafficPolicy) -> Decision:
    """The next step, no other one: raises ConflictError for one that was taken already, or is too far."""
    active = require_active(situation, "advance")
    require_meant(command.rollout, situation)
    if command.step != active.step + 1 or command.step >= active.steps or active.phase is Phase.PAUSED:
        raise ConflictError(
            f"Rollout {active.id} of `{situation.model}` is {active.phase.value} at step {active.step + 1} "
            f"of {active.steps}: step {command.step + 1} does not follow.",
            code="rollout.step",
            retryable=True,
        )
    rises = command.weight > policy.weight
    if rises:
        requirements.require_serving(situation, active.candidate)
    moved = command.weight != policy.weight or command.judging != policy.judging
    taken = {"phase": Phase.PROGRESSING, "reason": Reason.STEP_TAKEN, "weight": command.weight}
    at = {"step": command.step, "awaits_approval": command.awaits_approval}
    return Decision(
        policy=next_policy(policy, policy.stable, active.candidate, command.weight, command.judging)
        if moved
        else policy,
        aliases=alias_moves(situation, {CANDIDATE: active.candidate}),
        rollout=active.model_copy(update={**taken, **at}),
        sentence=f"{situation.model}: step {command.step + 1} of {active.steps}, weight of "
        f"{active.candidate} from {percent(policy.weight)} to {percent(command.weight)}",
    )


def approve(situation: Situation, policy: TrafficPolicy) -> Decision:
    """The step that the rollout is at needs no more word of a person."""
    active = _require_judged(situation, "approve")
    if not active.awaits_approval:
        raise ConflictError(
            f"The rollout of `{situation.model}:{active.candidate}` is at step {active.step + 1} of "
            f"{active.steps}, which waits for no approval.",
            code="rollout.no_approval",
            hint=f"`linnet rollout status {situation.model}` shows what it waits for, and its steps.",
        )
    if active.approved >= active.step:
        raise ConflictError(
            f"Step {active.step + 1} of the rollout of `{situation.model}:{active.candidate}` is approved.",
            code="rollout.approved",
        )
    return Decision(
        policy=policy,
        aliases=(),
        rollout=active.model_copy(update={"approved": active.step, "reason": Reason.APPROVED}),
        sentence=f"{situation.model}: step {active.step + 1} of {active.candidate} approved at "
        f"{percent(policy.weight)}",
    )


def pause(command: Pause, situation: Situation, policy: TrafficPolicy) -> Decision:
    """The weight stays as it is until `resume`."""
    active = _require_judged(situation, "pause")
    require_meant(command.rollout, situation)
    if active.phase is Phase.PAUSED:
        raise ConflictError(
            f"The rollout of `{situation.model}:{active.candidate}` is paused already.",
            code="rollout.paused",
            hint=f"Go on: linnet rollout resume {situation.model}.",
        )
    return Decision(
        policy=policy,
        aliases=(),
        rollout=active.model_copy(update={"phase": Phase.PAUSED, "reason": command.why}),
        sentence=f"{situation.model}: rollout of {active.candidate} paused at {percent(policy.weight)}",
    )


def resume(situation: Situation, policy: TrafficPolicy) -> Decision:
    """On from where it was paused."""
    active = _require_judged(situation, "resume")
    if active.phase is not Phase.PAUSED:
        raise ConflictError(
            f"The rollout of `{situation.model}:{active.candidate}` is not paused.", code="rollout.not_paused"
        )
    phase = Phase.PENDING if active.step < 0 else Phase.PROGRESSING
    anew = "; what has failed is judged anew" if active.reason is Reason.GATE_FAILED else ""
    return Decision(
        policy=policy,
        aliases=(),
        rollout=active.model_copy(update={"phase": phase, "reason": Reason.RESUMED}),
        sentence=f"{situation.model}: rollout of {active.candidate} resumed at {percent(policy.weight)}"
        f"{anew}",
    )


def _require_judged(situation: Situation, verb: str) -> RolloutState:
    active = require_active(situation, verb)
    if not active.is_judged:
        raise ConflictError(
            f"The rollout of `{situation.model}:{active.candidate}` is moved by hand: nothing to {verb}.",
            code="rollout.by_hand",
            hint=f"linnet rollout set-weight {situation.model} WEIGHT, or promote, or rollback.",
        )
    return active


def _superseded(active: RolloutState | None) -> RolloutState | None:
    if active is None:
        return None
    ended = {"phase": Phase.ROLLED_BACK, "reason": Reason.SUPERSEDED, "weight": 0.0}
    return active.model_copy(update=ended)


def _in_place_of(active: RolloutState | None, policy: TrafficPolicy) -> str:
    return f"; it replaces that of {active.candidate} at {percent(policy.weight)}" if active else ""

"""What decisions are put together from: the next policy, the aliases that move, the rollout that is meant."""

from __future__ import annotations

from cluster.errors import ConflictError
from cluster.judging import Judging
from cluster.traffic import TrafficPolicy
from serve_apps.rollout.states import AliasMove, RolloutState, Situation


def next_policy(
    policy: TrafficPolicy,
    stable: str,
    candidate: str | None = None,
    weight: float = 0.0,
    judging: Judging | None = None,
) -> TrafficPolicy:
    """The successor of `policy`."""
    return TrafficPolicy(
        model=policy.model,
        revision=policy.revision + 1,
        stable=stable,
        candidate=candidate,
        weight=weight,
        judging=judging,
    )


def alias_moves(situation: Situation, wanted: dict[str, str | None]) -> tuple[AliasMove, ...]:
    """Those of `wanted` that are not so yet."""
    found = situation.aliases
    return tuple(
        AliasMove(alias=alias, before=found.get(alias), after=version)
        for alias, version in wanted.items()
        if found.get(alias) != version
    )


def require_active(situation: Situation, verb: str) -> RolloutState:
    """Raise ConflictError where no rollout is active."""
    if situation.active is None:
        raise ConflictError(
            f"No rollout of `{situation.model}` is active, so `{verb}` has nothing to act on.",
            code="rollout.none_active",
            hint=f"Start one: linnet rollout start {situation.model}:VERSION --weight 10.",
        )
    return situation.active


def require_meant(rollout: int | None, situation: Situation) -> None:
    """Raise ConflictError where `rollout` is named and is not the one that is active."""
    active = situation.active.id if situation.active else None
    if rollout is not None and rollout != active:
        raise ConflictError(
            f"Rollout {rollout} of `{situation.model}` is over.",
            code="rollout.over",
            hint=f"`linnet rollout status {situation.model}` shows what there is.",
        )

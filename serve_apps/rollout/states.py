"""What a rollout is made of: phases and reasons, commands, the situation they meet, the decision."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from cluster.config import StrictModel
from cluster.state.replicas import ReplicaStatus
from cluster.traffic import TrafficPolicy


class Phase(StrEnum):
    """Where a rollout is."""

    PROGRESSING = "progressing"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


class Reason(StrEnum):
    """Why it is there.

    `aborted` was taken back before its promotion, `undone` after it.
    """

    STARTED = "started"
    WEIGHT_SET = "weight_set"
    PROMOTED = "promoted"
    ABORTED = "aborted"
    UNDONE = "undone"


class Start(StrictModel):
    """Give `candidate` a first share of the traffic; `weight` in percent."""

    kind: Literal["start"] = "start"
    model: str
    candidate: str
    weight: float
    allow_tokenizer_change: bool = False


class SetWeight(StrictModel):
    """Change the candidate's share, up or down; `weight` in percent."""

    kind: Literal["set-weight"] = "set-weight"
    model: str
    weight: float


class Promote(StrictModel):
    """Make the candidate the stable version."""

    kind: Literal["promote"] = "promote"
    model: str


class Rollback(StrictModel):
    """Take the candidate back, or undo the last promotion; `force` skips the check for replicas."""

    kind: Literal["rollback"] = "rollback"
    model: str
    force: bool = False


Command = Start | SetWeight | Promote | Rollback
COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])


class RolloutState(StrictModel):
    """One rollout's row; `id` is None until it has been stored."""

    id: int | None
    candidate: str
    stable: str
    phase: Phase
    reason: Reason
    weight: float


class Prompting(StrictModel):
    """What decides how a version reads a prompt: two versions that differ here are not alike."""

    tokenizer_sha256: str
    chat_template_sha256: str | None


class Situation(StrictModel):
    """All that a decision depends on.

    `aliases` maps alias to version; `replicas` version to live replicas by status; `refusals`
    version to the newest reason why a replica of it was refused; `prompting` holds the
    versions that a start compares. `last_change` is the newest rollout that moved `@stable`.
    """

    model: str
    policy: TrafficPolicy | None
    aliases: dict[str, str] = Field(default_factory=dict)
    active: RolloutState | None = None
    last_change: RolloutState | None = None
    replicas: dict[str, dict[str, int]] = Field(default_factory=dict)
    refusals: dict[str, str] = Field(default_factory=dict)
    prompting: dict[str, Prompting] = Field(default_factory=dict)

    def serving(self, version: str) -> int:
        """Replicas of `version` that have proven themselves and take traffic."""
        return self.replicas.get(version, {}).get(ReplicaStatus.SERVING.value, 0)

    def answers(self, version: str) -> bool:
        """Whether requests for it are answered: at once, or by waking it."""
        return bool(self.serving(version) or self.replicas.get(version, {}).get(ReplicaStatus.ASLEEP.value))


class AliasMove(StrictModel):
    """One alias from a version to another; None means that it is not there."""

    alias: str
    before: str | None
    after: str | None


class Decision(StrictModel):
    """What is to be stored, all of it together.

    `sentence` tells of the change with the numbers before and after.
    """

    policy: TrafficPolicy
    aliases: tuple[AliasMove, ...]
    rollout: RolloutState
    sentence: str


def percent(weight: float) -> str:
    """`10%`, `33.33%`."""
    return f"{weight:.2f}".rstrip("0").rstrip(".") + "%"

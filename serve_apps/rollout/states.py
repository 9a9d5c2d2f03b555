"""What a rollout is made of: phases and reasons, commands, the situation they meet, the decision."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from cluster.config import StrictModel
from cluster.judging import Judging
from cluster.state.replicas import ReplicaStatus
from cluster.traffic import TrafficPolicy


class Phase(StrEnum):
    """Where a rollout is.

    A `pending` one has a policy and waits for its candidate's first replica, at a weight of 0.
    """

    PENDING = "pending"
    PROGRESSING = "progressing"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


ACTIVE = (Phase.PENDING, Phase.PROGRESSING, Phase.PAUSED)
"""A model has one rollout in one of these at most."""


class Reason(StrEnum):
    """Why it is there.

    `aborted` was taken back by a person before its promotion, `undone` after it.
    """

    STARTED = "started"
    WEIGHT_SET = "weight_set"
    STEP_TAKEN = "step_taken"
    APPROVED = "approved"
    PAUSED = "paused"
    RESUMED = "resumed"
    PROMOTED = "promoted"
    ABORTED = "aborted"
    UNDONE = "undone"
    GATE_FAILED = "gate_failed"
    INCONCLUSIVE = "inconclusive"
    CANDIDATE_DOWN = "candidate_down"
    SUPERSEDED = "superseded"


class Start(StrictModel):
    """Give `candidate` a first share of the traffic by hand; `weight` in percent."""

    kind: Literal["start"] = "start"
    model: str
    candidate: str
    weight: float
    allow_tokenizer_change: bool = False


class Begin(StrictModel):
    """Start a rollout that is judged: at 0%, until the candidate serves; `steps` is how many it has.

    `spec_sha256` is that of its policy. `replace` takes back a rollout that is active, as superseded.
    """

    kind: Literal["begin"] = "begin"
    model: str
    candidate: str
    spec_sha256: str
    steps: int = Field(ge=1)
    allow_tokenizer_change: bool = False
    replace: bool = False


class Advance(StrictModel):
    """Take the step after `step - 1`, at its `weight` in percent; gateways count what `judging` says.

    `awaits_approval`: it is over when a person says so.
    """

    kind: Literal["advance"] = "advance"
    model: str
    rollout: int
    step: int = Field(ge=0)
    weight: float
    judging: Judging | None = None
    awaits_approval: bool = False


class SetWeight(StrictModel):
    """Change the candidate's share, up or down; `weight` in percent."""

    kind: Literal["set-weight"] = "set-weight"
    model: str
    weight: float


class Approve(StrictModel):
    """Let a rollout past the step that waits for a person."""

    kind: Literal["approve"] = "approve"
    model: str


class Pause(StrictModel):
    """Keep the weight; the judge goes on looking, and may take the candidate back.

    `rollout` names the one that is meant, where another may have begun since.
    """

    kind: Literal["pause"] = "pause"
    model: str
    rollout: int | None = None
    why: Reason = Reason.PAUSED


class Resume(StrictModel):
    """Go on after a pause."""

    kind: Literal["resume"] = "resume"
    model: str


class Promote(StrictModel):
    """Make the candidate the stable version."""

    kind: Literal["promote"] = "promote"
    model: str
    rollout: int | None = None


class Rollback(StrictModel):
    """Take the candidate back, or undo the last promotion; `force` skips the check for replicas.

    With `rollout`, only that one, and only before its promotion.
    """

    kind: Literal["rollback"] = "rollback"
    model: str
    force: bool = False
    rollout: int | None = None
    why: Reason = Reason.ABORTED


Command = Start | Begin | Advance | SetWeight | Approve | Pause | Resume | Promote | Rollback
COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])


class RolloutState(StrictModel):
    """One rollout's row; `id` is None until it has been stored.

    `spec_sha256` is None where people move the weight. `step` is the index of the step that it is at,
    -1 before the first; `approved` the newest step that a person has let it past. `awaits_approval`: the step
    that it is at is over when a person says so.
    """

    id: int | None
    candidate: str
    stable: str
    phase: Phase
    reason: Reason
    weight: float
    spec_sha256: str | None = None
    steps: int = 0
    step: int = -1
    approved: int = -1
    awaits_approval: bool = False

    @property
    def is_judged(self) -> bool:
        """Whether it is moved by its policy rather than by people."""
        return self.spec_sha256 is not None


class Prompting(StrictModel):
    """What decides how a version reads a prompt: two versions that differ here are not alike."""

    tokenizer_sha256: str
    chat_template_sha256: str | None


class Situation(StrictModel):
    """All that a decision depends on.

    `aliases` maps alias to version; `replicas` version to live replicas by status; `refusals`
    version to the newest reason why a replica of it was refused; `prompting` holds the
    versions that a start compares. `last_change` is the newest rollout that moved `@stable`. `stable_has` so
    many serving replicas without those that were killed just before, whose rows are `replicas` still.
    """

    model: str
    policy: TrafficPolicy | None
    aliases: dict[str, str] = Field(default_factory=dict)
    active: RolloutState | None = None
    last_change: RolloutState | None = None
    replicas: dict[str, dict[str, int]] = Field(default_factory=dict)
    refusals: dict[str, str] = Field(default_factory=dict)
    prompting: dict[str, Prompting] = Field(default_factory=dict)
    stable_has: int = 0

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

    `policy` is the one in force where the decision leaves the weights alone. `replaced` is a rollout
    that this one ends. `sentence` tells of the change with the numbers before and after.
    """

    policy: TrafficPolicy
    aliases: tuple[AliasMove, ...]
    rollout: RolloutState
    sentence: str
    replaced: RolloutState | None = None


def percent(weight: float) -> str:
    """`10%`, `33.33%`."""
    return f"{weight:.2f}".rstrip("0").rstrip(".") + "%"

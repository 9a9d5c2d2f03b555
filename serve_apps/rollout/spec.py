"""A rollout's policy as people write it, in the endpoint's YAML or in a file of its own."""

from __future__ import annotations

import hashlib
import itertools
import json
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, model_validator

from cluster.config import StrictModel
from cluster.judging import Match, Shadow, TextChecks
from serve_apps.rollout.gate_spec import STORED, Gate, Severity, Source
from serve_apps.rollout.metrics import BANNED_WORDS, OTHER_SCRIPTS
from serve_apps.rollout.outside.config import Slack, Webhook, WebhookKind
from serve_apps.rollout.units import Duration


class Baseline(StrEnum):
    """Whom the candidate is compared with: all of stable, or replicas of it that are as new as its own."""

    STABLE = "stable"
    FRESH = "fresh"


class OnInconclusive(StrEnum):
    """What becomes of a step that has had no verdict by its `deadline`."""

    HOLD = "hold"
    ROLLBACK = "rollback"


class OnFail(StrEnum):
    """What a failed gate of severity `normal` does."""

    ROLLBACK = "rollback"
    PAUSE = "pause"


class Step(StrictModel):
    """A share of the traffic in percent, or `approve: true`, which waits for a person.

    `hold`: for so long at least. `soak`: the same at 100%, with stable kept able to take all.
    """

    weight: float | None = Field(default=None, gt=0, le=100)
    hold: Duration | None = None
    soak: Duration | None = None
    approve: bool = False

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.weight is None) != self.approve:
            raise ValueError("a step is either `weight: PERCENT` or `approve: true`")
        if self.weight is not None and abs(self.weight - round(self.weight, 2)) > 1e-9:
            raise ValueError("weights go in steps of 0.01")
        if self.approve and (self.hold is not None or self.soak is not None):
            raise ValueError("`hold` and `soak` go with a weight")
        if self.soak is not None and (self.weight != 100 or self.hold is not None):
            raise ValueError("`soak` goes with `weight: 100`; elsewhere it is `hold`")
        return self

    @property
    def at_least_s(self) -> float:
        """How long it is kept at least, in seconds."""
        return (self.hold or self.soak or timedelta(0)).total_seconds()


_STEPS = tuple(Step(weight=weight) for weight in (1, 5, 25, 50, 100))


def _gate(**given: Any) -> Gate:
    return Gate.model_validate(given)


DEFAULT_GATES = (
    _gate(metric="error_rate", max_ratio=1.5, tolerate="1%"),
    _gate(metric="left_rate", max_ratio=2, tolerate="2%"),
    _gate(metric="ttft", quantile=0.5, max_ratio=1.5),
    _gate(metric="ttft", quantile=0.95, max_ratio=1.5),
    _gate(metric="itl", quantile=0.9, max_ratio=1.5),
    _gate(metric="repetition_rate", max_ratio=2, tolerate="2%"),
    _gate(metric="empty_rate", max_ratio=2, tolerate="2%"),
)


class RolloutSpec(StrictModel):
    """How one candidate becomes stable, or not.

    `alpha`: how often a candidate that is no worse is taken back, at most, over the whole rollout, where
    requests are spread over many callers.
    `deadline`: of a step, `start_deadline`: until the candidate's first replica serves.
    `keep_previous`: for how long after its promotion stable's replicas stay ready for a rollback.
    `attempt`: another number starts the same policy again, where it is declared in a YAML.
    """

    candidate: str | None = None
    steps: tuple[Step, ...] = Field(default=_STEPS, min_length=1)
    match: tuple[Match, ...] = ()
    baseline: Baseline = Baseline.STABLE
    shadow: Shadow | None = None
    texts: TextChecks = TextChecks()
    gates: tuple[Gate, ...] = DEFAULT_GATES
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    on_inconclusive: OnInconclusive = OnInconclusive.HOLD
    on_fail: OnFail = OnFail.ROLLBACK
    deadline: Duration | None = None
    start_deadline: Duration = timedelta(minutes=15)
    keep_previous: Duration = timedelta(hours=1)
    max_restarts: int = Field(default=2, ge=0)
    webhooks: tuple[Webhook, ...] = ()
    slack: Slack | None = None
    allow_tokenizer_change: bool = False
    attempt: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _goes_up(self) -> Self:
        weights = [step.weight for step in self.steps if step.weight is not None]
        if not weights or weights[-1] != 100:
            raise ValueError("the last weight is 100")
        if self.steps[-1].approve:
            raise ValueError("the last step is a weight")
        for before, after in itertools.pairwise(weights):
            if after <= before:
                raise ValueError(f"weights go up: {after:g} does not follow {before:g}")
        names = [gate.name for gate in self.gates]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two gates are `{twice}`")
        if any(hook.kind is WebhookKind.GATE for hook in self.webhooks):
            raise ValueError("a webhook of the kind `gate` is one of the `gates`")
        if self.on_inconclusive is OnInconclusive.ROLLBACK and self.deadline is None:
            raise ValueError("`on_inconclusive: rollback` needs a `deadline`")
        if self.baseline is Baseline.FRESH and not any(gate.needs_answers_of_baseline for gate in self.gates):
            raise ValueError("`baseline: fresh` is for gates with `max_ratio` or `min_ratio`; there is none")
        return self

    @model_validator(mode="after")
    def _measures_what_it_judges(self, info: ValidationInfo) -> Self:
        """A metric that nobody counts would never be exceeded, and so pass."""
        if info.context == STORED:
            return self
        for gate in self.gates:
            if gate.metric == BANNED_WORDS and not self.texts.banned:
                raise ValueError(f"`{gate.name}` needs `texts: {{banned: [WORD, …]}}`, the words to look for")
            if gate.metric == OTHER_SCRIPTS and not self.texts.scripts:
                raise ValueError(f"`{gate.name}` needs `texts: {{scripts: [latin, …]}}`, the right ones")
            if gate.source is Source.SHADOW and self.shadow is None:
                raise ValueError(f"`{gate.name}` needs `shadow: {{sample: 0.2}}`, the share that is copied")
        return self

    @property
    def judged(self) -> tuple[Gate, ...]:
        """The gates that can fail the candidate."""
        return tuple(gate for gate in self.gates if gate.severity is not Severity.INFO)

    def stored(self) -> dict[str, Any]:
        """As it is kept with its rollout, defaults written out, and read back to the same."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def sha256(self) -> str:
        """Of what differs from the defaults, so that a key that is new in a release changes nothing."""
        said = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        if "gates" in said:
            said["gates"] = [gate.said() for gate in self.gates]
        text = json.dumps(said, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

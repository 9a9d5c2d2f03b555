"""What a look sees, and what is known after it. All of it is stored, so that every look can be done again."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from cluster.config import StrictModel
from cluster.tally import Pairs, Sketch, VersionTally
from serve_apps.rollout.judge.evidence import Evidence
from serve_apps.rollout.outside.verdict import Answer
from serve_apps.rollout.states import Phase

Strata = dict[str, Sketch]
"""By stratum."""


class Signals(StrictModel):
    """How things stand at a look, besides what was counted.

    `gateways`: the newest revision that each gateway routes by; `revision`: the one that is wanted.
    `serving`, `lost`, `refused` are of the candidate since the rollout began; `given_up` says why Serve
    does not try to start it any more. `memory`, `stable_memory`: bytes that the largest replica of each
    holds; None where one has not told, and in looks of old.
    `fresh`: replicas of stable that are as new, where the policy asks for them; `no_fresh` says why there are
    none. `can_go_back`: stable answers, or nobody would lose an answer by it. `confirmed`: all webhooks that
    must agree to the next step have; `unconfirmed` says who has not, and why. `resumes`: how often people
    have let it go on, where failed gates pause it.
    """

    phase: Phase
    step: int
    approved: int
    weight: float
    revision: int
    gateways: dict[str, int] = Field(default_factory=dict)
    serving: int = 0
    lost: int = 0
    refused: str | None = None
    given_up: str = ""
    memory: int | None = None
    stable_memory: int | None = None
    fresh: int = 0
    no_fresh: str = ""
    can_go_back: bool = True
    confirmed: bool = True
    unconfirmed: str = ""
    resumes: int = 0


class Counted(StrictModel):
    """What all gateways have counted under one revision since the last look."""

    revision: int
    candidate: VersionTally = VersionTally()
    baseline: VersionTally = VersionTally()
    pairs: dict[str, Pairs] = Field(default_factory=dict)


class Told(StrictModel):
    """What has come from outside for one gate since the last look.

    `differences`: of a held-out set, each with its number of pairs, in `round`; `missing` says why there are
    none. `answer`: the newest one.
    """

    differences: tuple[tuple[float, int], ...] = ()
    round: int | None = None
    missing: str = ""
    answer: Answer | None = None


class LookInputs(StrictModel):
    """All that a look depends on, besides policy and what was known before; `at` is UTC without a zone."""

    at: datetime
    signals: Signals
    counted: tuple[Counted, ...] = ()
    told: dict[str, Told] = Field(default_factory=dict)


class Shown(StrictModel):
    """All values of one metric at the present step."""

    candidate: Sketch = Sketch()
    baseline: Sketch = Sketch()


class Progress(StrictModel):
    """What is known after a look.

    `watched_s`: for how long looks have gone on at this step; pauses, and time in which nobody looked, are
    not in it. `decided_s` of it had passed when no verdict was missing last. `answered`: by the candidate, of
    requests that were sent by this step's weight. `evidence` by gate; `past`: the baseline's values since the
    rollout began, by metric and stratum; `shown` by metric; `answers`: the newest word from outside, by gate.
    `rounds` of a held-out set are done; `missing`: why the newest gave nothing.
    `resumes` have been seen to, with so many lost replicas `forgiven`.
    """

    looked_at: datetime | None = None
    step: int = -1
    watched_s: float = 0.0
    decided_s: float = 0.0
    answered: int = 0
    evidence: dict[str, Evidence] = Field(default_factory=dict)
    past: dict[str, Strata] = Field(default_factory=dict)
    shown: dict[str, Shown] = Field(default_factory=dict)
    answers: dict[str, Answer] = Field(default_factory=dict)
    rounds: dict[str, int] = Field(default_factory=dict)
    missing: dict[str, str] = Field(default_factory=dict)
    resumes: int = 0
    forgiven: int = 0

    @property
    def undecided_s(self) -> float:
        """For how long it has been without a verdict."""
        return self.watched_s - self.decided_s

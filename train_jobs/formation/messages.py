"""What workers and the coordinator of a run say to each other; all of it crosses Ray."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cluster.errors import LinnetError


class Source(StrEnum):
    """Where a formation's members take their state from."""

    CHECKPOINT = "checkpoint"
    PEER = "peer"


class Phase(StrEnum):
    """What a member is doing; a member that computes keeps those waiting that exchange."""

    WARMING = "warming"
    IDLE = "idle"
    FORMING = "forming"
    RESTORING = "restoring"
    COMPUTING = "computing"
    EXCHANGING = "exchanging"
    SAVING = "saving"
    EVALUATING = "evaluating"

    @property
    def is_at_storage(self) -> bool:
        """Whether it reads or writes files, which have deadlines of their own."""
        return self in (Phase.RESTORING, Phase.SAVING)


@dataclass(frozen=True)
class Joined:
    """A worker that is warm. `rank` is Ray Train's world rank, which its replacement takes over."""

    worker: str
    rank: int
    pid: int
    node_ip: str
    node_id: str
    handle: Any


@dataclass(frozen=True)
class Formation:
    """Members by rank. `source_rank` holds the state when it comes from a peer.

    `microbatch_divisor` cuts microbatches smaller after one of them did not fit into memory. `prove`: a
    committed step is repeated before the formation trains.
    """

    generation: int
    attempt: int
    workers: tuple[str, ...]
    store: tuple[str, int]
    source: Source
    source_rank: int
    microbatch_divisor: int
    prove: bool = False

    @property
    def size(self) -> int:
        """How many train together."""
        return len(self.workers)


@dataclass(frozen=True)
class End:
    """There is nothing more to do for this process; `error` is why, where one ended the run."""

    step: int
    error: LinnetError | None = None


@dataclass(frozen=True)
class Beat:
    """A worker's sign of life. `marks` grows with everything it gets done.

    `compute_s` is the compute time of its last whole step, in seconds a slot.
    """

    worker: str
    generation: int
    phase: Phase
    step: int
    marks: int
    compute_s: float


@dataclass(frozen=True)
class Orders:
    """What the coordinator answers to a beat."""

    dissolved: bool
    regroup: bool
    commit_now: bool


@dataclass(frozen=True)
class Broken:
    """A member's word that its formation no longer works."""

    worker: str
    generation: int
    text: str


@dataclass(frozen=True)
class Raised:
    """A member's word that its program failed, in the step that it had in hand.

    `detail` tells the causes too, which an error leaves behind when it crosses Ray.
    """

    worker: str
    generation: int
    step: int
    error: BaseException
    detail: str


@dataclass(frozen=True)
class Formed:
    """Rank 0's word on what a formation goes on from."""

    generation: int
    step: int
    skipped: tuple[str, ...]
    restored_s: float


@dataclass(frozen=True)
class Advanced:
    """Rank 0's word on a step that all members have taken.

    `verdict` is on those that it repeats, `skipped` says why its batch was left out.
    """

    generation: int
    step: int
    seconds: float
    verdict: str
    skipped: str = ""

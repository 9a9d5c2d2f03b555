"""The words of the roster: who is there, what went wrong, and what is to be done about the world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.errors import LinnetError
from cluster.recovery.classes import Signal
from train_jobs.formation.messages import Beat, Formation, Joined, Phase


@dataclass(frozen=True)
class Rules:
    """What the spec says of who trains.

    It starts with `slots` workers, where it `may_shrink` with `min_workers`; when some are lost, it goes on
    without waiting while `min_live` are left.
    `keep_state`: survivors go on with what they have; `prove`: after repeating a committed step.
    `keep_places`: who stays keeps its rank, and with it what only this rank holds.
    """

    slots: int
    min_workers: int
    min_live: int
    may_shrink: bool
    keep_state: bool
    prove: bool
    hang_timeout_s: float
    keep_places: bool = False

    @property
    def needed(self) -> int:
        """How many are enough for good."""
        return self.min_workers if self.may_shrink else self.slots


@dataclass
class Member:
    """A worker as the coordinator knows it.

    `state_step` is the step its own state is at, if it has any; `raised_in` the generation in which its
    program failed, after which its end is no news; `left_in` the one that it has come back from;
    `was_released`: it is told to end by itself.
    """

    joined: Joined
    last_beat_at: float
    last_mark_at: float
    beat: Beat | None = None
    is_ready: bool = False
    is_dead: bool = False
    is_draining: bool = False
    was_released: bool = False
    state_step: int | None = None
    raised_in: int = 0
    left_in: int = 0
    slow_steps: int = 0
    judged_step: int = 0
    was_named: bool = False

    @property
    def phase(self) -> Phase:
        """What it says it is doing."""
        return self.beat.phase if self.beat else Phase.WARMING

    def release(self) -> None:
        """It is not needed any more, and its end is no news."""
        self.is_dead, self.is_ready, self.was_released = True, False, True


@dataclass(frozen=True)
class Incident:
    """Something went wrong with a formation; `victim` is None when nobody is to blame.

    `step` is the one that was in hand, 0 where nobody knows; `error` what was raised, if it is one of ours;
    `node_answers` is False where the victim's whole node is silent; `may_move` is about a node that drains.
    """

    signal: Signal
    victim: Member | None
    detail: str
    last_sign_at: float
    at: float
    generation: int
    peers_waiting: int = 0
    step: int = 0
    error: LinnetError | None = None
    node_answers: bool | None = None
    may_move: bool = True


@dataclass(frozen=True)
class Verdict:
    """What is to be done about an incident."""

    wait_s: float = 0.0
    stop: LinnetError | None = None
    shrink_microbatch: bool = False


def seated(members: Sequence[Member], before: Sequence[str]) -> list[Member]:
    """By rank: those of a formation `before` in their places, the others in those that are left."""
    stays = {before.index(m.joined.worker): m for m in members if m.joined.worker in before}
    others = iter([m for m in members if m.joined.worker not in before])
    return [stays[place] if place in stays else next(others) for place in range(len(members))]


@dataclass(frozen=True)
class Kill:
    """End a worker that does not answer, after its stack has been taken down where `with_stack`."""

    member: Member
    with_stack: bool


@dataclass(frozen=True)
class Form:
    """A new formation is to be announced."""

    formation: Formation


@dataclass(frozen=True)
class Moved:
    """The workers of draining nodes were released, or all were for a new launch."""


Effect = Kill | Form | Moved
Judge = Callable[[Incident], Verdict]

"""When all are to stop after a step, with everything committed, and who has to go then.

Two things make them: a node that drains, and room for a larger group than was launched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cluster.recovery.classes import Signal
from train_jobs.formation.crew import Incident, Judge, Member, Rules

_AGAIN_S = 10.0
# Growing costs everybody a new process.
_GROW_AFTER_S = 60.0


@dataclass(frozen=True)
class Surroundings:
    """Nodes that drain, and how many more workers the others have room for, at a time in unix seconds."""

    draining: set[str]
    room: int
    generation: int
    at: float


@dataclass
class Leaving:
    """`is_wanted`: with the next step everybody commits and leaves the formation.

    Who drains is released where the others are enough. Else everybody is, for a new launch, which gets
    its places where there is room. Where there is none, what there is is committed, and training goes on
    on the node until it goes.
    """

    rules: Rules
    judge: Judge
    driver_node: str
    is_wanted: bool = False
    launched: int = 0
    committed_step: int = 0
    _room: int = 0
    _looked_at: float = 0.0
    _not_before: float = 0.0
    _grow_at: float = 0.0
    # Draining nodes that were told of, and whether their workers could move then.
    _told: dict[str, bool] = field(default_factory=dict)
    _committed_nodes: set[str] = field(default_factory=set)

    def start(self, workers: int, now: float) -> None:
        """Ray Train starts so many processes."""
        self.launched, self.is_wanted, self._grow_at = workers, False, now + _GROW_AFTER_S

    def look(self, living: Sequence[Member], current: Sequence[Member], seen: Surroundings) -> None:
        """See who drains, and whether all should stop; `current` are the members that train."""
        since, self._looked_at, self._room = self._looked_at or seen.at, seen.at, seen.room
        for member in living:
            member.is_draining = member.joined.node_id in seen.draining
        drains = [member for member in current if member.is_draining]
        may_move = self.driver_node not in seen.draining and self._can_do_without_draining(living)
        for member in drains:
            self._tell(member, may_move, since, seen)
        wants_to = may_move if drains else bool(current) and self._can_grow(seen.at)
        self.is_wanted = self.is_wanted or (wants_to and seen.at >= self._not_before)

    def has_to_commit(self, current: Iterable[Member]) -> bool:
        """Whether something is to be committed before its node goes."""
        return self.is_wanted or any(
            m.is_draining and m.joined.node_id not in self._committed_nodes for m in current
        )

    def committed(self, step: int, current: Iterable[Member]) -> None:
        """A checkpoint is complete."""
        self.committed_step = max(self.committed_step, step)
        self._committed_nodes |= {m.joined.node_id for m in current if m.is_draining}

    def who_goes(self, ready: Sequence[Member], now: float) -> list[Member]:
        """All have stopped after a step; those to release, everybody where that is for a new launch.

        Nobody where the commit failed or the room is gone: then it is tried again some seconds later.
        """
        self.is_wanted = False
        goes = [member for member in ready if member.is_draining]
        if all((member.state_step or 0) <= self.committed_step for member in ready):
            if goes and len(ready) - len(goes) >= self.rules.needed:
                return goes
            if self._can_do_without_draining(ready) if goes else self._room > 0:
                return list(ready)
        self._not_before = now + _AGAIN_S
        return []

    def _can_do_without_draining(self, living: Iterable[Member]) -> bool:
        """Whether enough stay, or will after a new launch."""
        stays = sum(not member.is_draining for member in living)
        return stays + self._room >= self.rules.needed

    def _can_grow(self, now: float) -> bool:
        is_short = self.rules.may_shrink and 0 < self.launched < self.rules.slots
        return is_short and self._room > 0 and now >= self._grow_at

    def _tell(self, member: Member, may_move: bool, since: float, seen: Surroundings) -> None:
        """Once a node, and again when its workers can move after all."""
        node = member.joined.node_id
        if self._told.get(node) in (True, may_move):
            return
        self._told[node] = may_move
        told = f"Ray is about to take {member.joined.node_ip} away"
        drains = Signal.NODE_DRAINING
        self.judge(Incident(drains, member, told, since, seen.at, seen.generation, may_move=may_move))

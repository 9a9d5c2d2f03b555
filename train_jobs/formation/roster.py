"""Which workers are there, how they are, and who trains with whom: the coordinator's state, without Ray.

Every method takes the time; what has to be done about the world comes back from `tick` as effects.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import Any

from cluster.errors import LinnetError
from cluster.recovery.classes import Signal
from train_jobs.formation.crew import (
    Effect,
    Form,
    Incident,
    Judge,
    Kill,
    Member,
    Moved,
    Rules,
    Verdict,
    seated,
)
from train_jobs.formation.leaving import Leaving, Surroundings
from train_jobs.formation.messages import Beat, Formation, Joined, Orders, Phase, Source

__all__ = ["Form", "Incident", "Kill", "Member", "Moved", "Roster", "Rules", "Verdict"]

_GATHERING_S = 10.0
_PATIENCE = 5.0
_ALONE = 3.0
_BEAT_LIMIT_SHARE = 0.5
# A process that imports on a busy machine may be silent for this long.
_LEAST_SILENCE_S = 4.0
_ASK_THE_NODE_AFTER_S = 2.0
# Storage that refuses is tried again for minutes, and a large checkpoint takes some to write.
_AT_STORAGE_S = 1800.0


@dataclass
class Roster:
    """The members of a run. `judge` decides about incidents and keeps their receipts.

    `unreachable` are nodes of which nothing answers; `relaunching`: all were released, and new processes
    will come.
    """

    rules: Rules
    store: tuple[str, int]
    judge: Judge
    first_attempt: int = 1
    driver_node: str = ""
    committed_step: InitVar[int] = 0
    members: dict[str, Member] = field(default_factory=dict)
    formation: Formation | None = None
    is_formed: bool = False
    ended: LinnetError | bool = False
    relaunching: bool = False
    unreachable: set[str] = field(default_factory=set)
    _rollback: bool = False
    _is_proof_due: bool = False
    _not_before: float = 0.0
    _first_ready_at: float | None = None
    _dissolved_at: float = 0.0
    _divisor: int = 1
    _longest_mark_s: float = 0.0
    _unexplained: str = ""
    _gathers: bool = True
    _effects: list[Effect] = field(default_factory=list)

    def __post_init__(self, committed_step: int) -> None:
        self.leaving = Leaving(self.rules, self.judge, self.driver_node, committed_step=committed_step)

    @property
    def generation(self) -> int:
        """Number of the newest formation; 0 before the first."""
        return self.formation.generation if self.formation else 0

    @property
    def is_full(self) -> bool:
        """Whether a formation at full strength stands."""
        return self.is_formed and self.formation is not None and self.formation.size == self.rules.slots

    def current(self) -> list[Member]:
        """The living members of the newest formation."""
        names = self.formation.workers if self.formation else ()
        return [self.members[name] for name in names if not self.members[name].is_dead]

    def spare(self) -> int:
        """How many warm workers wait to take the place of another."""
        names = self.formation.workers if self.formation else ()
        waiting = [m for m in self._ready_members() if not m.is_draining]
        return sum(member.joined.worker not in names for member in waiting)

    def launched(self, workers: int, now: float) -> None:
        """Ray Train starts so many processes; those of a launch before have ended."""
        if self.relaunching:
            for member in self.members.values():
                member.release()
        self.relaunching, self._gathers, self._first_ready_at = False, True, None
        self.leaving.start(workers, now)

    def has_left(self, worker: str) -> bool:
        """Whether a worker has nothing more to do here."""
        member = self.members.get(worker)
        return self.relaunching or (member is not None and member.was_released)

    def join(self, joined: Joined, now: float) -> None:
        """A worker is warm; whoever had its rank before is gone."""
        for other in list(self.members.values()):
            if other.joined.rank == joined.rank and not other.is_dead:
                self.lost(
                    other.joined.worker, Signal.PROCESS_EXIT, "its place was taken by another process", now
                )
        self.members[joined.worker] = Member(joined, now, now)

    def ready(self, worker: str, state_step: int | None, now: float) -> None:
        """A worker waits for a formation, with its state at `state_step`; whoever was in one has left it."""
        if self.formation and worker in self.formation.workers:
            self._dissolve(now)
        member = self.members[worker]
        member.is_ready, member.state_step, member.last_mark_at = True, state_step, now
        member.left_in = self.generation
        if self._first_ready_at is None:
            self._first_ready_at = now

    def beat(self, beat: Beat, now: float) -> Orders:
        """Take a sign of life and answer it."""
        member = self.members.get(beat.worker)
        if member is not None and not member.is_dead:
            if member.beat is None or beat.marks != member.beat.marks:
                if member.beat is not None and beat.phase is member.beat.phase is Phase.COMPUTING:
                    self._longest_mark_s = max(self._longest_mark_s, now - member.last_mark_at)
                member.last_mark_at = now
            member.beat, member.last_beat_at = beat, now
        return self.orders(beat)

    def orders(self, beat: Beat) -> Orders:
        """What whoever gave this sign of life is to do."""
        member = self.members.get(beat.worker)
        if member is None or member.is_dead:
            return Orders(dissolved=True, regroup=False, commit_now=False)
        old = beat.generation < self.generation or not self.is_formed
        return Orders(
            dissolved=beat.generation > 0 and (old or bool(self.ended)),
            regroup=self.is_formed and (self.leaving.is_wanted or self._has_room_for_another()),
            commit_now=self.leaving.has_to_commit(self.current()),
        )

    def lost(self, worker: str, signal: Signal, detail: str, now: float) -> None:
        """A worker is gone, or is treated as gone."""
        member = self.members.get(worker)
        if member is None or member.is_dead:
            return
        member.is_dead, member.is_ready = True, False
        is_told = member.raised_in == self.generation
        if self.formation and worker in self.formation.workers and not self.ended and not is_told:
            self._incident(signal, member, detail, now)

    def broken(self, worker: str, generation: int, text: str, now: float) -> None:
        """A member's exchange failed; who is to blame shows by who does not come back."""
        if self.is_formed and generation == self.generation:
            self._dissolve(now)
            self._unexplained = text

    def raised(self, worker: str, signal: Signal, detail: str, now: float, **known: Any) -> None:
        """A member's own program failed; it stays, and waits for the next formation.

        `known` are further fields of the incident.
        """
        member = self.members.get(worker)
        if member and self.formation and worker in self.formation.workers and not self.ended:
            member.raised_in = self.generation
            self._incident(signal, member, detail, now, **known)

    def draining(self, nodes: set[str], room: int, now: float) -> None:
        """Nodes that Ray is about to take away, and how many more workers the others have room for."""
        if self.is_formed and not self.ended:
            living = [member for member in self.members.values() if not member.is_dead]
            seen = Surroundings(nodes, room, self.generation, now)
            self.leaving.look(living, self.current(), seen)

    def committed(self, step: int) -> None:
        """A checkpoint is complete: what drains may go."""
        self.leaving.committed(step, self.current())

    def silent_nodes(self, now: float) -> set[str]:
        """Nodes whose answer would tell whether a member of theirs hangs or is cut off."""
        return {m.joined.node_id for m in self.current() if now - m.last_beat_at > _ASK_THE_NODE_AFTER_S}

    def end(self, error: LinnetError | None) -> None:
        """Nothing more is to be done."""
        self.ended = self.ended or error or True

    def tick(self, now: float) -> list[Effect]:
        """Look after everybody; the effects are for the caller to carry out, once each."""
        if not self.ended and not self.relaunching:
            self._watch(now)
            self._form(now)
        effects, self._effects = self._effects, []
        return effects

    def _watch(self, now: float) -> None:
        limit = max(self.rules.hang_timeout_s, _PATIENCE * self._longest_mark_s)
        for member in self.current():
            silent, is_cut_off = now - member.last_beat_at, member.joined.node_id in self.unreachable
            share = 0.0 if is_cut_off else _BEAT_LIMIT_SHARE
            if silent > max(self.rules.hang_timeout_s * share, _LEAST_SILENCE_S):
                where = ", nor of its node" if is_cut_off else ""
                told = f"no sign of life for {silent:.1f} s{where}"
                self._take_out(member, Signal.NO_HEARTBEAT, told, now)
            elif not self.is_formed and not member.is_ready and self._is_stuck(member, limit, now):
                stuck = f"did not leave the broken formation for {now - self._dissolved_at:.1f} s"
                self._take_out(member, Signal.NO_PROGRESS, stuck, now)
        if self.is_formed:
            self._watch_progress(limit, now)

    def _is_stuck(self, member: Member, limit: float, now: float) -> bool:
        """Whether a member does nothing any more, though its formation is over."""
        return now - max(self._dissolved_at, member.last_mark_at) > _allowed(member, limit)

    def _watch_progress(self, limit: float, now: float) -> None:
        """Who computes while all others have waited longer than `limit` is hung; alone, thrice that."""
        members = self.current()
        waiting = [m for m in members if m.phase is Phase.EXCHANGING]
        busy = [m for m in members if m.phase is not Phase.EXCHANGING]
        if any(now - m.last_mark_at <= limit for m in members):
            return
        if not busy and len(waiting) > 1:
            self._incident(Signal.COLLECTIVE_ERROR, None, f"an exchange did not end in {limit:.0f} s", now)
        for member in busy:
            spent = now - member.last_mark_at
            if spent > _allowed(member, limit if waiting else _ALONE * limit):
                detail = (
                    f"{member.phase.value} in step {member.beat.step if member.beat else 0} for {spent:.1f} s"
                )
                self._take_out(member, Signal.NO_PROGRESS, detail, now, peers_waiting=len(waiting))

    def _take_out(
        self, member: Member, signal: Signal, detail: str, now: float, peers_waiting: int = 0
    ) -> None:
        member.is_dead, member.is_ready = True, False
        self._effects.append(Kill(member, with_stack=True))
        answers = False if member.joined.node_id in self.unreachable else None
        self._incident(signal, member, detail, now, peers_waiting=peers_waiting, node_answers=answers)

    def _incident(self, signal: Signal, victim: Member | None, detail: str, now: float, **known: Any) -> None:
        """Stop, and have it judged; `known` are further fields of the incident."""
        last_sign = min(victim.last_mark_at if victim else now, now)
        self._dissolve(now)
        self._unexplained = ""
        self._rollback = self._rollback or not self.rules.keep_state
        self._is_proof_due = self.rules.prove
        verdict = self.judge(Incident(signal, victim, detail, last_sign, now, self.generation, **known))
        self._not_before = max(self._not_before, now + verdict.wait_s)
        if verdict.shrink_microbatch and self.formation:
            # However many members had no room for one microbatch.
            self._divisor = 2 * self.formation.microbatch_divisor
        if verdict.stop:
            self.end(verdict.stop)

    def _dissolve(self, now: float) -> None:
        if self.is_formed:
            self._dissolved_at = now
        self.is_formed = False

    def _ready_members(self) -> list[Member]:
        ready = [m for m in self.members.values() if m.is_ready and not m.is_dead]
        return sorted(ready, key=lambda m: (m.is_draining, m.state_step is None, m.joined.rank))

    def _has_room_for_another(self) -> bool:
        extra = [m for m in self._ready_members() if not m.is_draining]
        return bool(self.formation and self.formation.size < self.rules.slots and extra)

    def _form(self, now: float) -> None:
        if self.is_formed or now < self._not_before or any(not m.is_ready for m in self.current()):
            return
        if self._unexplained:
            self._incident(Signal.COLLECTIVE_ERROR, None, self._unexplained, now)
            return
        if self.leaving.is_wanted and self._leave(now):
            return
        chosen = self._ready_members()[: self.rules.slots]
        if len(chosen) < self.rules.slots and not self._may_form_short(len(chosen), now):
            return
        # Whoever led before leads again: it knows what it has committed.
        before = self.formation.workers if self.formation else ()
        chosen.sort(
            key=lambda m: (
                before.index(m.joined.worker) if m.joined.worker in before else len(before),
                m.joined.rank,
            )
        )
        if self.rules.keep_places:
            chosen = seated(chosen, before)
        steps = [-1 if m.state_step is None else m.state_step for m in chosen]
        from_peer = max(steps) >= 0 and not self._rollback
        formation = Formation(
            generation=self.generation + 1,
            attempt=self.first_attempt + self.generation,
            workers=tuple(m.joined.worker for m in chosen),
            store=self.store,
            source=Source.PEER if from_peer else Source.CHECKPOINT,
            source_rank=steps.index(max(steps)) if from_peer else 0,
            microbatch_divisor=self._divisor,
            prove=from_peer and self._is_proof_due,
        )
        for member in chosen:
            member.is_ready, member.last_mark_at = False, now
        self.formation, self.is_formed, self._rollback = formation, True, False
        self._is_proof_due = False
        self._gathers = False
        self._effects.append(Form(formation))

    def _may_form_short(self, count: int, now: float) -> bool:
        if not self._gathers:
            return count >= self.rules.min_live
        if count < self.rules.min_workers or not self.rules.may_shrink:
            return False
        if 0 < self.leaving.launched <= count:
            return True
        return self._first_ready_at is not None and now - self._first_ready_at > _GATHERING_S

    def _leave(self, now: float) -> bool:
        """Everybody has stopped after a step; True when nobody is to train on in this launch."""
        ready = self._ready_members()
        goes = self.leaving.who_goes(ready, now)
        for member in goes:
            member.release()
        self.relaunching = bool(goes) and len(goes) == len(ready)
        if goes:
            # Where survivors go back to the newest commit, that is the step at which they are.
            self._rollback = self._rollback or not self.rules.keep_state
            self._effects.append(Moved())
        return self.relaunching


def _allowed(member: Member, limit: float) -> float:
    """For how long a member may get nothing done; one that is at storage, as long as storage takes."""
    return max(limit, _AT_STORAGE_S) if member.phase.is_at_storage else limit

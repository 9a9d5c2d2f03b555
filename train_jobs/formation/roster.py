"""Which workers are there, how they are, and who trains with whom: the coordinator's state, without Ray.

Every method takes the time; what has to be done about the world comes back from `tick` as effects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from cluster.errors import LinnetError
from cluster.recovery.classes import Signal
from train_jobs.formation.messages import Beat, Formation, Joined, Orders, Phase, Source

_GATHERING_S = 10.0
_SLOWER = 1.8
_SLOWER_BY_S = 0.2
_SLOW_STEPS = 5
_PATIENCE = 5.0
_ALONE = 3.0
_BEAT_LIMIT_SHARE = 0.5
# A process that imports on a busy machine may be silent for this long.
_LEAST_SILENCE_S = 4.0


@dataclass(frozen=True)
class Rules:
    """What the spec says of who trains. `may_shrink`: fewer than `slots` go on without waiting."""

    slots: int
    min_workers: int
    may_shrink: bool
    keep_state: bool
    hang_timeout_s: float


@dataclass
class Member:
    """A worker as the coordinator knows it.

    `state_step` is the step its own state is at, if it has any; `raised_in` the generation in which its
    program failed, after which its end is no news.
    """

    joined: Joined
    last_beat_at: float
    last_mark_at: float
    beat: Beat | None = None
    is_ready: bool = False
    is_dead: bool = False
    is_draining: bool = False
    state_step: int | None = None
    raised_in: int = 0
    slow_steps: int = 0
    judged_step: int = 0
    was_named: bool = False

    @property
    def phase(self) -> Phase:
        """What it says it is doing."""
        return self.beat.phase if self.beat else Phase.WARMING


@dataclass(frozen=True)
class Incident:
    """Something went wrong with a formation; `victim` is None when nobody is to blame."""

    signal: Signal
    victim: Member | None
    detail: str
    last_sign_at: float
    at: float
    generation: int
    peers_waiting: int = 0


@dataclass(frozen=True)
class Verdict:
    """What is to be done about an incident."""

    wait_s: float = 0.0
    stop: LinnetError | None = None
    shrink_microbatch: bool = False


@dataclass(frozen=True)
class Kill:
    """End a worker that does not answer, after its stack has been taken down where `with_stack`."""

    member: Member
    with_stack: bool


@dataclass(frozen=True)
class Form:
    """A new formation is to be announced."""

    formation: Formation


Effect = Kill | Form
Judge = Callable[[Incident], Verdict]


@dataclass
class Roster:
    """The members of a run. `judge` decides about incidents and keeps their receipts."""

    rules: Rules
    store: tuple[str, int]
    judge: Judge
    first_attempt: int = 1
    members: dict[str, Member] = field(default_factory=dict)
    formation: Formation | None = None
    is_formed: bool = False
    ended: LinnetError | bool = False
    _rollback: bool = False
    _not_before: float = 0.0
    _first_ready_at: float | None = None
    _dissolved_at: float = 0.0
    _divisor: int = 1
    _longest_mark_s: float = 0.0
    _unexplained: str = ""
    _drained: set[str] = field(default_factory=set)
    _effects: list[Effect] = field(default_factory=list)

    @property
    def generation(self) -> int:
        """Number of the newest formation; 0 before the first."""
        return self.formation.generation if self.formation else 0

    def current(self) -> list[Member]:
        """The living members of the newest formation."""
        names = self.formation.workers if self.formation else ()
        return [self.members[name] for name in names if not self.members[name].is_dead]

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
        if self._first_ready_at is None:
            self._first_ready_at = now

    def beat(self, beat: Beat, now: float) -> Orders:
        """Take a sign of life and answer it."""
        member = self.members.get(beat.worker)
        if member is None or member.is_dead:
            return Orders(dissolved=True, regroup=False, commit_now=False)
        if member.beat is None or beat.marks != member.beat.marks:
            if member.beat is not None and beat.phase is member.beat.phase is Phase.COMPUTING:
                self._longest_mark_s = max(self._longest_mark_s, now - member.last_mark_at)
            member.last_mark_at = now
        member.beat, member.last_beat_at = beat, now
        old = beat.generation < self.generation or not self.is_formed
        return Orders(
            dissolved=beat.generation > 0 and (old or bool(self.ended)),
            regroup=self.is_formed and self._has_room_for_another(),
            commit_now=any(m.is_draining and m.joined.node_id not in self._drained for m in self.current()),
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

    def raised(self, worker: str, signal: Signal, detail: str, now: float) -> None:
        """A member's own program failed; it stays, and waits for the next formation."""
        member = self.members.get(worker)
        if member and self.formation and worker in self.formation.workers and not self.ended:
            member.raised_in = self.generation
            self._incident(signal, member, detail, now)

    def draining(self, nodes: set[str]) -> None:
        """Nodes that Ray is about to take away."""
        for member in self.members.values():
            member.is_draining = member.joined.node_id in nodes

    def committed(self) -> None:
        """A checkpoint is complete: what drains may go."""
        self._drained |= {m.joined.node_id for m in self.current() if m.is_draining}

    def end(self, error: LinnetError | None) -> None:
        """Nothing more is to be done."""
        self.ended = self.ended or error or True

    def tick(self, now: float) -> list[Effect]:
        """Look after everybody; the effects are for the caller to carry out, once each."""
        if not self.ended:
            self._watch(now)
            self._form(now)
        effects, self._effects = self._effects, []
        return effects

    def _watch(self, now: float) -> None:
        limit = max(self.rules.hang_timeout_s, _PATIENCE * self._longest_mark_s)
        for member in self.current():
            silent = now - member.last_beat_at
            if silent > max(self.rules.hang_timeout_s * _BEAT_LIMIT_SHARE, _LEAST_SILENCE_S):
                self._take_out(member, Signal.NO_HEARTBEAT, f"no sign of life for {silent:.1f} s", now)
            elif not self.is_formed and not member.is_ready and now - self._dissolved_at > limit:
                stuck = f"did not leave the broken formation for {now - self._dissolved_at:.1f} s"
                self._take_out(member, Signal.NO_PROGRESS, stuck, now)
        if self.is_formed:
            self._watch_progress(limit, now)

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
            if waiting or spent > _ALONE * limit:
                detail = (
                    f"{member.phase.value} in step {member.beat.step if member.beat else 0} for {spent:.1f} s"
                )
                self._take_out(member, Signal.NO_PROGRESS, detail, now, peers_waiting=len(waiting))

    def _take_out(
        self, member: Member, signal: Signal, detail: str, now: float, peers_waiting: int = 0
    ) -> None:
        member.is_dead, member.is_ready = True, False
        self._effects.append(Kill(member, with_stack=True))
        self._incident(signal, member, detail, now, peers_waiting)

    def slow_member(self) -> tuple[Member, float] | None:
        """A member that computes much longer than the others step after step, told once; how many times."""
        times = {m.joined.worker: m.beat.compute_s for m in self.current() if m.beat and m.beat.compute_s > 0}
        for member in self.current():
            others = [value for worker, value in times.items() if worker != member.joined.worker]
            step = member.beat.step if member.beat else 0
            if not others or step == member.judged_step:
                continue
            member.judged_step = step
            own, usual = times.get(member.joined.worker, 0.0), median(others)
            is_slow = own > _SLOWER * usual and own - usual > _SLOWER_BY_S
            member.slow_steps = member.slow_steps + 1 if is_slow else 0
            if member.slow_steps >= _SLOW_STEPS and not member.was_named:
                member.was_named = True
                return member, own / usual
        return None

    def _incident(
        self, signal: Signal, victim: Member | None, detail: str, now: float, peers_waiting: int = 0
    ) -> None:
        last_sign = victim.last_mark_at if victim else now
        self._dissolve(now)
        self._unexplained = ""
        self._rollback = self._rollback or not self.rules.keep_state
        verdict = self.judge(
            Incident(signal, victim, detail, min(last_sign, now), now, self.generation, peers_waiting)
        )
        self._not_before = max(self._not_before, now + verdict.wait_s)
        self._divisor *= 2 if verdict.shrink_microbatch else 1
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
        )
        for member in chosen:
            member.is_ready, member.last_mark_at = False, now
        self.formation, self.is_formed, self._rollback = formation, True, False
        self._effects.append(Form(formation))

    def _may_form_short(self, count: int, now: float) -> bool:
        if count < self.rules.min_workers or not self.rules.may_shrink:
            return False
        if self.formation is not None:
            return True
        return self._first_ready_at is not None and now - self._first_ready_at > _GATHERING_S

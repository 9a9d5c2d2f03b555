"""How the members of a formation come to one state, from a checkpoint or a peer, and the proof of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.manifest import LedgerHead
from train_jobs import checkpoint, ledger, optimizers, state
from train_jobs.certificate import Certificate, Verdict, compare
from train_jobs.formation.group import Group
from train_jobs.formation.messages import Formation, Source
from train_jobs.journal import Journal, Past, entry_of
from train_jobs.ledger import StepEntry
from train_jobs.loop import Mark, Wishes
from train_jobs.run_files import RunFiles
from train_jobs.trainee import Trainee


@dataclass(frozen=True)
class _State:
    """What the member that holds the state tells the others; the tensors follow.

    `expected` are the steps after `step` that an earlier attempt had done, which will be done again.
    """

    step: int
    scalars: dict[str, float | int]
    past: Past
    expected: dict[int, StepEntry] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


class Resuming:
    """One member's part in it. `head` is the end of the committed ledger, as rank 0 knows it."""

    def __init__(self, files: RunFiles, trainee: Trainee, journal: Journal) -> None:
        self._files, self._trainee, self._journal = files, trainee, journal
        self.head: LedgerHead | None = None
        self._restored = 0
        self._attempt = 0
        self._expected: dict[int, StepEntry] = {}
        self._replayed: list[int] = []
        self._is_open = False
        # A step as the ledger has it, and as it came out when it was repeated.
        self._rehearsed: tuple[StepEntry, StepEntry] | None = None

    def take_up(self, formation: Formation, group: Group, had_state: bool, mark: Mark) -> list[str]:
        """Come to the state that the formation goes on from; returns what was passed over on the way.

        Raises GroupLostError, and the LinnetError of a checkpoint that does not belong to this run.
        """
        source = formation.source_rank
        self._rehearsed = None
        if formation.source is Source.CHECKPOINT:
            self._rehearse(formation, group, mark)
        held = self._find(formation, had_state) if group.rank == source else None
        own = self._trainee.step if had_state and formation.source is Source.PEER else -1
        told = self._spread(held, group, source, own)
        self._journal.take_up(told.past)
        if formation.source is Source.PEER and group.rank == 0:
            self.head = _newest_head(self._files)
        self._begin_comparing(formation, told)
        return told.skipped

    def _spread(self, held: _State | None, group: Group, source: int, own: int) -> _State:
        """Everybody takes over the state of `source`, unless all have it."""
        told: _State = group.from_rank(source, held)
        if any(step != told.step for step in group.gather(own)):
            for tensor in state.tensors(self._trainee.model, self._trainee.optimizer):
                group.broadcast(tensor, source)
            optimizers.set_scalars(self._trainee.optimizer, told.scalars)
            self._trainee.loop.forget()
        self._trainee.step = told.step
        return told

    def _rehearse(self, formation: Formation, group: Group, mark: Mark) -> None:
        """Where nothing after the newest checkpoint was ever done, repeat the step after the one before it.

        That one is in the ledger, so that every restore is proven on a committed step.
        """
        held = self._find_rehearsal() if group.rank == 0 else None
        if not group.from_rank(0, held is not None):
            return
        told = self._spread(held, group, 0, -1)
        result = self._trainee.loop.run_step(told.step + 1, group, Wishes(), mark, rehearse=True)
        (recorded,) = told.expected.values()
        self._rehearsed = (recorded, entry_of(result, formation.attempt))

    def _find_rehearsal(self) -> _State | None:
        newest = checkpoint.discover(self._files).newest
        if newest is None or newest.manifest.ledger is None:
            return None
        step = newest.manifest.step
        if step + 1 in self._journal.read_witness(step):
            return None
        former = checkpoint.discover(self._files, before=step).newest
        segment = newest.manifest.ledger
        if former is None or former.manifest.step + 1 != segment.first_step:
            return None
        recorded = ledger.read_segment(self._files, segment).entries()[0]
        at = self._restore(former)
        return _State(
            at,
            optimizers.scalars(self._trainee.optimizer),
            Past([], [], []),
            expected={recorded.step: recorded},
        )

    def compare(self, entry: StepEntry) -> Certificate | None:
        """Hold a step against what an earlier attempt had made of it; the certificate once decided."""
        if not self._is_open:
            return None
        if self._trainee.loop.microbatch_divisor > 1:
            self._is_open = False
            return self._certificate(
                Verdict.NOTHING, note="microbatches are cut smaller, which draws otherwise"
            )
        if self._rehearsed is not None:
            self._is_open = False
            return self._judge_rehearsal(*self._rehearsed)
        recorded = self._expected.get(entry.step)
        if recorded is None:
            self._is_open = False
            return self._certificate(Verdict.EQUAL if self._replayed else Verdict.NOTHING)
        self._replayed.append(entry.step)
        difference = compare(recorded, entry)
        if difference is None and entry.step + 1 in self._expected:
            return None
        self._is_open = False
        return self._certificate(Verdict.UNEQUAL if difference else Verdict.EQUAL, difference or "")

    def _judge_rehearsal(self, recorded: StepEntry, again: StepEntry) -> Certificate:
        self._replayed = [recorded.step]
        difference = compare(recorded, again)
        return self._certificate(Verdict.UNEQUAL if difference else Verdict.EQUAL, difference or "")

    def _find(self, formation: Formation, had_state: bool) -> _State:
        trainee = self._trainee
        if formation.source is Source.PEER:
            return _State(trainee.step, optimizers.scalars(trainee.optimizer), self._journal.past())
        found = checkpoint.discover(self._files)
        checkpoint.sweep(self._files, formation.attempt)
        self.head = found.newest.manifest.ledger if found.newest else None
        if found.newest is None:
            if had_state or trainee.step > 0:
                trainee.warm()
            step = 0
        else:
            step = self._restore(found.newest)
        return _State(
            step,
            optimizers.scalars(trainee.optimizer),
            past=self._journal.past_at(step),
            expected=self._journal.read_witness(step),
            skipped=found.skipped,
        )

    def _restore(self, newest: checkpoint.Committed) -> int:
        position = state.restore(
            checkpoint.read(self._files.storage, newest),
            self._trainee.model,
            self._trainee.optimizer,
            data_fingerprint=self._trainee.dataset.fingerprint,
            base_sha256=self._trainee.base_sha256,
        )
        return position.step

    def _begin_comparing(self, formation: Formation, told: _State) -> None:
        self._restored, self._attempt = told.step, formation.attempt
        self._expected, self._replayed = told.expected, []
        began_anew = told.step == 0 and not told.expected
        self._is_open = formation.source is Source.CHECKPOINT and not began_anew

    def _certificate(self, verdict: Verdict, difference: str = "", note: str = "") -> Certificate:
        if verdict is Verdict.NOTHING and not note:
            note = f"nothing after step {self._restored} had been done before"
        return Certificate(
            attempt=self._attempt,
            restored_step=self._restored,
            replayed_steps=list(self._replayed),
            verdict=verdict,
            difference=difference,
            note=note,
        )


def _newest_head(files: RunFiles) -> LedgerHead | None:
    steps = checkpoint.committed_steps(files)
    return checkpoint.manifest_of(files, steps[-1]).ledger if steps else None

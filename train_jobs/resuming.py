"""How the members of a formation come to one state, from a checkpoint or a peer, and the proof of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cluster.errors import IntegrityError, NotFoundError, StorageError
from cluster.manifest import LedgerHead
from train_jobs import checkpoint, ledger, optimizers, state
from train_jobs.certificate import Certificate, Verdict, compare
from train_jobs.formation.group import Group
from train_jobs.formation.messages import Formation, Phase, Source
from train_jobs.journal import Journal, Past, entry_of
from train_jobs.ledger import StepEntry
from train_jobs.loop import Mark, Wishes
from train_jobs.run_files import RunFiles
from train_jobs.state import Kept
from train_jobs.trainee import Trainee

_CUT_OTHERWISE = "its microbatches were of another size, which draws and rounds otherwise"


@dataclass(frozen=True)
class _State:
    """What the member that holds the state tells the others; the tensors follow.

    `expected` are the steps after `step` that an earlier attempt had done, which will be done again.
    `is_base`: nothing was trained yet.
    """

    step: int
    scalars: dict[str, float | int]
    past: Past
    expected: dict[int, StepEntry] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    is_base: bool = False


class Resuming:
    """One member's part in it. `head` is the end of the committed ledger, as rank 0 knows it.

    `has_state` tells, also after an exception, whether this member has a step's whole state: its own from
    before, for as long as nothing of another one was put in its place, or the one that it came to.
    """

    def __init__(self, files: RunFiles, trainee: Trainee, journal: Journal) -> None:
        self._files, self._trainee, self._journal = files, trainee, journal
        self.head: LedgerHead | None = None
        self.has_state = False
        self._restored = 0
        self._attempt = 0
        self._may_be_trained = False
        self._expected: dict[int, StepEntry] = {}
        self._replayed: list[int] = []
        self._is_open = False
        # A step as the ledger has it, and as it came out when it was repeated.
        self._rehearsed: tuple[StepEntry, StepEntry] | None = None
        self._skipped: list[str] = []
        self._no_proof = ""

    def take_up(self, formation: Formation, group: Group, had_state: bool, mark: Mark) -> list[str]:
        """Come to the state that the formation goes on from; returns what was passed over on the way.

        Raises GroupLostError, and the LinnetError of a checkpoint that does not belong to this run.
        """
        source, from_peer = formation.source_rank, formation.source is Source.PEER
        self.has_state = had_state and from_peer and not self._trainee.layout.is_sharded
        self._rehearsed, self._skipped, self._no_proof = None, [], ""
        self._may_be_trained = had_state or self._trainee.step > 0
        if formation.prove:
            with self._set_aside(had_state):
                self._rehearse(formation, group, mark)
        elif not from_peer:
            self._rehearse(formation, group, mark)
        held = self._find(formation) if group.rank == source else None
        own = self._trainee.step if had_state and from_peer else -1
        told = self._spread(held, group, source, own)
        self.has_state = True
        self._journal.take_up(told.past)
        if from_peer and group.rank == 0:
            checkpoint.sweep(self._files, formation.attempt)
            self.head = ledger.head_of(self._files, self._first_pending() - 1, told.step)
        self._begin_comparing(formation, told)
        return told.skipped or self._skipped

    def _spread(self, held: _State | None, group: Group, source: int, own: int) -> _State:
        """Everybody takes over the state of `source`, unless all have it."""
        told: _State = group.from_rank(source, held)
        trainee = self._trainee
        if any(step != told.step for step in group.gather(own)):
            # Who is at that step already is given what it has, bit for bit.
            self.has_state = self.has_state and own == told.step
            if trainee.layout.is_sharded and told.is_base:
                # Nobody has all of it to send, and everybody can read it.
                if group.rank != source and self._may_be_trained:
                    trainee.begin_anew()
            else:
                trainee.layout.spread(group, source)
            optimizers.set_scalars(trainee.layout.optimizer, told.scalars)
            trainee.loop.forget()
        trainee.step = told.step
        return told

    @contextmanager
    def _set_aside(self, had_state: bool) -> Iterator[None]:
        """Let another state take the place of this member's own, which it has again afterwards."""
        trainee = self._trainee
        if not had_state:
            yield
            return
        step, scalars = trainee.step, optimizers.scalars(trainee.layout.optimizer)
        kept = Kept(trainee.layout)
        try:
            yield
        finally:
            kept.put_back()
            optimizers.set_scalars(trainee.layout.optimizer, scalars)
            trainee.loop.forget()
            trainee.step, self.has_state = step, True

    def _rehearse(self, formation: Formation, group: Group, mark: Mark) -> None:
        """Repeat one step that is on record, so that every failure ends with a proof.

        That is the step after the newest checkpoint, or, where it was never done, the one after the
        checkpoint before. State from a checkpoint is proven by the former as training goes on.
        """
        held = self._find_rehearsal_if_readable(formation) if group.rank == 0 else None
        if not group.from_rank(0, held is not None):
            return
        told = self._spread(held, group, 0, -1)
        (recorded,) = told.expected.values()
        ceiling = -math.inf if recorded.skipped else math.inf
        result = self._trainee.loop.run_step(recorded.step, group, Wishes(), mark, ceiling=ceiling)
        self._rehearsed = (recorded, entry_of(result, formation.attempt))
        mark(Phase.RESTORING, told.step)

    def _find_rehearsal_if_readable(self, formation: Formation) -> _State | None:
        """Survivors have all that they need: what cannot be read costs them the proof, not their time."""
        try:
            return self._find_rehearsal(formation)
        except (StorageError, NotFoundError, IntegrityError) as error:
            if not formation.prove:
                raise
            self._no_proof = f"nothing to repeat could be read: {error.message}"
            return None

    def _find_rehearsal(self, formation: Formation) -> _State | None:
        found = checkpoint.discover(self._files)
        self._skipped, newest = found.skipped, found.newest
        if newest is None or newest.manifest.ledger is None:
            return None
        step = newest.manifest.step
        witnessed = self._journal.read_witness(step).get(step + 1)
        if witnessed is not None:
            return self._rehearsal(newest, witnessed) if formation.prove else None
        former = checkpoint.discover(self._files, before=step).newest
        segment = newest.manifest.ledger
        if former is None or former.manifest.step + 1 != segment.first_step:
            return None
        try:
            recorded = ledger.read_segment(self._files, segment).entries()[0]
        except (NotFoundError, IntegrityError) as error:
            self._no_proof = f"nothing to repeat could be read: {error.message}"
            return None
        return self._rehearsal(former, recorded)

    def _rehearsal(self, begin: checkpoint.Committed, recorded: StepEntry) -> _State:
        at = self._restore(begin)
        return _State(
            at,
            optimizers.scalars(self._trainee.layout.optimizer),
            Past([], [], []),
            expected={recorded.step: recorded},
        )

    def judge_rehearsal(self) -> Certificate | None:
        """The certificate of the step that was repeated before training goes on, if one was."""
        if self._no_proof:
            return self._certificate(Verdict.NOTHING, note=self._no_proof)
        if self._rehearsed is None:
            return None
        recorded, again = self._rehearsed
        if self._was_cut_otherwise(recorded):
            return self._certificate(Verdict.NOTHING, note=_CUT_OTHERWISE)
        self._replayed.append(recorded.step)
        return self._compared(compare(recorded, again))

    def compare(self, entry: StepEntry) -> Certificate | None:
        """Hold a step against what an earlier attempt had made of it; the certificate once decided."""
        if not self._is_open:
            return None
        recorded = self._expected.get(entry.step)
        if recorded is None or self._was_cut_otherwise(recorded):
            self._is_open = False
            if self._replayed:
                return self._compared(None)
            return self._certificate(Verdict.NOTHING, note=_CUT_OTHERWISE if recorded else "")
        self._replayed.append(entry.step)
        difference = compare(recorded, entry)
        if difference is None and entry.step + 1 in self._expected:
            return None
        self._is_open = False
        return self._compared(difference)

    def _compared(self, difference: str | None) -> Certificate:
        return self._certificate(Verdict.UNEQUAL if difference else Verdict.EQUAL, difference or "")

    def _was_cut_otherwise(self, recorded: StepEntry) -> bool:
        """Whether a step was computed in smaller or larger microbatches than it would be now."""
        loop, rows = self._trainee.loop, self._trainee.spec.per_device_train_batch_size
        if recorded.draws == loop.draws(recorded.step, loop.microbatch_divisor):
            return False
        divisors = [2**power for power in range(rows.bit_length() + 1)]
        return any(recorded.draws == loop.draws(recorded.step, divisor) for divisor in divisors)

    def _find(self, formation: Formation) -> _State:
        trainee = self._trainee
        if formation.source is Source.PEER:
            return _State(trainee.step, optimizers.scalars(trainee.layout.optimizer), self._journal.past())
        found = checkpoint.discover(self._files)
        checkpoint.sweep(self._files, formation.attempt)
        self.head = found.newest.manifest.ledger if found.newest else None
        if found.newest is None:
            if self._may_be_trained:
                trainee.begin_anew()
            step = 0
        else:
            step = self._restore(found.newest)
        return _State(
            step,
            optimizers.scalars(trainee.layout.optimizer),
            past=self._journal.past_at(step),
            expected=self._journal.read_witness(step),
            skipped=found.skipped,
            is_base=found.newest is None,
        )

    def _restore(self, newest: checkpoint.Committed) -> int:
        position = state.restore(
            checkpoint.read(self._files.storage, newest),
            self._trainee.layout,
            data_fingerprint=self._trainee.dataset.fingerprint,
            base_sha256=self._trainee.base_sha256,
        )
        return position.step

    def _first_pending(self) -> int:
        pending = self._journal.pending()
        return pending[0].step if pending else self._trainee.step + 1

    def _begin_comparing(self, formation: Formation, told: _State) -> None:
        self._restored, self._attempt = told.step, formation.attempt
        self._expected, self._replayed = told.expected, []
        began_anew = told.step == 0 and not told.expected
        restored = formation.source is Source.CHECKPOINT and not began_anew
        # Survivors whose run has no commit yet had nothing to restore, and nothing to prove it by.
        self._is_open = restored and self._rehearsed is None and not self._no_proof

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

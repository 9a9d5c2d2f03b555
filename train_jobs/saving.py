"""Saving as rank 0: the step is held for a copy, everything else happens beside the training."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cluster.config import Settings
from cluster.errors import LinnetError, StorageError
from cluster.manifest import LedgerHead
from cluster.registry import ModelStore
from cluster.retry import Retry
from train_jobs import checkpoint, ledger, retention, state
from train_jobs.checkpoint import Committed
from train_jobs.formation.messages import Formation
from train_jobs.ledger import StepEntry
from train_jobs.run_files import RunFiles
from train_jobs.spec import TrainSpec
from train_jobs.state import Position
from train_jobs.trainee import Trainee
from train_jobs.writer import Writer

_LOG = logging.getLogger("train_jobs")
_WITNESS_TIMEOUT_S = 60.0
_DRAIN_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class _Due:
    """One save besides the copy of the state."""

    position: Position
    entries: list[StepEntry]
    formation: Formation
    metrics: dict[str, float]
    dataset_size: int


class Saver:
    """One worker's checkpoints, while it is rank 0. `head` is the end of the committed ledger."""

    def __init__(
        self,
        spec: TrainSpec,
        settings: Settings,
        files: RunFiles,
        on_committed: Callable[[int], None],
    ) -> None:
        self._spec, self._files, self._on_committed = spec, files, on_committed
        self._store = ModelStore.open(settings)
        self._writer = Writer()
        # A checkpoint is completed when the step after it is on record, so that whoever restores it can
        # repeat a step and compare (the resume certificate).
        self._witnessed = threading.Event()
        self.head: LedgerHead | None = None

    @property
    def committed_step(self) -> int:
        """The newest checkpoint's step."""
        return self.head.last_step if self.head else 0

    def save(
        self,
        trainee: Trainee,
        pending: Sequence[StepEntry],
        formation: Formation,
        eval_loss: float | None,
        *,
        at_once: bool,
    ) -> None:
        """Copy the state after the last of the `pending` steps, and have it written.

        `at_once`: completed without waiting for a step after it. Raises the LinnetError of the save before
        this one.
        """
        last = pending[-1]
        self.witnessed()
        self._writer.check()
        self._witnessed = witnessed = threading.Event()
        if at_once or trainee.step >= self._spec.max_steps:
            witnessed.set()
        snapshot = trainee.snapshots.take()
        due = _Due(
            position=self._position(trainee, last.learning_rate),
            entries=list(pending),
            formation=formation,
            metrics={"loss": last.loss} | ({} if eval_loss is None else {"eval_loss": eval_loss}),
            dataset_size=len(trainee.dataset),
        )
        rng = [state.rng()]

        def write() -> Committed:
            with snapshot:
                witnessed.wait(_WITNESS_TIMEOUT_S)
                return self._commit(state.encode(snapshot, due.position, rng), due)

        try:
            self._writer.submit(write)
        except BaseException:
            # The save before this one failed: a copy that nobody writes must not keep its memory.
            snapshot.release()
            raise

    def witnessed(self) -> None:
        """The step after the last save is on record."""
        self._witnessed.set()

    def settle(self) -> None:
        """Wait for a save that is under way; if it failed, the next one has its turn."""
        self.witnessed()
        self._writer.wait(None)
        with suppress(LinnetError):
            self._writer.check()

    def drain(self) -> None:
        """Wait for a save that is under way. Raises the LinnetError with which it failed."""
        self.witnessed()
        self._writer.drain(_DRAIN_TIMEOUT_S)

    def _position(self, trainee: Trainee, learning_rate: float) -> Position:
        return Position(
            step=trainee.step,
            samples_seen=trainee.step * self._spec.global_batch_size,
            seed=self._spec.seed,
            learning_rate=learning_rate,
            data_fingerprint=trainee.dataset.fingerprint,
            base_sha256=trainee.base_sha256,
            spec_sha256=self._spec.sha256,
        )

    def _commit(self, contents: dict[str, bytes | memoryview], due: _Due) -> Committed:
        retry, step = Retry(), due.position.step
        # Newer ones may lie there damaged, so that neither of these is the newest by its number.
        ours = frozenset({self.committed_step, step})
        pinned = ours | retry.call(lambda: retention.pinned_steps(self._store, self._spec.run))
        new = [entry for entry in due.entries if entry.step > self.committed_step]
        head = retry.call(
            lambda: ledger.write_segment(
                self._files, new, self.head, self._spec, dataset_size=due.dataset_size
            )
        )
        committed = checkpoint.commit(
            self._files,
            contents,
            step=step,
            attempt=due.formation.attempt,
            world_size=due.formation.size,
            metrics=due.metrics,
            ledger=head,
            make_room=lambda needed: retention.make_room(self._files, needed, pinned),
        )
        self.head = head
        self._on_committed(step)
        _LOG.info("step %d committed", step)
        self._prune(pinned)
        return committed

    def _prune(self, pinned: frozenset[int]) -> None:
        """What is not removed now is removed after the next commit."""
        try:
            for removed in retention.prune(self._files, self._spec, pinned):
                _LOG.info("removed the checkpoint of step %d: %s", removed.step, removed.reason)
        except StorageError as error:
            _LOG.warning("old checkpoints stay for now: %s", error.message)

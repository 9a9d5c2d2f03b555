"""Which checkpoints go: by count and by bytes, never the newest, the best, or what a version came from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config import StrictModel
from cluster.errors import IntegrityError, NotFoundError
from cluster.registry import ModelStore
from train_jobs import checkpoint
from train_jobs.run_files import RunFiles
from train_jobs.spec import TrainSpec

BEST_BY = "eval_loss"


@dataclass(frozen=True)
class Kept:
    """A committed checkpoint as retention sees it; `eval_loss` is None where nothing was evaluated."""

    step: int
    bytes: int
    eval_loss: float | None = None


@dataclass(frozen=True)
class Doomed:
    """A checkpoint that must go, and why."""

    step: int
    bytes: int
    reason: str


class Removal(StrictModel):
    """One line of retention.jsonl. `at` in unix seconds."""

    step: int
    reason: str
    bytes: int
    at: float


def doomed(
    checkpoints: Sequence[Kept], *, keep: int, max_bytes: int | None, pinned: frozenset[int]
) -> list[Doomed]:
    """What must go so that the newest `keep` are left, and at most `max_bytes` in all; oldest first.

    The newest, the best (lowest `eval_loss`, of equal ones the later) and the steps in `pinned` never go,
    even where the bytes then stay above the limit; they count towards both limits.
    """
    ordered = sorted(checkpoints, key=lambda kept: kept.step)
    safe = pinned | {kept.step for kept in ordered[-1:]} | _best(ordered)
    gone = [
        Doomed(kept.step, kept.bytes, f"older than the newest {keep}")
        for kept in ordered[:-keep]
        if kept.step not in safe
    ]
    if max_bytes is None:
        return gone
    steps = {going.step for going in gone}
    left = [kept for kept in ordered if kept.step not in steps]
    total = sum(kept.bytes for kept in left)
    for kept in left:
        if total > max_bytes and kept.step not in safe:
            gone.append(Doomed(kept.step, kept.bytes, f"{total} bytes in all, more than {max_bytes}"))
            total -= kept.bytes
    return sorted(gone, key=lambda going: going.step)


def prune(files: RunFiles, spec: TrainSpec, pinned: frozenset[int]) -> list[Doomed]:
    """Remove what `save_total_limit` and `save_total_bytes` leave no place for, and journal each removal.

    A checkpoint whose manifest does not read counts for nothing and goes once a newer one is there.
    """
    steps = checkpoint.committed_steps(files)
    if len(steps) <= spec.save_total_limit and spec.save_total_bytes is None:
        return []
    good, unreadable = _survey(files, steps)
    newest = max((kept.step for kept in good), default=0)
    gone = [Doomed(step, 0, "its manifest cannot be read") for step in unreadable if step < newest]
    gone += doomed(good, keep=spec.save_total_limit, max_bytes=spec.save_total_bytes, pinned=pinned)
    return _carry_out(files, gone)


def make_room(files: RunFiles, needed: int, pinned: frozenset[int]) -> list[Doomed]:
    """Remove the oldest checkpoints that may go until `needed` bytes are free, or none is left that may.

    What `checkpoint.commit` calls before it gives up for lack of room.
    """
    free = files.storage.free_bytes()
    if free is None or free >= needed:
        return []
    good, _ = _survey(files, checkpoint.committed_steps(files))
    left = max(0, sum(kept.bytes for kept in good) - (needed - free))
    candidates = doomed(good, keep=max(1, len(good)), max_bytes=left, pinned=pinned)
    why = f"a new checkpoint needs {needed} bytes and {free} are free"
    return _carry_out(files, [Doomed(going.step, going.bytes, why) for going in candidates])


def pinned_steps(store: ModelStore, run: str) -> frozenset[int]:
    """Steps of a run that a version in the store came from."""
    lineages = (manifest.lineage for manifest in store.versions())
    return frozenset(lineage.step for lineage in lineages if lineage is not None and lineage.run == run)


def best_step(files: RunFiles) -> int | None:
    """The step of the best checkpoint, which is never removed; None where none was evaluated."""
    good, _ = _survey(files, checkpoint.committed_steps(files))
    return next(iter(_best(good)), None)


def _best(checkpoints: Sequence[Kept]) -> set[int]:
    judged = [(kept.eval_loss, -kept.step) for kept in checkpoints if kept.eval_loss is not None]
    return {-min(judged)[1]} if judged else set()


def _survey(files: RunFiles, steps: Sequence[int]) -> tuple[list[Kept], list[int]]:
    good: list[Kept] = []
    unreadable: list[int] = []
    for step in steps:
        try:
            manifest = checkpoint.manifest_of(files, step)
        except IntegrityError:
            unreadable.append(step)
        except NotFoundError:
            continue
        else:
            good.append(Kept(step, manifest.total_bytes, manifest.metrics.get(BEST_BY)))
    return good, unreadable


def _carry_out(files: RunFiles, gone: Sequence[Doomed]) -> list[Doomed]:
    for going in gone:
        checkpoint.remove_step(files, going.step)
        removal = Removal(step=going.step, reason=going.reason, bytes=going.bytes, at=time.time())
        files.storage.append_line(f"{files.directory}/retention.jsonl", removal.model_dump_json().encode())
    return list(gone)

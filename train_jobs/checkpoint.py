"""Checkpoints of a run: written aside, committed by their manifest, discovered newest good first.

Ray Train keeps a snapshot of its own, which is written in place and cannot fall back; nothing
is resumed from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from cluster import manifest as manifests
from cluster.errors import ConflictError, IntegrityError, NotFoundError, StorageError
from cluster.manifest import CheckpointManifest, FileEntry, LedgerHead
from cluster.retry import Retry
from cluster.storage import Storage, fsync_dir
from train_jobs.run_files import RunFiles

SLACK = 64 * 1024**2
_RETRY = Retry()
_STEP = re.compile(r"^step_(?P<step>\d+)$")
_STAGING = re.compile(r"^\.staging_attempt_(?P<attempt>\d+)(_step_\d+(\.former)?)?$")


@dataclass(frozen=True)
class Committed:
    """A checkpoint that verified."""

    directory: str
    manifest: CheckpointManifest


@dataclass(frozen=True)
class Discovery:
    """The newest good checkpoint, if any, and a sentence for each newer one that was passed over."""

    newest: Committed | None
    skipped: list[str] = field(default_factory=list)


def commit(
    files: RunFiles,
    contents: Mapping[str, bytes | memoryview],
    *,
    step: int,
    attempt: int,
    world_size: int,
    metrics: Mapping[str, float],
    ledger: LedgerHead | None = None,
    retry: Retry = _RETRY,
    make_room: Callable[[int], object] | None = None,
) -> Committed:
    """Write `contents` (name to bytes) as the checkpoint of `step`, all of it or nothing.

    On a local root it grows under a staging name and is renamed when whole; on an object store the
    manifest alone, written last, makes it exist. Passing failures are tried again as `retry` says, going
    on with the file that failed. `make_room` is told how many bytes must be free when they are not.
    `contents` must not change before the return; metrics that are not finite are left out.

    Raises StorageError, `storage.full` before anything is written when there is less room than the files
    and `SLACK` bytes need; ConflictError `train.attempt_overtaken` when a later attempt has done the step.
    A commit that failed leaves nothing of its own behind and may be repeated.
    """
    _require_room(files.storage, sum(memoryview(data).nbytes for data in contents.values()), make_room)
    retry.call(lambda: _require_not_overtaken(files, step, attempt))
    manifest = CheckpointManifest(
        run=files.run,
        step=step,
        attempt=attempt,
        world_size=world_size,
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        ledger=ledger,
        files={},
    )
    return _Commit(files, manifest, contents).carry_out(retry)


def discover(files: RunFiles, before: int | None = None) -> Discovery:
    """Find the newest checkpoint whose every byte verifies, of a step below `before` where given.

    Nothing older than the one found is read. One that retention takes away meanwhile is looked past.
    """
    skipped: list[str] = []
    seen: set[int] = set()
    # What is taken away while older ones are examined was replaced by newer ones: list again.
    while unseen := [step for step in _steps(files, before) if step not in seen]:
        for step in reversed(unseen):
            found = _examine(files, step)
            if isinstance(found, Committed):
                return Discovery(found, skipped)
            seen.add(step)
            skipped += [found] if found else []
    return Discovery(None, skipped)


def read(storage: Storage, checkpoint: Committed) -> dict[str, bytes]:
    """The checkpoint's files by name."""
    return {name: storage.read_bytes(f"{checkpoint.directory}/{name}") for name in checkpoint.manifest.files}


def manifest_of(files: RunFiles, step: int) -> CheckpointManifest:
    """The manifest of a step's checkpoint, its files unverified.

    Raises NotFoundError when there is none and IntegrityError when it does not parse.
    """
    return manifests.read(files.storage, _directory(files, step), CheckpointManifest)


def at_step(files: RunFiles, step: int) -> Committed:
    """A step's checkpoint, every byte verified. Raises IntegrityError `train.checkpoint_bad` otherwise."""
    found = _examine(files, step)
    if isinstance(found, Committed):
        return found
    raise IntegrityError(
        found or f"The checkpoint of step {step} of `{files.run}` is not there any more.",
        code="train.checkpoint_bad",
        hint="`load_best_model_at_end: false` publishes the last one instead.",
    )


def committed_steps(files: RunFiles) -> list[int]:
    """Steps of the checkpoints that carry a manifest, unverified, in order; one listing in all."""
    return _numbers(files.storage.list_dirs_with(files.checkpoints, manifests.MANIFEST_NAME))


def sweep(files: RunFiles, attempt: int) -> None:
    """Remove what attempts before `attempt` left half-written or half-deleted.

    What `attempt` itself or a later one is writing just now stays.
    """
    storage, whole = files.storage, set(committed_steps(files))
    for name in storage.list_dirs(files.checkpoints):
        directory, match = f"{files.checkpoints}/{name}", _STEP.match(name)
        if match is None:
            marks = [name]
        elif int(match["step"]) in whole:
            continue
        else:
            marks = [".staging_attempt_0", *storage.list_files(directory, recursive=False)]
        owners = [int(found["attempt"]) for found in map(_STAGING.match, marks) if found]
        if owners and max(owners) < attempt:
            storage.delete_dir(directory)


def remove(storage: Storage, directory: str) -> None:
    """Take a checkpoint away, its manifest first: without it a half-deleted one is nobody's."""
    storage.delete_file(f"{directory}/{manifests.MANIFEST_NAME}")
    storage.delete_dir(directory)


def remove_step(files: RunFiles, step: int) -> None:
    """Take the checkpoint of one step away; absent is fine."""
    remove(files.storage, _directory(files, step))


class _Commit:
    """One checkpoint on its way; remembers what is done, so that a retry goes on from there."""

    def __init__(
        self, files: RunFiles, manifest: CheckpointManifest, contents: Mapping[str, bytes | memoryview]
    ) -> None:
        self._storage, self._manifest, self._contents = files.storage, manifest, contents
        staging = f".staging_attempt_{manifest.attempt}"
        self._target = _directory(files, manifest.step)
        self._work, self._mark = f"{files.checkpoints}/{staging}_step_{manifest.step}", ""
        if not files.storage.is_local:
            # An object store cannot rename: there a mark beside the files says whose they are.
            self._work, self._mark = self._target, f"{self._target}/{staging}"
        self._former = f"{self._work}.former"
        self._written: dict[str, FileEntry] = {}
        self._is_begun = self._is_whole = False

    def carry_out(self, retry: Retry) -> Committed:
        try:
            return retry.call(self._go_on)
        except BaseException:
            with suppress(StorageError):
                remove(self._storage, self._work)
            raise

    def _go_on(self) -> Committed:
        if not self._is_begun:
            self._begin()
            self._is_begun = True
        if not self._is_whole:
            self._write()
            self._is_whole = True
        self._put_in_place()
        return Committed(self._target, self._manifest)

    def _begin(self) -> None:
        remove(self._storage, self._work)
        if self._mark:
            self._storage.write_atomic(self._mark, b"")

    def _write(self) -> None:
        for name, data in self._contents.items():
            if name not in self._written:
                digest = self._storage.write_atomic(f"{self._work}/{name}", data)
                self._written[name] = FileEntry(sha256=digest, size=memoryview(data).nbytes)
        self._manifest = self._manifest.model_copy(update={"files": self._written})
        # A later attempt may have swept the first of the files while the last were being written.
        manifests.refuse(self._work, manifests.verify(self._storage, self._work, self._manifest, deep=False))
        manifests.commit(self._storage, self._work, self._manifest)

    def _put_in_place(self) -> None:
        storage = self._storage
        if self._mark:
            storage.delete_file(self._mark)
            return
        if storage.exists(self._work):
            storage.delete_dir(self._former)
            if storage.exists(self._target):
                storage.rename(self._target, self._former)
            storage.rename(self._work, self._target)
        fsync_dir(storage.local_path(self._target).parent)
        storage.delete_dir(self._former)


def _examine(files: RunFiles, step: int) -> Committed | str:
    """The checkpoint, or what is wrong with it; an empty sentence for one that is not there any more."""
    directory = _directory(files, step)
    try:
        manifest = manifest_of(files, step)
    except (NotFoundError, IntegrityError) as error:
        return error.message if files.storage.exists(directory) else ""
    if (manifest.run, manifest.step) != (files.run, step):
        return f"`{directory}` holds step {manifest.step} of the run `{manifest.run}`."
    try:
        manifests.require_sound(files.storage, directory, manifest)
    except (NotFoundError, IntegrityError) as error:
        still_there = files.storage.exists(f"{directory}/{manifests.MANIFEST_NAME}")
        return error.message if still_there else ""
    return Committed(directory, manifest)


def _require_room(storage: Storage, size: int, make_room: Callable[[int], object] | None) -> None:
    needed = size + SLACK
    free = storage.free_bytes()
    if free is not None and free < needed and make_room is not None:
        make_room(needed)
        free = storage.free_bytes()
    if free is not None and free < needed:
        raise StorageError(
            f"A checkpoint needs {needed} bytes ({size} of files), {storage.url} has {free} free.",
            code="storage.full",
            hint="Free some room (`linnet models gc`), or lower `save_total_limit`, and run the same again.",
            retryable=True,
        )


def _require_not_overtaken(files: RunFiles, step: int, attempt: int) -> None:
    try:
        other = manifest_of(files, step).attempt
    except (NotFoundError, IntegrityError):
        return
    if other > attempt:
        raise ConflictError(
            f"Attempt {attempt} of `{files.run}` would replace step {step} of attempt {other}.",
            code="train.attempt_overtaken",
            hint=f"Attempt {other} goes on with the run: end this one.",
        )


def _steps(files: RunFiles, before: int | None) -> list[int]:
    steps = _numbers(files.storage.list_dirs(files.checkpoints))
    return steps if before is None else [step for step in steps if step < before]


def _numbers(names: list[str]) -> list[int]:
    return sorted(int(match["step"]) for match in map(_STEP.match, names) if match)


def _directory(files: RunFiles, step: int) -> str:
    return f"{files.checkpoints}/step_{step}"

"""Checkpoints of a run: written aside, committed by their manifest, discovered newest good first.

Ray Train keeps a snapshot of its own, which is written in place and cannot fall back; nothing
is resumed from it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster import manifest as manifests
from cluster.errors import IntegrityError, NotFoundError
from cluster.manifest import CheckpointManifest, FileEntry
from cluster.storage import Storage, fsync_dir
from train_jobs.run_files import RunFiles

_STEP = re.compile(r"^step_(?P<step>\d+)$")
_STAGING = ".staging_"


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
    contents: Mapping[str, bytes],
    *,
    step: int,
    attempt: int,
    world_size: int,
    metrics: Mapping[str, float],
) -> Committed:
    """Write `contents` (name to bytes) as the checkpoint of `step`, all of it or nothing.

    On a local root it grows under a staging name and is renamed when whole; on an object store
    the manifest alone, written last, makes it exist. Raises StorageError, `storage.full` for a
    full disk, after taking away what was written.
    """
    storage = files.storage
    target = f"{files.checkpoints}/step_{step}"
    work = f"{files.checkpoints}/{_STAGING}step_{step}" if storage.is_local else target
    manifest = CheckpointManifest(
        run=files.run,
        step=step,
        attempt=attempt,
        world_size=world_size,
        metrics=dict(metrics),
        files={name: _entry(data) for name, data in contents.items()},
    )
    storage.delete_dir(work)
    try:
        for name, data in contents.items():
            storage.write_atomic(f"{work}/{name}", data)
        manifests.commit(storage, work, manifest)
    except BaseException:
        storage.delete_dir(work)
        raise
    if work != target:
        storage.delete_dir(target)
        storage.rename(work, target)
        fsync_dir(storage.local_path(files.checkpoints))
    return Committed(target, manifest)


def discover(files: RunFiles) -> Discovery:
    """Find the newest checkpoint whose every byte verifies."""
    skipped: list[str] = []
    for step in reversed(_steps(files)):
        directory = f"{files.checkpoints}/step_{step}"
        found = _examine(files, directory, step)
        if isinstance(found, Committed):
            return Discovery(found, skipped)
        skipped.append(found)
    return Discovery(None, skipped)


def read(storage: Storage, checkpoint: Committed) -> dict[str, bytes]:
    """The checkpoint's files by name."""
    return {name: storage.read_bytes(f"{checkpoint.directory}/{name}") for name in checkpoint.manifest.files}


def prune(files: RunFiles, keep: int) -> list[int]:
    """Remove all but the newest `keep` committed checkpoints; returns the removed steps."""
    doomed = committed_steps(files)[:-keep]
    for step in doomed:
        directory = f"{files.checkpoints}/step_{step}"
        # Without its manifest a half-deleted checkpoint is nobody's.
        files.storage.delete_file(f"{directory}/{manifests.MANIFEST_NAME}")
        files.storage.delete_dir(directory)
    return doomed


def sweep(files: RunFiles) -> None:
    """Remove what a crash left half-written: staging directories, and steps without a manifest."""
    for name in files.storage.list_dirs(files.checkpoints):
        match = _STEP.match(name)
        torn = match is not None and not _has_manifest(files, int(match["step"]))
        if torn or name.startswith(_STAGING):
            files.storage.delete_dir(f"{files.checkpoints}/{name}")


def committed_steps(files: RunFiles) -> list[int]:
    """Steps of the checkpoints that carry a manifest, unverified, in order."""
    return [step for step in _steps(files) if _has_manifest(files, step)]


def _examine(files: RunFiles, directory: str, step: int) -> Committed | str:
    try:
        manifest = manifests.read(files.storage, directory, CheckpointManifest)
    except (NotFoundError, IntegrityError) as error:
        return error.message
    if (manifest.run, manifest.step) != (files.run, step):
        return f"`{directory}` holds step {manifest.step} of the run `{manifest.run}`."
    problems = manifests.verify(files.storage, directory, manifest)
    if problems:
        listed = "; ".join(f"{problem.path}: {problem.reason}" for problem in problems)
        return f"`{directory}` differs from its manifest: {listed}."
    return Committed(directory, manifest)


def _steps(files: RunFiles) -> list[int]:
    names = (_STEP.match(name) for name in files.storage.list_dirs(files.checkpoints))
    return sorted(int(match["step"]) for match in names if match)


def _has_manifest(files: RunFiles, step: int) -> bool:
    return files.storage.exists(f"{files.checkpoints}/step_{step}/{manifests.MANIFEST_NAME}")


def _entry(data: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))

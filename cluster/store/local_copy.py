"""A version's files on this machine, verified before anybody loads them."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

from cluster import manifest as manifests
from cluster.errors import IntegrityError, StorageError
from cluster.manifest import FileEntry, Manifest, VersionManifest
from cluster.refs import VersionRef
from cluster.storage import Storage, make_read_only, make_writable
from cluster.store.catalog import compare
from cluster.store.layout import version_dir
from cluster.store.staging import staging_name

_LOG = logging.getLogger(__name__)
SPARE_BYTES = 1_000_000
_verified: dict[Path, tuple[int, int, str]] = {}


def copies_dir(home: Path, storage: Storage) -> Path:
    """Where this machine keeps copies of a remote root's versions; one place for each root."""
    return home / "cache" / "models" / hashlib.sha256(storage.url.encode()).hexdigest()[:12]


def local_dir(storage: Storage, ref: VersionRef, manifest: VersionManifest, home: Path) -> Path:
    """The verified directory of a version's files, downloaded first where the root is remote.

    Raises IntegrityError naming the file that differs, StorageError when there is no room.
    """
    if storage.is_local:
        directory = storage.local_path(version_dir(ref))
        require_sound(directory, manifest)
        return directory
    return _downloaded(storage, ref, manifest, copies_dir(home, storage))


def require_sound(directory: Path, manifest: VersionManifest) -> None:
    """Hash what this process has not hashed since it last changed; raise IntegrityError on a difference."""
    before = {name: _state(directory / name) for name in manifest.files}
    changed = {
        name: entry
        for name, entry in manifest.files.items()
        if not _remembers(directory / name, entry, before[name])
    }
    here = Storage(str(directory))
    problems = compare(here, "", manifest, deep=False) or manifests.verify(here, "", Manifest(files=changed))
    manifests.refuse(str(directory), problems)
    for name in changed:
        if state := before[name]:
            _verified[directory / name] = (*state, manifest.files[name].sha256)


def _remembers(file: Path, entry: FileEntry, state: tuple[int, int] | None) -> bool:
    return state is not None and _verified.get(file) == (*state, entry.sha256)


def _state(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns)


def _downloaded(storage: Storage, ref: VersionRef, manifest: VersionManifest, shelf: Path) -> Path:
    target = shelf / ref.model / ref.version
    if target.is_dir():
        try:
            require_sound(target, manifest)
        except IntegrityError as error:
            _LOG.warning("fetching %s again: %s", ref, error.message)
            discard(target)
        else:
            return target
    require_room(Storage(str(shelf)), manifest.total_bytes, str(ref))
    staging = shelf / ref.model / staging_name(ref.version)
    try:
        storage.download_dir(version_dir(ref), staging)
        require_sound(staging, manifest)
        make_read_only(staging)
        _put_in_place(staging, target, manifest)
    finally:
        discard(staging)
    return target


def _put_in_place(staging: Path, target: Path, manifest: VersionManifest) -> None:
    try:
        staging.rename(target)
    except OSError:
        # Another process finished the same download first: its copy serves if it is whole.
        require_sound(target, manifest)


def discard(directory: Path) -> None:
    """Remove a directory of this machine, read-only files too; absent is fine."""
    if directory.is_dir():
        make_writable(directory)
        shutil.rmtree(directory, ignore_errors=True)


def require_room(storage: Storage, needed: int, what: str) -> None:
    """Raise StorageError `storage.full` when fewer than `needed` bytes (and some spare) are left."""
    free = storage.free_bytes()
    if free is not None and free < needed + SPARE_BYTES:
        raise StorageError(
            f"{what} needs {needed:,} bytes below {storage.url}, which has {free:,} left.",
            code="storage.full",
            hint="Free some room (`linnet models gc`) and run the same command again.",
            retryable=True,
        )

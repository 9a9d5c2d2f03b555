"""Taking versions away, and sweeping up what interrupted work has left."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.orm import Session

from cluster.manifest import MANIFEST_NAME
from cluster.refs import VersionRef
from cluster.state import events
from cluster.store.alias_book import AliasBook
from cluster.store.catalog import Catalog
from cluster.store.holders import require_unheld
from cluster.store.layout import MIRROR_NAME, MODELS, is_hidden, model_dir, version_dir
from cluster.store.local_copy import copies_dir, discard
from cluster.store.staging import is_abandoned, removed_name, subject_of


def remove(catalog: Catalog, book: AliasBook, ref: VersionRef, reason: str) -> None:
    """Make a version unreachable, with an event, then delete its files. See `ModelStore.remove`."""
    storage, away = catalog.storage, f"{model_dir(ref.model)}/{removed_name(ref.version)}"
    book.of_model(ref.model)
    with book.database.transaction() as session:
        require_removable(session, catalog, ref)
        events.append(
            session, kind="version.removed", subject=str(ref), sentence=f"{ref} removed", reason=reason
        )
        if storage.is_local:
            storage.rename(version_dir(ref), away)
        else:
            storage.delete_file(f"{version_dir(ref)}/{MANIFEST_NAME}")
    storage.delete_dir(away if storage.is_local else version_dir(ref))


def require_removable(session: Session, catalog: Catalog, ref: VersionRef) -> None:
    """Raise NotFoundError when it is not there, ConflictError naming who holds it, or return."""
    if not catalog.has(ref):
        raise catalog.unknown(ref)
    require_unheld(session, ref, catalog.manifests(ref.model))


def collect(catalog: Catalog, home: Path, *, dry_run: bool) -> list[str]:
    """Paths of abandoned staging, uncommitted directories and orphaned copies; deleted unless `dry_run`."""
    storage = catalog.storage
    leftovers = [path for model in storage.list_dirs(MODELS) for path in _leftovers(catalog, model)]
    local = [*_abandoned_below(home / "cache"), *_orphaned_copies(catalog, home)]
    if not dry_run:
        for path in leftovers:
            storage.delete_dir(path) if storage.is_dir(path) else storage.delete_file(path)
        for directory in local:
            discard(directory)
    return leftovers + [str(directory) for directory in local]


def _leftovers(catalog: Catalog, model: str) -> list[str]:
    below = model_dir(model)
    entries = catalog.storage.list_modified(below)
    stale = [name for name, modified in entries if is_abandoned(name, modified)]
    busy = {subject_of(name) for name, _ in entries if subject_of(name) and name not in stale}
    committed = set(catalog.labels(model))
    uncommitted = [
        name
        for name in catalog.storage.list_dirs(below)
        if not is_hidden(name) and name not in committed and name not in busy
    ]
    if not committed and not busy and {name for name, _ in entries} <= {MIRROR_NAME, *stale, *uncommitted}:
        return [below]
    return [f"{below}/{name}" for name in (*stale, *uncommitted)]


def _abandoned_below(cache: Path) -> list[Path]:
    hidden = (path for path in cache.rglob(".staging-*") if path.is_dir())
    return [path for path in hidden if is_abandoned(path.name, _modified(path))]


def _orphaned_copies(catalog: Catalog, home: Path) -> list[Path]:
    shelf = copies_dir(home, catalog.storage)
    copies = (path for path in shelf.glob("*/*") if not is_hidden(path.name))
    return [p for p in copies if not catalog.has(VersionRef(model=p.parent.name, version=p.name))]


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)

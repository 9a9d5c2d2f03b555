"""Which run uses which encoded dataset, and which of them may go."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from cluster.errors import StorageError
from cluster.manifest import MANIFEST_NAME
from cluster.storage import Storage
from cluster.store.staging import is_abandoned

ROOT = "encoded"
KEPT = 4
# Longer than it takes from the note of a use to the run that is seen to be active.
RECENT = timedelta(hours=1)
_USES = f"{ROOT}/uses"
_KEY = re.compile(r"^[0-9a-f]{64}$")
_LONG_AGO = datetime.fromtimestamp(0, UTC)


def directory_of(key: str) -> str:
    """Where the dataset of a key is, relative to the root."""
    return f"{ROOT}/{key}"


def note_use(storage: Storage, key: str, run: str) -> None:
    """Write that a run uses a dataset as of now; do so before looking whether it is there."""
    storage.write_atomic(f"{_USES}/{key}/{run}", b"")


def prune(storage: Storage, active: Collection[str], now: datetime | None = None) -> list[str]:
    """Remove all but the KEPT datasets that were used last, and what was left half-made; returns the keys.

    One that a run of `active` uses stays, and so does one that was used within RECENT.
    """
    moment = now or datetime.now(UTC)
    there = {key for key, _ in storage.list_modified(ROOT) if _KEY.match(key)}
    last = {key: _last_use(storage, key) for key in there.union(storage.list_dirs(_USES))}
    order = sorted(there, key=lambda key: (last[key], key), reverse=True)
    may_go = [*order[KEPT:], *(last.keys() - there)]
    gone = [key for key in may_go if moment - last[key] > RECENT and not _is_used(storage, key, active)]
    for key in gone:
        # Another driver may be removing it at the same time.
        with suppress(StorageError):
            _remove(storage, key)
    _sweep(storage, moment)
    return gone


def trim_copies(here: Storage) -> None:
    """Keep the KEPT newest of a machine's copies, and nothing half-made.

    What is mapped from the others stays mapped.
    """
    copies = [(when, key) for key, when in here.list_modified(ROOT) if _KEY.match(key)]
    for _, key in sorted(copies, reverse=True)[KEPT:]:
        here.delete_dir(directory_of(key))
    _sweep(here, datetime.now(UTC))


def _sweep(storage: Storage, now: datetime) -> None:
    """Remove what was left half-made."""
    for name, modified in storage.list_modified(ROOT):
        if is_abandoned(name, modified, now):
            storage.delete_dir(f"{ROOT}/{name}")


def _is_used(storage: Storage, key: str, active: Collection[str]) -> bool:
    return any(run in active for run in storage.list_files(f"{_USES}/{key}"))


def _last_use(storage: Storage, key: str) -> datetime:
    return max((when for _, when in storage.list_modified(f"{_USES}/{key}")), default=_LONG_AGO)


def _remove(storage: Storage, key: str) -> None:
    # Without its manifest it is not there for anybody.
    storage.delete_file(f"{directory_of(key)}/{MANIFEST_NAME}")
    storage.delete_dir(directory_of(key))
    storage.delete_dir(f"{_USES}/{key}")

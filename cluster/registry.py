"""The model store: immutable versions with manifests, and the aliases that move over them."""

from __future__ import annotations

from pathlib import Path

from cluster.config import Settings
from cluster.errors import NotFoundError, did_you_mean, one_of
from cluster.manifest import Golden, Lineage, Problem, VersionKind, VersionManifest
from cluster.refs import AliasRef, VersionRef, parse_ref
from cluster.state import events, journeys
from cluster.state.database import Database, open_database
from cluster.state.journeys import Journey
from cluster.state.tables import EventRow
from cluster.storage import Storage
from cluster.store import cleaning, local_copy, publishing
from cluster.store.alias_book import ANY, AliasBook, Unchecked
from cluster.store.catalog import Catalog
from cluster.store.holders import holders

_ALL = 100_000

__all__ = ["ANY", "ModelStore", "Unchecked"]


class ModelStore:
    """Versions below one storage root, and their aliases in one database."""

    def __init__(self, storage: Storage, database: Database, home: Path) -> None:
        self.storage = storage
        self.database = database
        self._home = home
        self._catalog = Catalog(storage)
        self._book = AliasBook(self._catalog, database)

    @classmethod
    def open(cls, settings: Settings | None = None) -> ModelStore:
        """The store that `settings` (by default the environment) names."""
        settings = settings or Settings.load()
        return cls(Storage(settings.root), open_database(settings.state_url), settings.home)

    def resolve(self, text: str) -> VersionRef:
        """The exact version that `m:v`, `m@alias` or `m` (its `@stable`) names.

        Raises UsageError for what is no reference and NotFoundError, with the nearest name, for a
        model, alias or version that is not there.
        """
        ref = parse_ref(text)
        if isinstance(ref, AliasRef):
            ref = self._behind(ref)
        if not self._catalog.has(ref):
            raise self._catalog.unknown(ref)
        return ref

    def manifest(self, ref: VersionRef) -> VersionManifest:
        """The version's manifest. Raises NotFoundError, and IntegrityError when it does not parse."""
        return self._catalog.manifest(ref)

    def versions(self, model: str | None = None) -> list[VersionManifest]:
        """Manifests of the committed versions, by model and age; a broken one is skipped with a warning."""
        return self._catalog.manifests(model)

    def scratch_dir(self) -> Path:
        """A directory of this machine for unfinished work; `gc` sweeps what is abandoned there."""
        return self._home / "cache" / "work"

    def models(self) -> list[str]:
        """Models with at least one committed version."""
        return self._catalog.models()

    def labels(self, model: str) -> list[str]:
        """Labels of the committed versions of a model, those with an unreadable manifest too."""
        return self._catalog.labels(model)

    def next_label(self, model: str) -> str:
        """The first free label of the form vN after all that were ever used: `v3`."""
        with self.database.snapshot() as session:
            rows = events.recent(session, f"{model}:", limit=_ALL)
        used = [row.subject.removeprefix(f"{model}:") for row in rows]
        numbers = [int(label[1:]) for label in (*used, *self.labels(model)) if _is_numbered(label)]
        return f"v{max(numbers, default=0) + 1}"

    def verify(self, ref: VersionRef, *, deep: bool = True) -> list[Problem]:
        """Every difference between the files and the manifest; `deep` hashes, otherwise sizes only."""
        return self._catalog.verify(ref, deep=deep)

    def local_dir(self, ref: VersionRef) -> Path:
        """The directory of a version's files on this machine, verified (hashed once per process).

        From a remote root the files are downloaded once below `<home>/cache/models`. Raises
        NotFoundError, IntegrityError naming the file that differs, and StorageError for lack of room.
        """
        return local_copy.local_dir(self.storage, ref, self.manifest(ref), self._home)

    def publish(
        self,
        source: Path,
        ref: VersionRef,
        *,
        kind: VersionKind,
        source_label: str,
        parent: str | None = None,
        lineage: Lineage | None = None,
        golden: Golden | None = None,
    ) -> VersionManifest:
        """Store the files of `source` as the version `ref`, all or nothing, with an event.

        The first version of a model becomes its `@stable`. Raises ConflictError when the version exists,
        IntegrityError for weights that are truncated, corrupt or incomplete, StorageError
        `storage.full` for lack of room; then, and on Ctrl-C, nothing is left behind.
        """
        draft = publishing.Draft(
            source=source,
            ref=ref,
            kind=kind,
            source_label=source_label,
            parent=parent,
            lineage=lineage,
            golden=golden,
        )
        return publishing.publish(self._catalog, self._book, draft)

    def set_alias(
        self, model: str, alias: str, version: str | None, *, expected: str | Unchecked | None, reason: str
    ) -> None:
        """Point `model@alias` at `version` (None takes it away) if it still points at `expected`.

        `expected=ANY` accepts whatever it is. Raises ConflictError when it moved, NotFoundError for a
        version that is not there.
        """
        parse_ref(f"{model}@{alias}")
        self._book.move(model, alias, version, expected=expected, reason=reason)

    def aliases(self, model: str) -> dict[str, str]:
        """Versions by alias; restored from the mirror first when the database has lost them."""
        return self._book.of_model(model)

    def mirror_aliases(self, model: str) -> None:
        """Repeat in storage what SQL says: for callers that moved aliases in a transaction of their own."""
        self._book.mirror(model)

    def holders(self, ref: VersionRef) -> list[str]:
        """Who needs a version, in words; empty when it may be removed."""
        with self.database.snapshot() as session:
            return holders(session, ref, self.versions(ref.model))

    def history(self, ref: VersionRef) -> list[EventRow]:
        """Events of a version and of the aliases that came to it or left it, oldest first."""
        with self.database.snapshot() as session:
            own = events.recent(session, str(ref), limit=_ALL)
            moves = events.recent(session, f"{ref.model}@", limit=_ALL)
        kept = [row for row in own if row.subject == str(ref)]
        kept += [row for row in moves if ref.version in (row.detail.get("from"), row.detail.get("to"))]
        return sorted(kept, key=lambda row: row.id)

    def journeys(self, ref: VersionRef) -> list[Journey]:
        """Rollouts in which a version was the candidate, oldest first."""
        with self.database.snapshot() as session:
            return journeys.of_version(session, ref.model, ref.version)

    def require_removable(self, ref: VersionRef) -> None:
        """Raise NotFoundError when it is not there, ConflictError naming who holds it, or return."""
        self._book.of_model(ref.model)
        with self.database.snapshot() as session:
            cleaning.require_removable(session, self._catalog, ref)

    def remove(self, ref: VersionRef, *, reason: str) -> None:
        """Take a version away, with an event. Raises ConflictError naming who holds it."""
        cleaning.remove(self._catalog, self._book, ref, reason)

    def gc(self, *, dry_run: bool) -> list[str]:
        """Paths of stale staging, uncommitted leftovers and copies of removed versions; deletes them."""
        return cleaning.collect(self._catalog, self._home, dry_run=dry_run)

    def _behind(self, ref: AliasRef) -> VersionRef:
        known = self.aliases(ref.model)
        if ref.alias in known:
            return VersionRef(model=ref.model, version=known[ref.alias])
        if not self.labels(ref.model):
            raise self._catalog.unknown_model(ref.model)
        raise NotFoundError(
            f"There is no alias `{ref}`.{did_you_mean(ref.alias, known)}",
            code="models.unknown_alias",
            hint=f"Aliases of {ref.model}: {one_of(known)}; versions: {one_of(self.labels(ref.model))}.",
        )


def _is_numbered(label: str) -> bool:
    return label[0] == "v" and label[1:].isdecimal()

"""Publishing: a directory becomes a version in one step, or leaves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster import manifest as manifests
from cluster.config import StrictModel
from cluster.errors import ConflictError, IntegrityError, NotFoundError, UsageError
from cluster.manifest import FileEntry, Golden, Lineage, VersionKind, VersionManifest
from cluster.refs import STABLE, VersionRef, parse_version_ref
from cluster.state import aliases, events
from cluster.storage import Storage, make_read_only
from cluster.store.alias_book import AliasBook
from cluster.store.catalog import Catalog
from cluster.store.description import Description, describe, publishable_files
from cluster.store.layout import MIRROR_NAME, model_dir, version_dir
from cluster.store.local_copy import require_room
from cluster.store.staging import is_abandoned, staging_name, subject_of


class Draft(StrictModel):
    """What is known of a version before its files have been stored."""

    source: Path
    ref: VersionRef
    kind: VersionKind
    source_label: str
    parent: str | None = None
    lineage: Lineage | None = None
    golden: Golden | None = None

    def manifest(
        self, files: dict[str, FileEntry], facts: Description, base: VersionManifest | None
    ) -> VersionManifest:
        """The manifest over `files`; an adapter without a tokenizer of its own has its `base`'s."""
        tokenizer, template = facts.tokenizer_sha256, facts.chat_template_sha256
        if tokenizer is None:
            if base is None:
                raise IntegrityError(
                    f"`{self.source}` holds no tokenizer and names no parent to take it from.",
                    code="weights.incomplete",
                    hint="Publish an adapter with the version that it was trained on as its parent.",
                )
            tokenizer, template = base.tokenizer_sha256, base.chat_template_sha256
        return VersionManifest(
            files=files,
            model=self.ref.model,
            version=self.ref.version,
            kind=self.kind,
            source=self.source_label,
            parent=self.parent,
            lineage=self.lineage,
            dtype=facts.dtype,
            architecture=facts.architecture,
            parameters=facts.parameters,
            tokenizer_sha256=tokenizer,
            chat_template_sha256=template,
            golden=self.golden,
        )


def publish(catalog: Catalog, book: AliasBook, draft: Draft) -> VersionManifest:
    """Store the draft's files and commit them; see `ModelStore.publish` for what it raises."""
    ref = _checked_ref(draft.ref)
    if not draft.source.is_dir():
        raise NotFoundError(f"There is no directory `{draft.source}`.", code="models.no_source")
    _require_free_label(catalog, ref)
    base = _adapter_base(catalog, draft)
    facts = describe(draft.source, draft.kind)
    names = publishable_files(draft.source)
    needed = sum((draft.source / name).stat().st_size for name in names)
    require_room(catalog.storage, needed, str(ref))
    store = _store_local if catalog.storage.is_local else _store_remote
    with store(catalog, draft, names) as (files, commit):
        manifest = draft.manifest(files, facts, base)
        _commit(book, ref, manifest, commit)
    book.mirror(ref.model)
    return manifest


def _checked_ref(ref: VersionRef) -> VersionRef:
    if ref.version == MIRROR_NAME:
        raise UsageError(f"`{ref.version}` is a file of the store, not a version label.", code="ref.reserved")
    return parse_version_ref(str(ref))


def _require_free_label(catalog: Catalog, ref: VersionRef) -> None:
    if catalog.has(ref):
        raise ConflictError(
            f"`{ref}` exists already, and versions never change.",
            code="models.version_exists",
            hint=f"Choose another label; `linnet models show {ref.model}` lists those taken.",
        )


def _adapter_base(catalog: Catalog, draft: Draft) -> VersionManifest | None:
    if draft.kind is not VersionKind.ADAPTER or draft.parent is None:
        return None
    return catalog.manifest(parse_version_ref(draft.parent))


def _commit(
    book: AliasBook, ref: VersionRef, manifest: VersionManifest, put: Callable[[VersionManifest], None]
) -> None:
    known = book.of_model(ref.model)
    first = not known and not book.catalog.labels(ref.model)
    with book.database.transaction() as session:
        events.append(
            session,
            kind="version.published",
            subject=str(ref),
            sentence=f"{ref} published ({manifest.kind}, {manifest.dtype}, from {manifest.source})",
            detail={"kind": manifest.kind.value, "parent": manifest.parent, "bytes": manifest.total_bytes},
        )
        if first:
            aliases.move(session, ref.model, STABLE, ref.version, expected=None, reason="the first version")
        # Last, so that whatever fails before leaves neither an event nor a version.
        put(manifest)


Stored = tuple[dict[str, FileEntry], Callable[[VersionManifest], None]]


@contextmanager
def _store_local(catalog: Catalog, draft: Draft, names: list[str]) -> Iterator[Stored]:
    """Copy beside the place of the version; committing renames it there."""
    storage, ref = catalog.storage, draft.ref
    staging = f"{model_dir(ref.model)}/{staging_name(ref.version)}"
    placed = False

    def put(manifest: VersionManifest) -> None:
        nonlocal placed
        manifests.commit(storage, staging, manifest)
        make_read_only(storage.local_path(staging))
        _require_free_label(catalog, ref)
        storage.rename(staging, version_dir(ref))
        placed = True

    try:
        for name in names:
            storage.upload_file(draft.source / name, f"{staging}/{name}")
        yield manifests.scan(storage, staging), put
    except BaseException:
        storage.delete_dir(version_dir(ref) if placed else staging)
        with suppress(OSError):
            storage.local_path(model_dir(ref.model)).rmdir()
        raise


@contextmanager
def _store_remote(catalog: Catalog, draft: Draft, names: list[str]) -> Iterator[Stored]:
    """Upload to the place of the version; only the manifest, put last, makes it exist."""
    storage, directory = catalog.storage, version_dir(draft.ref)

    def put(manifest: VersionManifest) -> None:
        manifests.commit(storage, directory, manifest)

    with _sole_publisher(catalog, draft.ref):
        try:
            files = manifests.scan(Storage(str(draft.source)), "", names)
            storage.delete_dir(directory)
            for name in names:
                storage.upload_file(draft.source / name, f"{directory}/{name}")
            yield files, put
        except BaseException:
            storage.delete_dir(directory)
            raise


@contextmanager
def _sole_publisher(catalog: Catalog, ref: VersionRef) -> Iterator[None]:
    # An object store has no rename that could fail: a marker is put, then others' markers are looked
    # for. Of two publishers at least one sees the other and gives way.
    storage, mine = catalog.storage, staging_name(ref.version)
    storage.write_atomic(f"{model_dir(ref.model)}/{mine}", b"")
    try:
        for name, modified in storage.list_modified(model_dir(ref.model)):
            if name != mine and subject_of(name) == ref.version and not is_abandoned(name, modified):
                raise ConflictError(
                    f"Another process is publishing `{ref}`.",
                    code="models.being_published",
                    hint="Wait for it, or choose another label.",
                    retryable=True,
                )
        _require_free_label(catalog, ref)
        yield
    finally:
        storage.delete_file(f"{model_dir(ref.model)}/{mine}")

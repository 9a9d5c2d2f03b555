"""Importing: fetch, convert, compute golden answers, publish; interrupted anywhere, nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import extensions
from cluster.errors import ConflictError, StorageError, UsageError
from cluster.manifest import VersionKind, VersionManifest
from cluster.refs import VersionRef, parse_version_ref
from cluster.store.local_copy import discard
from cluster.store.sources import Source, SourceKind, fetch
from cluster.store.staging import staging_name

if TYPE_CHECKING:
    from cluster.registry import ModelStore

Report = Callable[[str], None]


def target_ref(store: ModelStore, source: Source, wanted: str | None) -> VersionRef:
    """The version that an import makes: `--as MODEL:VERSION`, or `--as MODEL` with the next free vN.

    Raises UsageError for an alias and ConflictError for a version that exists.
    """
    name = wanted or source.model
    if "@" in name:
        raise UsageError(
            f"`{name}` is an alias; an import makes a version.",
            code="models.alias_as_target",
            hint="Write --as MODEL:VERSION or --as MODEL.",
        )
    ref = parse_version_ref(name if ":" in name else f"{name}:{store.next_label(name)}")
    if ref.version in store.labels(ref.model):
        raise ConflictError(
            f"`{ref}` exists already, and versions never change.",
            code="models.version_exists",
            hint=f"Leave the label out (--as {ref.model}) for the next free one.",
        )
    return ref


def import_version(store: ModelStore, source: Source, ref: VersionRef, report: Report) -> VersionManifest:
    """Make `ref` from `source`; `report` is told of each stage. Raises what fetching, converting and
    publishing raise.
    """
    scratch = store.scratch_dir() / staging_name(ref.version)
    try:
        _make_dir(scratch)
        report(f"fetching {source.text} ({source.kind})")
        fetched = fetch(source, scratch)
        report(f"converting {fetched.name}")
        label = extensions.load(extensions.PROVIDERS, "import_weights")(fetched, scratch / "model")
        if source.kind is SourceKind.HUB:
            label = f"hub {source.text}"
        report("computing golden answers (greedy, float32, CPU)")
        golden = extensions.load(extensions.PROVIDERS, "golden_answers")(scratch / "model")
        report(f"publishing {ref}")
        return store.publish(scratch / "model", ref, kind=VersionKind.BASE, source_label=label, golden=golden)
    finally:
        discard(scratch)


def _make_dir(directory: Path) -> None:
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise StorageError(
            f"`{directory}` cannot be made: {error.strerror}.",
            code="storage.denied",
            hint="Set LINNET_HOME to a directory that you may write.",
        ) from None

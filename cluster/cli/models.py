"""`linnet models`: versions in the model store."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.cli import output
from cluster.cli.models_view import COLUMNS, human_count, show_model, show_version, version_row
from cluster.cli.output import DryRunFlag, JsonFlag, RootOption, YesFlag
from cluster.config import Settings
from cluster.errors import IntegrityError, UsageError
from cluster.manifest import Problem
from cluster.refs import AliasRef, VersionRef, parse_ref, parse_version_ref
from cluster.registry import ModelStore
from cluster.state.aliases import ABSENT

app = output.new_app("Versions in the model store: immutable, verified, with aliases that move over them.")

_NO_ALIAS = "-"
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept with the event.")]


@app.command("list")
def list_versions(as_json: JsonFlag = False, root: RootOption = None) -> None:
    """List all versions."""
    store = _open(root)
    rows = [version_row(store, manifest, as_json=as_json) for manifest in store.versions()]
    output.emit_list(
        rows, COLUMNS, as_json=as_json, empty="No versions yet. next: linnet models import smollm2"
    )


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="MODEL:VERSION or MODEL@ALIAS; a bare MODEL shows all of it.")],
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Show a version's manifest, golden answers, lineage, aliases and events, or a whole model."""
    store = _open(root)
    if name in store.models():
        show_model(store, name, as_json=as_json)
    else:
        show_version(store, store.resolve(name), as_json=as_json)


@app.command("import")
def import_weights(
    source: Annotated[
        str,
        typer.Argument(
            help="smollm2 (built in), a Hugging Face directory, a GGUF file, or a hub id org/name."
        ),
    ],
    *,
    name: Annotated[str | None, typer.Option("--as", help="MODEL:VERSION, or MODEL for its next vN.")] = None,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Import weights as a new version, with golden answers."""
    from cluster.store import importing, sources

    store = _open(root)
    found = sources.recognise(source)
    ref = importing.target_ref(store, found, name)
    applied = output.confirm(
        [f"import {found.text} ({found.kind}) as {ref} into {store.storage.url}"], yes=yes, dry_run=dry_run
    )
    detail: dict[str, Any] = {"source": found.text, "kind": found.kind.value}
    if applied:
        manifest = importing.import_version(store, found, ref, output.progress)
        detail |= {
            "files": len(manifest.files),
            "bytes": manifest.total_bytes,
            "parameters": manifest.parameters,
        }
    output.emit_mutation(
        target=str(ref),
        applied=applied,
        dry_run=dry_run,
        detail=detail,
        as_json=as_json,
        sentence=_imported(ref, detail, applied=applied),
        next_command=f"linnet models show {ref}" if applied else "",
    )


@app.command("verify")
def verify(
    name: Annotated[str | None, typer.Argument(help="MODEL:VERSION, MODEL@ALIAS or MODEL.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Verify every version.")] = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Hash the files of a version, or of all, and name what differs from the manifest."""
    store = _open(root)
    refs = _to_verify(store, name, everything=everything)
    found = {ref: store.verify(ref) for ref in refs}
    broken = {ref: problems for ref, problems in found.items() if problems}
    if broken and as_json:
        raise _differs(broken)
    rows = [
        {"version": str(ref), "sound": not problems, "problems": _lines(problems)}
        for ref, problems in found.items()
    ]
    output.emit_list(rows, ("version", "sound", "problems"), as_json=as_json)
    if broken:
        raise _differs(broken)


@app.command("alias")
def alias(
    name: Annotated[str, typer.Argument(help="MODEL@ALIAS.")],
    version: Annotated[str | None, typer.Argument(help="The version's label, or MODEL:VERSION.")] = None,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
    expect: Annotated[
        str | None,
        typer.Option("--expect", help=f"Move only if it points here; {_NO_ALIAS} for no alias yet."),
    ] = None,
    reason: ReasonOption = "by hand",
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Move an alias by compare-and-swap, or take it away."""
    from cluster.store.holders import require_ungoverned

    store, ref = _open(root), _alias_ref(name)
    label = _label(ref, version, remove=remove)
    if label is not None:
        store.resolve(f"{ref.model}:{label}")
    with store.database.snapshot() as session:
        require_ungoverned(session, ref.model, ref.alias)
    found = store.aliases(ref.model).get(ref.alias)
    expected = found if expect is None else None if expect == _NO_ALIAS else expect
    plan = f"move {ref} from {found or ABSENT} to {label or ABSENT}"
    applied = output.confirm([plan], yes=yes, dry_run=dry_run)
    if applied:
        store.set_alias(ref.model, ref.alias, label, expected=expected, reason=reason)
    output.emit_mutation(
        target=str(ref),
        applied=applied,
        dry_run=dry_run,
        detail={"from": found, "to": label},
        as_json=as_json,
        sentence=f"{ref} moved from {found or ABSENT} to {label or ABSENT}." if applied else f"Would {plan}.",
        next_command=f"linnet models show {ref.model}" if applied else "",
    )


@app.command("rm")
def remove_version(
    name: Annotated[str, typer.Argument(help="MODEL:VERSION.")],
    *,
    reason: ReasonOption = "by hand",
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Remove a version that nothing serves, names or stands on."""
    store, ref = _open(root), parse_version_ref(name)
    store.require_removable(ref)
    applied = output.confirm([f"remove {ref} from {store.storage.url}"], yes=yes, dry_run=dry_run)
    if applied:
        store.remove(ref, reason=reason)
    output.emit_mutation(
        target=str(ref),
        applied=applied,
        dry_run=dry_run,
        detail={"reason": reason},
        as_json=as_json,
        sentence=f"{ref} removed." if applied else f"Would remove {ref}.",
        next_command="linnet models list" if applied else "",
    )


@app.command("gc")
def collect(
    yes: YesFlag = False, dry_run: DryRunFlag = False, as_json: JsonFlag = False, root: RootOption = None
) -> None:
    """Delete what interrupted work has left: staging, uncommitted files, copies of removed versions."""
    store = _open(root)
    found = store.gc(dry_run=True)
    applied = bool(found) and output.confirm([f"delete {path}" for path in found], yes=yes, dry_run=dry_run)
    if applied:
        found = store.gc(dry_run=False)
    verb = "deleted" if applied else "to delete"
    output.emit_mutation(
        target=store.storage.url,
        applied=applied,
        dry_run=dry_run,
        detail={"paths": found},
        as_json=as_json,
        sentence=f"Leftovers {verb}: {len(found)}." if found else "Nothing to delete.",
        next_command="linnet models list" if applied else "",
    )


def _open(root: str | None) -> ModelStore:
    return ModelStore.open(Settings.load(root))


def _imported(ref: VersionRef, detail: dict[str, Any], *, applied: bool) -> str:
    if not applied:
        return f"Would import {detail['source']} as {ref}."
    size = output.human_bytes(detail["bytes"])
    return f"{ref} imported: {human_count(detail['parameters'])} parameters, {detail['files']} files, {size}."


def _to_verify(store: ModelStore, name: str | None, *, everything: bool) -> list[VersionRef]:
    if everything == (name is not None):
        raise UsageError("Name one version, or give --all.", hint="linnet models verify smollm2:v1")
    if name is not None:
        return [store.resolve(name)]
    return [
        VersionRef(model=model, version=label) for model in store.models() for label in store.labels(model)
    ]


def _lines(problems: list[Problem]) -> list[str]:
    return [f"{problem.path}: {problem.reason}" for problem in problems]


def _differs(broken: dict[VersionRef, list[Problem]]) -> IntegrityError:
    told = "; ".join(f"{ref}: {line}" for ref, problems in broken.items() for line in _lines(problems))
    return IntegrityError(
        f"Stored files differ from their manifests. {told}.",
        code="manifest.mismatch",
        hint="Import or publish it again under a new label; nothing that is not whole is ever loaded.",
    )


def _alias_ref(text: str) -> AliasRef:
    ref = parse_ref(text)
    if isinstance(ref, VersionRef) or "@" not in text:
        raise UsageError(f"`{text}` is not an alias.", code="ref.not_alias", hint="Write MODEL@ALIAS.")
    return ref


def _label(ref: AliasRef, version: str | None, *, remove: bool) -> str | None:
    if remove == (version is not None):
        raise UsageError("Give a version, or --remove.", hint=f"linnet models alias {ref} v1")
    if version is None or ":" not in version:
        return version
    exact = parse_version_ref(version)
    if exact.model != ref.model:
        raise UsageError(
            f"`{version}` is a version of another model than `{ref}`.", hint=f"Name a version of {ref.model}."
        )
    return exact.version

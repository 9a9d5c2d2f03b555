"""How versions and models look in a terminal and as JSON."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from cluster.cli import output
from cluster.manifest import Lineage, VersionManifest
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.state.journeys import Journey
from cluster.state.tables import EventRow

COLUMNS = ("model", "version", "kind", "aliases", "dtype", "parameters", "size", "created")


def version_row(store: ModelStore, manifest: VersionManifest, *, as_json: bool) -> dict[str, Any]:
    """One line of the list; numbers and times are plain in JSON and shortened for people."""
    names = _alias_names(store, manifest)
    size = manifest.total_bytes
    return {
        "model": manifest.model,
        "version": manifest.version,
        "kind": manifest.kind.value,
        "aliases": names,
        "dtype": manifest.dtype,
        "parameters": manifest.parameters if as_json else human_count(manifest.parameters),
        "size": size if as_json else output.human_bytes(size),
        "created": manifest.created_at.isoformat(timespec="seconds") if as_json else manifest.created_at,
    }


def human_count(number: int) -> str:
    """`134.5M`: powers of 1,000, one decimal."""
    value = float(number)
    for unit in ("", "k", "M", "B"):
        if value < 1000:
            return f"{value:.0f}{unit}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}T"


def show_model(store: ModelStore, model: str, *, as_json: bool) -> None:
    """All versions of a model, and where its aliases point."""
    rows = [version_row(store, manifest, as_json=as_json) for manifest in store.versions(model)]
    aliases = store.aliases(model)
    if as_json:
        output.emit({"as_of": _now(), "data": {"model": model, "aliases": aliases, "versions": rows}})
        return
    output.emit_list(rows, COLUMNS, as_json=False)
    for name, version in aliases.items():
        _say(f"{model}@{name} -> {model}:{version}")


def show_version(store: ModelStore, ref: VersionRef, *, as_json: bool) -> None:
    """Everything known of one version: its files, where it comes from, and what became of it."""
    manifest, history, journeys = store.manifest(ref), store.history(ref), store.journeys(ref)
    names = _alias_names(store, manifest)
    if as_json:
        events = [_event(row) for row in history]
        rollouts = [journey.model_dump(mode="json") for journey in journeys]
        known = {"aliases": names, "held_by": store.holders(ref), "rollouts": rollouts, "events": events}
        output.emit({"as_of": _now(), "data": {**manifest.model_dump(mode="json"), **known}})
        return
    for key, value in _facts(manifest, names).items():
        _say(f"{key:<14}{value}")
    _say("\nfiles")
    for name, entry in manifest.files.items():
        _say(f"  {name:<28}{output.human_bytes(entry.size):>10}  {entry.sha256[:12]}…")
    _say_golden(manifest)
    _say_journeys(journeys)
    _say("\nevents")
    for row in history:
        why = f" ({row.reason})" if row.reason else ""
        _say(f"  {row.at:%Y-%m-%d %H:%M:%S}  {row.sentence}, by {row.actor}{why}")


def _say_golden(manifest: VersionManifest) -> None:
    golden = manifest.golden
    if golden is None:
        _say("\nno golden answers")
        return
    _say(f"\ngolden answers (greedy, {golden.dtype}, transformers {golden.transformers_version})")
    for answer in golden.answers:
        _say(f"  ? {answer.prompt}\n  > {answer.answer}  [nearest tie {answer.top2_margin:.3f}]")


def _say_journeys(journeys: list[Journey]) -> None:
    _say("\nrollouts" if journeys else "\nno rollouts")
    for journey in journeys:
        why = f": {journey.why}" if journey.why else ""
        _say(
            f"  {journey.id}  {journey.began:%Y-%m-%d %H:%M:%S}  beside {journey.stable}  "
            f"{journey.phase} ({journey.reason}){why}"
        )


def _facts(manifest: VersionManifest, names: list[str]) -> dict[str, str]:
    lineage = manifest.lineage
    return {
        "version": manifest.ref,
        "kind": manifest.kind.value,
        "aliases": ", ".join(f"@{name}" for name in names) or "-",
        "source": manifest.source,
        "parent": manifest.parent or "-",
        "lineage": _came_from(lineage) if lineage else "-",
        "architecture": manifest.architecture,
        "parameters": f"{manifest.parameters:,}",
        "dtype": manifest.dtype,
        "size": output.human_bytes(manifest.total_bytes),
        "created": f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "tokenizer": f"sha256 {manifest.tokenizer_sha256[:12]}…",
        "chat template": f"sha256 {manifest.chat_template_sha256[:12]}…"
        if manifest.chat_template_sha256
        else "-",
    }


def _came_from(lineage: Lineage) -> str:
    measured = [f"{name} {value:.4g}" for name, value in sorted(lineage.metrics.items())]
    return ", ".join([f"run {lineage.run}", f"step {lineage.step}", *measured])


def _event(row: EventRow) -> dict[str, Any]:
    return {
        "at": row.at.replace(tzinfo=UTC).isoformat(timespec="seconds"),
        "kind": row.kind,
        "actor": row.actor,
        "sentence": row.sentence,
        "reason": row.reason,
    }


def _alias_names(store: ModelStore, manifest: VersionManifest) -> list[str]:
    return sorted(
        alias for alias, version in store.aliases(manifest.model).items() if version == manifest.version
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")

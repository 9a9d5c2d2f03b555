"""Verbs that look ahead and back: `plan`, `wait`, `replay`, `plot`."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import output
from cluster.cli.output import JsonFlag, RootOption
from cluster.config import Settings
from cluster.errors import UsageError
from serve_apps.rollout.verbs.command_line import (
    ModelArgument,
    PolicyFile,
    RolloutArgument,
    open_store,
    read_policy,
    seconds,
)

if TYPE_CHECKING:
    from cluster.registry import ModelStore
    from serve_apps.rollout.forecast.planning import Rollout
    from serve_apps.rollout.forecast.today import Today
    from serve_apps.rollout.spec import RolloutSpec


def plan(
    version: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]", help="The candidate, or its model.")],
    policy: PolicyFile,
    *,
    requests_per_second: Annotated[
        float | None, typer.Option(min=0.0, help="Of the model; without it, as many as lately.")
    ] = None,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """How long each step takes at today's traffic, and which worsening it sees; changes nothing."""
    from serve_apps.rollout.forecast import tables
    from serve_apps.rollout.forecast.planning import forecast

    store = open_store(root)
    whom, spec = _planned(store, version, policy)
    today = _today(store, Settings.load(root), whom.model, whom.stable)
    found = forecast(
        spec,
        today,
        whom,
        per_second=requests_per_second,
        questions=_questions(spec),
        no_fresh=_no_fresh(store, spec, whom),
    )
    if as_json:
        output.emit(found.model_dump(mode="json"))
    else:
        tables.show(found)
        output.progress(f"next: linnet rollout start {whom.model}:{whom.candidate} --policy {policy}")


def wait(
    model: ModelArgument,
    timeout: Annotated[str, typer.Option(help="How long at most: 90s, 30m, 24h.")] = "30m",
    rollout: Annotated[
        int | None, typer.Option("--rollout", help="This one; the last one without it.")
    ] = None,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Wait until a rollout is over, telling its events.

    Exit 0: promoted; 4: taken back, or paused by a gate; 5: not over in time, or without a verdict.
    """
    from serve_apps.rollout import waiting
    from serve_apps.rollout.service import require_model

    store = open_store(root)
    require_model(store, model)
    seen = waiting.wait(
        store.database,
        model,
        rollout,
        timeout_s=seconds(timeout),
        tell=_tell,
        clock=time.monotonic,
        sleep=time.sleep,
    )
    waiting.require_promoted(seen)
    if as_json:
        output.emit(seen.result)
    else:
        typer.echo(f"{model}:{seen.candidate} is @stable (rollout {seen.rollout})")


def replay(
    rollout: RolloutArgument, policy: PolicyFile, *, as_json: JsonFlag = False, root: RootOption = None
) -> None:
    """What another policy would have done with the answers that a rollout has had."""
    from cluster.state import looks
    from serve_apps.rollout import finding_rollouts, records, replay_words
    from serve_apps.rollout.replaying import compare

    store = open_store(root)
    with store.database.snapshot() as session:
        row = finding_rollouts.judged(session, rollout)
        was = records.spec_of(row)
        assert was is not None
        other = read_policy(policy, row.candidate)
        found = compare(row, looks.of_rollout(session, rollout), was, other)
    if as_json:
        output.emit(found.model_dump(mode="json"))
    else:
        replay_words.show(found)


def plot(
    rollout: RolloutArgument,
    out: Annotated[Path | None, typer.Option("--out", help="FILE.png or FILE.html.")] = None,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Draw a rollout: its weights, and each gate's effect with interval and limit over time."""
    from serve_apps.rollout.picture.chart import chart

    file = out or Path(f"rollout-{rollout}.png")
    if file.suffix not in (".png", ".html"):
        raise UsageError(
            f"`{file}` is neither a PNG nor a page.",
            code="usage.arguments",
            hint=f"Write {file.with_suffix('.png')} or {file.with_suffix('.html')}.",
        )
    with open_store(root).database.snapshot() as session:
        found = chart(session, rollout)
    from serve_apps.rollout.picture import page, plotting

    picture = plotting.png(found)
    data = picture if file.suffix == ".png" else page.page(found, picture).encode()
    _write(file, data)
    if as_json:
        output.emit({"rollout": rollout, "file": str(file), "bytes": len(data), "looks": len(found.looks)})
    else:
        typer.echo(f"{file}: {len(found.looks)} looks, {len(found.marks)} decisions")


def _planned(store: ModelStore, version: str, policy: Path) -> tuple[Rollout, RolloutSpec]:
    from cluster.refs import parse_ref
    from serve_apps.rollout.forecast.planning import Rollout

    model = parse_ref(version).model
    spec = read_policy(policy)
    if ":" in version or "@" in version:
        spec = read_policy(policy, store.resolve(version).version)
    if spec.candidate is None:
        raise UsageError(
            f"Neither `{version}` nor `{policy}` names a candidate.",
            code="usage.arguments",
            hint=f"Write {model}:VERSION, or `candidate: VERSION` in the file.",
        )
    candidate = store.resolve(f"{model}:{spec.candidate}")
    return Rollout(model, candidate.version, store.resolve(f"{model}@stable").version), spec


def _today(store: ModelStore, settings: Settings, model: str, stable: str) -> Today:
    from datetime import UTC

    from cluster.state import tallies
    from cluster.storage import Storage
    from serve_apps.access_log.query import AccessLogs
    from serve_apps.access_log.spool import spool_dir
    from serve_apps.rollout.forecast.access_log import from_log
    from serve_apps.rollout.forecast.today import WINDOW, from_tallies

    now = datetime.now(UTC)
    logged = from_log(AccessLogs(Storage(settings.root), spool_dir(settings)), model, stable, now)
    with store.database.snapshot() as session:
        rows = tallies.of_model(session, model, since=now.replace(tzinfo=None) - WINDOW)
    return logged.beside(from_tallies(rows, stable))


def _no_fresh(store: ModelStore, spec: RolloutSpec, whom: Rollout) -> str:
    from serve_apps.rollout import beside
    from serve_apps.rollout.spec import Baseline

    if spec.baseline is not Baseline.FRESH:
        return ""
    with store.database.snapshot() as session:
        return beside.beforehand(session, whom.model, whom.stable)


def _questions(spec: RolloutSpec) -> dict[str, int]:
    from serve_apps.rollout.outside.quality.held_out import read_held_out

    return {
        gate.name: len(read_held_out(gate.quality()).questions)
        for gate in spec.gates
        if gate.data is not None
    }


def _tell(at: datetime, sentence: str) -> None:
    output.progress(f"{at:%H:%M:%S}  {sentence}")


def _write(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as error:
        raise UsageError(
            f"`{file}` cannot be written: {error.strerror}.",
            code="usage.out",
            hint="Give another --out.",
        ) from None

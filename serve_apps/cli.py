"""`linnet serve`: endpoints, replicas and API keys, as the state database knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli import output
from cluster.cli.output import JsonFlag, RootOption
from cluster.config import Settings
from cluster.errors import NotFoundError, did_you_mean, one_of
from cluster.state.database import open_database
from serve_apps import keys_cli

if TYPE_CHECKING:
    from serve_apps.access_log.query import AccessLogs, Wanted
    from serve_apps.endpoints import Endpoint

app = output.new_app(
    "See endpoints and replicas, hand out API keys. Deploying is Ray's own: `serve deploy FILE`."
)

_LOG_COLUMNS = [
    *("at", "request_id", "model", "version", "route", "status", "error_code", "ttft_s", "e2e_s"),
    *("completion_tokens", "finish_reason", "retries", "continued"),
]
_SUMMARY_COLUMNS = [
    *(
        "model",
        "version",
        "requests",
        "error_share",
        "ttft_s",
        "e2e_s",
        "tokens_per_s",
        "retries",
        "continued",
    ),
]

app.add_typer(keys_cli.app, name="keys")

ModelArgument = Annotated[str | None, typer.Argument(help="One model; all without it.")]


@app.callback(invoke_without_command=True)
def endpoints_by_default(context: typer.Context, as_json: JsonFlag = False, root: RootOption = None) -> None:
    """See endpoints and replicas, hand out API keys. Deploying is Ray's own: `serve deploy FILE`."""
    if context.invoked_subcommand is None:
        list_endpoints(as_json=as_json, root=root)


@app.command("list")
def list_endpoints(as_json: JsonFlag = False, root: RootOption = None) -> None:
    """Endpoints with their versions, weights and serving replicas."""
    from serve_apps import endpoints

    with open_database(Settings.load(root).state_url).snapshot() as session:
        found = endpoints.list_endpoints(session)
    rows = [item.model_dump(mode="json") if as_json else _row(item) for item in found]
    output.emit_list(
        rows,
        ["model", "stable", "candidate", "weights", "replicas"],
        as_json=as_json,
        empty="Nothing is served. next: serve deploy serve_apps/smollm2.yaml",
    )


@app.command()
def status(model: ModelArgument = None, as_json: JsonFlag = False, root: RootOption = None) -> None:
    """Replicas with their status and what they proved, or why they were refused."""
    from serve_apps import endpoints

    with open_database(Settings.load(root).state_url).snapshot() as session:
        if model is not None:
            _require_endpoint(model, endpoints.known_models(session))
        found = endpoints.list_replicas(session, model)
    output.emit_list(
        [replica.model_dump(mode="json" if as_json else "python") for replica in found],
        ["model", "version", "replica", "status", "seen", "detail"],
        as_json=as_json,
        empty="No replica has reported. next: serve deploy serve_apps/smollm2.yaml",
    )


@app.command()
def receipts(model: ModelArgument = None, as_json: JsonFlag = False, root: RootOption = None) -> None:
    """Receipts of lost replicas, the latest first: seconds of each part, and what became of requests."""
    from cluster.state import losses
    from serve_apps import endpoints
    from serve_apps.losses.receipts import receipt

    with open_database(Settings.load(root).state_url).snapshot() as session:
        if model is not None:
            _require_endpoint(model, endpoints.known_models(session))
        found = [receipt(row) for row in losses.everything(session, model)]
    output.emit_list(
        [one.model_dump(mode="json" if as_json else "python") for one in found],
        [
            *("at", "model", "version", "signal", "detect_s", "isolate_s", "recover_s", "verify_s"),
            *("total_s", "by_standby", "retried", "continued", "failed"),
        ],
        as_json=as_json,
        empty="No replica was lost.",
    )


@app.command()
def logs(
    model: ModelArgument = None,
    *,
    version: Annotated[str | None, typer.Option(help="One version's requests, such as v2.")] = None,
    since: Annotated[str, typer.Option(help="So long ago (15m, 2h, 7d), or an ISO time.")] = "",
    until: Annotated[str, typer.Option(help="The same; the time itself is left out.")] = "",
    status: Annotated[str, typer.Option(help="404, or 5xx for all of a hundred.")] = "",
    request_id: Annotated[str, typer.Option(help="The x-request-id of one request.")] = "",
    key: Annotated[str, typer.Option(help="How the hash of an API key begins.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many, the latest first.")] = 100,
    summary: Annotated[bool, typer.Option("--summary", help="Numbers for each version instead.")] = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """The access log: requests with their status, times, tokens and retries, the latest first."""
    from datetime import UTC, datetime

    from serve_apps.access_log.query import Wanted
    from serve_apps.access_log.times import parse_time

    settings, now = Settings.load(root), datetime.now(UTC)
    begin, end = (parse_time(text, now) if text else None for text in (since, until))
    wanted = Wanted(model, version, begin, end, status, request_id, key)
    found = _open_logs(settings, model)
    if summary:
        _show_summary(found, wanted, as_json=as_json)
        return
    rows = found.newest(wanted, limit).to_pylist()
    for row in rows if as_json else ():
        row["at"] = row["at"].isoformat()
    output.emit_list(rows, _LOG_COLUMNS, as_json=as_json, empty="No request fits.")


def _open_logs(settings: Settings, model: str | None) -> AccessLogs:
    from cluster.storage import Storage
    from serve_apps import endpoints
    from serve_apps.access_log.query import AccessLogs
    from serve_apps.access_log.spool import spool_dir

    found = AccessLogs(Storage(settings.root), spool_dir(settings))
    if model is not None:
        with open_database(settings.state_url).snapshot() as session:
            known = endpoints.known_models(session)
        if model not in known:
            _require_endpoint(model, [*known, *found.models()])
    return found


def _show_summary(found: AccessLogs, wanted: Wanted, *, as_json: bool) -> None:
    from itertools import chain

    from serve_apps.access_log import summary

    rows = summary.summarize(chain.from_iterable(found.by_day(wanted, summary.COLUMNS)))
    shown = rows if as_json else [summary.for_people(row) for row in rows]
    output.emit_list(shown, _SUMMARY_COLUMNS, as_json=as_json, empty="No request fits.")


def _require_endpoint(model: str, known: list[str]) -> None:
    if model not in known:
        raise NotFoundError(
            f"There is no endpoint `{model}`.{did_you_mean(model, known)}",
            code="serve.unknown_endpoint",
            hint=f"Endpoints: {one_of(known)}.",
        )


def _row(item: Endpoint) -> dict[str, Any]:
    from serve_apps.rollout.states import percent

    return {
        "model": item.model,
        "stable": item.stable,
        "candidate": item.candidate,
        "weights": [f"{v.version} {percent(v.weight)}" for v in item.versions if v.weight],
        "replicas": [
            f"{v.version} " + "/".join(f"{count} {status}" for status, count in sorted(v.replicas.items()))
            for v in item.versions
            if v.replicas
        ],
    }

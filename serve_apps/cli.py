"""`linnet serve`: endpoints and replicas, as the state database knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli import output
from cluster.cli.output import JsonFlag, RootOption
from cluster.config import Settings
from cluster.errors import NotFoundError, did_you_mean, one_of
from cluster.state.database import open_database

if TYPE_CHECKING:
    from serve_apps.endpoints import Endpoint

app = output.new_app(
    "See endpoints, replicas and who serves what. Deploying is Ray's own: `serve deploy FILE`."
)

ModelArgument = Annotated[str | None, typer.Argument(help="One model; all without it.")]


@app.callback(invoke_without_command=True)
def endpoints_by_default(context: typer.Context, as_json: JsonFlag = False, root: RootOption = None) -> None:
    """See endpoints, replicas and who serves what. Deploying is Ray's own: `serve deploy FILE`."""
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

"""`linnet up`: an embedded Ray cluster on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import output
from cluster.cli.output import JsonFlag
from cluster.config import Settings
from cluster.tls.pair import CERTFILE, KEYFILE, KeyPair, read_leaf

if TYPE_CHECKING:
    from cluster.runtime import ClusterInfo

app = output.new_app("Start a Ray cluster on this machine.", list_verb=None)


@app.command()
def up(
    *,
    num_cpus: Annotated[
        float | None, typer.Option(help="Logical CPUs to offer (default: cores, at least 4).")
    ] = None,
    gcs_port: Annotated[int, typer.Option(help="Port of Ray's GCS.")] = 6390,
    dashboard_port: Annotated[int, typer.Option(help="Port of Ray's dashboard and REST API.")] = 8265,
    serve_port: Annotated[int, typer.Option(help="Port that the endpoint will listen on.")] = 8000,
    ssl_certfile: Annotated[
        str | None,
        typer.Option(help="Speak HTTPS with this certificate and its chain (PEM).", envvar=CERTFILE),
    ] = None,
    ssl_keyfile: Annotated[
        str | None, typer.Option(help="The certificate's key (PEM).", envvar=KEYFILE)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start a head node and return once it answers; jobs run in the directory that this is called from."""
    from cluster import runtime

    pair = KeyPair.given(ssl_certfile, ssl_keyfile)
    settings = Settings.load()
    output.progress("Starting Ray on this machine")
    info = runtime.up(
        settings,
        num_cpus=num_cpus,
        gcs_port=gcs_port,
        dashboard_port=dashboard_port,
        serve_port=serve_port,
        pair=pair,
    )
    output.emit_mutation(
        target="cluster",
        applied=True,
        dry_run=False,
        detail={**info.model_dump(mode="json"), "environment": info.environment},
        as_json=as_json,
        sentence=_sentence(info),
        next_command="serve deploy serve_apps/smollm2.yaml",
    )


def _sentence(info: ClusterInfo) -> str:
    exports = " ".join(f"{name}={value}" for name, value in info.environment.items())
    return (
        f"Ray runs at {info.address} with {info.num_cpus:g} logical CPUs; "
        f"its dashboard is {info.dashboard_url}.\n"
        f"the endpoint will be {info.serve_url}/v1{_certificate(info)}\n"
        f"for ray and serve: export {exports}"
    )


def _certificate(info: ClusterInfo) -> str:
    if info.pair is None:
        return ""
    leaf = read_leaf(info.pair.certfile)
    return f", with a certificate for {', '.join(leaf.names)} until {leaf.expires:%Y-%m-%d}"

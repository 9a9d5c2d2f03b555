"""The processes of the served tiny model, and how to harm them."""

from __future__ import annotations

import json
import urllib.request

import psutil

from tests.support.endpoint import MODEL, Endpoint


def titled(title: str) -> list[psutil.Process]:
    """Processes whose command line has `title` in it."""
    return [p for p in psutil.process_iter(["cmdline"]) if title in " ".join(p.info["cmdline"] or [])]


def head(endpoint: Endpoint, program: str) -> list[psutil.Process]:
    """The endpoint's own `gcs_server` or `raylet`, of all that run on this machine."""
    return [process for process in titled(endpoint.info.temp_dir) if process.name() == program]


def replicas() -> list[psutil.Process]:
    """Actors of the replicas of v1."""
    return titled(f"ServeReplica:{MODEL}-v1")


def gateways() -> list[psutil.Process]:
    """Actors of the gateways."""
    return titled("ServeReplica:gateway")


def warm_workers() -> list[psutil.Process]:
    """Workers of Ray's without work that have a fork server, as replicas have."""
    return [
        worker
        for worker in titled("ray::IDLE")
        if any("forkserver" in " ".join(child.cmdline()) for child in worker.children())
    ]


def answering_gateways(endpoint: Endpoint) -> list[psutil.Process]:
    """Gateways that Serve sends requests to."""
    with urllib.request.urlopen(f"{endpoint.url}/metrics/targets", timeout=10) as answer:
        told = {target.rpartition(":")[2] for group in json.load(answer) for target in group["targets"]}
    return [gateway for gateway in gateways() if told & {str(port) for port in _ports(gateway)}]


def _ports(process: psutil.Process) -> set[int]:
    try:
        return {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    except psutil.Error:
        return set()


def with_engine() -> list[psutil.Process]:
    """Actors of the replicas of v1 that have started an engine."""
    return [actor for actor in replicas() if _engine_cores(actor)]


def proven(endpoint: Endpoint) -> set[str]:
    """Ids of the proven replicas of v1, once two of its actors run."""
    found = {replica for version, replica in endpoint.serving_replicas() if version == "v1"}
    return found if len(replicas()) >= 2 else set()


def kill_engine(actor: psutil.Process) -> None:
    """End a replica's engine core."""
    _engine_core(actor).kill()


def stop_engine(actor: psutil.Process) -> None:
    """Its engine core holds its sockets and computes nothing."""
    _engine_core(actor).suspend()


def _engine_core(actor: psutil.Process) -> psutil.Process:
    return _engine_cores(actor)[0]


def _engine_cores(actor: psutil.Process) -> list[psutil.Process]:
    try:
        return [p for p in actor.children(recursive=True) if "EngineCore" in " ".join(p.cmdline())]
    except psutil.Error:
        return []

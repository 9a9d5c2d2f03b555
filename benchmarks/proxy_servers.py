"""The servers of `gateway_proxy.py`: an upstream that answers at once, and gateways in front of it."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

MODEL = "bench"
CHUNKS = 16
_TOKEN = (
    b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" x"}}]}\n\n'
)
_UNARY = json.dumps(
    {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": " x" * CHUNKS}}]}
).encode()


async def upstream_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once, or in `CHUNKS` events with the pause that the body asks for."""
    if scope["type"] != "http":
        return
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    ask = json.loads(body + message["body"])
    kind = b"text/event-stream" if ask["stream"] else b"application/json"
    length = [] if ask["stream"] else [(b"content-length", str(len(_UNARY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind), *length]})
    if not ask["stream"]:
        await send({"type": "http.response.body", "body": _UNARY})
        return
    for _ in range(CHUNKS):
        await send({"type": "http.response.body", "body": _TOKEN, "more_body": True})
        if ask["pace_s"]:
            await asyncio.sleep(ask["pace_s"])
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def run_upstream(ready: Connection) -> None:
    """Body of the upstream's process."""
    _serve(upstream_app, ready)


def run_gateway(ready: Connection, upstream: str, home: str, versions: int) -> None:
    """Body of a gateway's process: so many versions, a tenth of the keys to the second."""
    from cluster.config import Settings
    from cluster.state import policies
    from cluster.state.database import open_database
    from cluster.traffic import TrafficPolicy
    from serve_apps.access_log.log import AccessLog
    from serve_apps.gateway.app import build_app
    from serve_apps.gateway.config import GatewayConfig
    from serve_apps.gateway.policies import PolicyCache

    database = open_database(f"sqlite:///{home}/linnet.db")
    split = {"candidate": "v2", "weight": 10} if versions > 1 else {}
    with database.transaction() as session:
        policies.put(session, TrafficPolicy(model=MODEL, revision=1, stable="v1", **split))
    config = GatewayConfig(model=MODEL)
    log = AccessLog(config.access_log, Settings(home=Path(home), root=home, state_url="sqlite://"))
    cache = PolicyCache(database, config.models)
    _serve(build_app(config, _FixedDirectory(upstream, versions), cache, access_log=log), ready)


class _FixedDirectory:
    def __init__(self, base_url: str, versions: int) -> None:
        from serve_apps.gateway.directory import Replica

        self._replicas = {
            f"v{number}": (Replica(id=f"v{number}-a", base_url=base_url),)
            for number in range(1, versions + 1)
        }

    def replicas(self, _model: str, version: str) -> Sequence[Any]:
        return self._replicas.get(version, ())

    def planned(self, _model: str, _version: str) -> int | None:
        return None

    def may_sleep(self, _model: str, _version: str) -> bool:
        return False

    def versions(self, _model: str) -> Sequence[str]:
        # As the directory of a Serve cluster does.
        return sorted(self._replicas)

    def host(self, _model: str, version: str) -> str:
        return version

    def gateways(self) -> Sequence[str]:
        return ()

    def ready(self) -> bool:
        return True


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Connection) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self._ready.send(self.servers[0].sockets[0].getsockname()[1])


def _serve(app: Any, ready: Connection) -> None:
    config = uvicorn.Config(
        app, port=0, log_level="error", access_log=False, ws="none", proxy_headers=False, loop="uvloop"
    )
    uvloop.run(_AnnouncingServer(config, ready).serve())


def start(target: Callable[..., None], *arguments: Any) -> tuple[Any, int]:
    """Run one of the bodies in a process of its own; returns that and the port it listens on."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    if not ours.poll(60):
        raise TimeoutError(f"{target.__name__} did not start within 60 s")
    return process, ours.recv()

"""What the gateway costs: it and its bare upstream, called in turn on one machine.

The upstream answers at once, so the ratios are the worst case: a real engine takes milliseconds
for what this one does in microseconds. `requests_per_core_s` divides by the gateway's own CPU
time, so that it holds on a machine whose cores are shared with the caller and the upstream.

    python benchmarks/gateway_proxy.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import uvicorn
import uvloop
from http_load import load

MODEL = "bench"
CHUNKS = 16
CALLERS = 16
PACE_S = 0.002
_TOKEN = (
    b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" x"}}]}\n\n'
)
_UNARY = json.dumps(
    {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": " x" * CHUNKS}}]}
).encode()
_HEADERS = (
    "Host: bench\r\nContent-Type: application/json\r\nAuthorization: Bearer k\r\nX-Linnet-Key: {key}\r\n"
)


@dataclass(frozen=True)
class Shape:
    """One kind of request: how it is asked for and what its answer ends with."""

    name: str
    stream: bool
    pace_s: float = 0.0


SHAPES = (Shape("unary", False), Shape("stream", True), Shape("paced", True, PACE_S))


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


def run_gateway(ready: Connection, upstream: str, home: str) -> None:
    """Body of the gateway's process: two versions, a tenth of the keys to the second."""
    from cluster.config import Settings
    from cluster.state import policies
    from cluster.state.database import open_database
    from cluster.traffic import TrafficPolicy
    from serve_apps.access_log.log import AccessLog
    from serve_apps.gateway.app import build_app
    from serve_apps.gateway.config import GatewayConfig
    from serve_apps.gateway.policies import PolicyCache

    database = open_database(f"sqlite:///{home}/linnet.db")
    with database.transaction() as session:
        policies.put(session, TrafficPolicy(model=MODEL, revision=1, stable="v1", candidate="v2", weight=10))
    config = GatewayConfig(model=MODEL)
    log = AccessLog(config.access_log, Settings(home=Path(home), root=home, state_url="sqlite://"))
    cache = PolicyCache(database, config.models)
    _serve(build_app(config, _FixedDirectory(upstream), cache, access_log=log), ready)


class _FixedDirectory:
    def __init__(self, base_url: str) -> None:
        from serve_apps.gateway.directory import Replica

        self._replicas = {v: (Replica(id=f"{v}-a", base_url=base_url),) for v in ("v1", "v2")}

    def replicas(self, _model: str, version: str) -> Sequence[Any]:
        return self._replicas.get(version, ())

    def versions(self, _model: str) -> Sequence[str]:
        return tuple(self._replicas)

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


def _request(shape: Shape, key: str) -> bytes:
    body = json.dumps(
        {
            "model": MODEL,
            "stream": shape.stream,
            "pace_s": shape.pace_s,
            "messages": [{"role": "user", "content": "What is the capital of France? " * 8}],
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\n{_HEADERS.format(key=key)}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _load(port: int, shape: Shape, callers: int, seconds: float) -> tuple[float, list[float]]:
    return await load(port, [[_request(shape, f"key-{number}")] for number in range(callers)], seconds)


async def measure(bare: int, gateway: int, pid: int, *, rounds: int, seconds: float) -> dict[str, float]:
    """Bare and gateway in turn, `rounds` times each; medians."""
    process = psutil.Process(pid)
    figures: dict[str, float] = {}
    for shape in SHAPES:
        bare_rate, rate, cost = [], [], []
        await _load(gateway, shape, CALLERS, 0.3)
        for _ in range(rounds):
            bare_rate.append((await _load(bare, shape, CALLERS, seconds))[0])
            before = sum(process.cpu_times()[:2])
            rate.append((await _load(gateway, shape, CALLERS, seconds))[0])
            cost.append((sum(process.cpu_times()[:2]) - before) / (rate[-1] * seconds))
        figures |= {
            f"{shape.name}_bare_rps": round(statistics.median(bare_rate), 1),
            f"{shape.name}_gateway_rps": round(statistics.median(rate), 1),
            f"{shape.name}_ratio": round(statistics.median(rate) / statistics.median(bare_rate), 3),
            f"{shape.name}_cpu_us": round(statistics.median(cost) * 1e6, 1),
        }
    figures |= await _added_ttft(bare, gateway, rounds, seconds / 2)
    figures["requests_per_core_s"] = round(1e6 / figures["unary_cpu_us"], 1)
    figures["chunk_cpu_us"] = round((figures["paced_cpu_us"] - figures["unary_cpu_us"]) / CHUNKS, 1)
    figures["gateway_rss_mb"] = round(process.memory_info().rss / 1e6, 1)
    return figures


async def _added_ttft(bare: int, gateway: int, rounds: int, seconds: float) -> dict[str, float]:
    firsts: dict[int, list[float]] = {bare: [], gateway: []}
    for _ in range(rounds):
        for port, found in firsts.items():
            found.extend((await _load(port, SHAPES[1], 1, seconds))[1])
    bare_ms, gateway_ms = (statistics.median(found) * 1e3 for found in firsts.values())
    return {
        "ttft_bare_p50_ms": round(bare_ms, 3),
        "ttft_gateway_p50_ms": round(gateway_ms, 3),
        "ttft_added_p50_ms": round(gateway_ms - bare_ms, 3),
    }


def _start(target: Callable[..., None], *arguments: str) -> tuple[Any, int]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    if not ours.poll(60):
        raise TimeoutError(f"{target.__name__} did not start within 60 s")
    return process, ours.recv()


def run(rounds: int, seconds: float) -> dict[str, float]:
    """Start both servers, measure, stop them."""
    processes = []
    with tempfile.TemporaryDirectory() as home:
        try:
            upstream, bare = _start(run_upstream)
            processes.append(upstream)
            gateway, port = _start(run_gateway, f"http://127.0.0.1:{bare}", home)
            processes.append(gateway)
            coroutine: Awaitable[dict[str, float]] = measure(
                bare, port, gateway.pid, rounds=rounds, seconds=seconds
            )
            return uvloop.run(coroutine)  # type: ignore[arg-type]
        finally:
            for process in processes:
                process.terminate()
                process.join()


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one short round each")
    arguments = parser.parse_args()
    figures = run(rounds=1, seconds=1.0) if arguments.quick else run(rounds=5, seconds=3.0)
    asks = [
        _ask("requests per second and core", ">= 3000", figures["requests_per_core_s"], 3000, 1),
        _ask("added TTFT p50 at one caller, ms", "<= 2", figures["ttft_added_p50_ms"], 2, -1),
        _ask("resident memory, MB", "<= 300", figures["gateway_rss_mb"], 300, -1),
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        print(json.dumps({"name": "gateway_proxy", "machine": machine, "figures": figures, "asks": asks}))
        return
    print(machine)
    for name, value in figures.items():
        print(f"  {name:<24}{value:>12,.3f}".rstrip("0").rstrip("."))
    for ask in asks:
        print(f"  {'met   ' if ask['met'] else 'MISSED'} {ask['what']}: {ask['value']} (ask {ask['limit']})")


def _ask(what: str, limit: str, value: float, bound: float, sign: int) -> dict[str, Any]:
    return {"what": what, "limit": limit, "value": value, "met": value * sign >= bound * sign}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()

"""What the gateway costs: it and its bare upstream, called in turn on one machine.

The upstream answers at once, so the ratios are the worst case: a real engine takes milliseconds
for what this one does in microseconds. `requests_per_core_s` divides by the gateway's own CPU
time, so that it holds on a machine whose cores are shared with the caller and the upstream.

How that grows: with 1, 10 and 100 versions in the directory, a caller pinned to each in turn, since a
policy names two versions at most and the rest are asked by name; and with two gateways that have
half of the callers each.
    python benchmarks/gateway_proxy.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop
from http_load import load
from proxy_servers import CHUNKS, MODEL, run_gateway, run_upstream, start

CALLERS = 16
VERSIONS = (1, 10, 100)
GROWTH_ASK = 1.1
PACE_S = 0.002
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


@dataclass(frozen=True)
class Gateway:
    """One that runs: where it listens, and its process."""

    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        """What it has taken of the processors."""
        return sum(self.process.cpu_times()[:2])


@dataclass(frozen=True)
class Side:
    """Gateways that share the callers, each with so many versions."""

    name: str
    gateways: Sequence[Gateway]
    versions: int


def _request(shape: Shape, key: str, pin: str = "") -> bytes:
    body = json.dumps(
        {
            "model": MODEL,
            "stream": shape.stream,
            "pace_s": shape.pace_s,
            "messages": [{"role": "user", "content": "What is the capital of France? " * 8}],
        }
    ).encode()
    pinned = f"X-Linnet-Version: {pin}\r\n" if pin else ""
    named = _HEADERS.format(key=key) + pinned
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{named}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _load(port: int, shape: Shape, callers: int, seconds: float) -> tuple[float, list[float]]:
    return await load(port, [[_request(shape, f"key-{number}")] for number in range(callers)], seconds)


async def measure(bare: int, gateway: Gateway, *, rounds: int, seconds: float) -> dict[str, float]:
    """Bare and gateway in turn, `rounds` times each; medians."""
    figures: dict[str, float] = {}
    for shape in SHAPES:
        bare_rate, rate, cost = [], [], []
        await _load(gateway.port, shape, CALLERS, 0.3)
        for _ in range(rounds):
            bare_rate.append((await _load(bare, shape, CALLERS, seconds))[0])
            before = gateway.cpu_s()
            rate.append((await _load(gateway.port, shape, CALLERS, seconds))[0])
            cost.append((gateway.cpu_s() - before) / (rate[-1] * seconds))
        figures |= {
            f"{shape.name}_bare_rps": round(statistics.median(bare_rate), 1),
            f"{shape.name}_gateway_rps": round(statistics.median(rate), 1),
            f"{shape.name}_ratio": round(statistics.median(rate) / statistics.median(bare_rate), 3),
            f"{shape.name}_cpu_us": round(statistics.median(cost) * 1e6, 1),
        }
    figures |= await _added_ttft(bare, gateway.port, rounds, seconds / 2)
    figures["requests_per_core_s"] = round(1e6 / figures["unary_cpu_us"], 1)
    figures["chunk_cpu_us"] = round((figures["paced_cpu_us"] - figures["unary_cpu_us"]) / CHUNKS, 1)
    figures["gateway_rss_mb"] = round(gateway.process.memory_info().rss / 1e6, 1)
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


async def cost(gateways: Sequence[Gateway], versions: int, shape: Shape, seconds: float) -> float:
    """CPU of all gateways together for one request, us; each has its share of the callers."""
    asked = [_request(shape, f"key-{number}", pin=f"v{number % versions + 1}") for number in range(CALLERS)]
    before = sum(gateway.cpu_s() for gateway in gateways)
    shares = [asked[first :: len(gateways)] for first in range(len(gateways))]
    pairs = zip(gateways, shares, strict=True)
    rates = await asyncio.gather(*(load(gateway.port, own, seconds) for gateway, own in pairs))
    spent = sum(gateway.cpu_s() for gateway in gateways) - before
    return spent / (sum(rate for rate, _ in rates) * seconds) * 1e6


async def growth(sides: Sequence[Side], *, rounds: int, seconds: float) -> dict[str, float]:
    """Of each side in turn, for a request and for a streamed chunk; medians."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for side in sides:
            request, stream = [
                await cost(side.gateways, side.versions, shape, seconds) for shape in (SHAPES[0], SHAPES[2])
            ]
            found.setdefault(f"{side.name}.request_us", []).append(request)
            found.setdefault(f"{side.name}.chunk_us", []).append((stream - request) / CHUNKS)
    return {name: round(statistics.median(values), 1) for name, values in found.items()}


@contextmanager
def running(bare: int, versions: Sequence[int]) -> Iterator[list[Gateway]]:
    """A gateway for each number of versions, with a database of its own, in front of the upstream."""
    processes, found = [], []
    with tempfile.TemporaryDirectory() as home:
        try:
            for number, count in enumerate(versions):
                here = Path(home, str(number))
                here.mkdir()
                process, port = start(run_gateway, f"http://127.0.0.1:{bare}", str(here), count)
                processes.append(process)
                found.append(Gateway(port, psutil.Process(process.pid)))
            yield found
        finally:
            for process in processes:
                process.terminate()
                process.join()


def run(rounds: int, seconds: float) -> dict[str, float]:
    """Start the servers, measure, stop them."""
    upstream, bare = start(run_upstream)
    try:
        with running(bare, [2]) as [gateway]:
            figures = uvloop.run(measure(bare, gateway, rounds=rounds, seconds=seconds))
        with running(bare, [*VERSIONS, 2, 2]) as [*grown, one, two]:
            sides = [
                *(Side(f"versions_{n}", [own], n) for n, own in zip(VERSIONS, grown, strict=True)),
                Side("gateways_1", [one], 2),
                Side("gateways_2", [one, two], 2),
            ]
            return figures | uvloop.run(growth(sides, rounds=rounds, seconds=seconds / 2))
    finally:
        upstream.terminate()
        upstream.join()


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
        *(
            _ask(f"{what} of 100 versions, of that of 1", f"<= {GROWTH_ASK}", ratio, GROWTH_ASK, -1)
            for what, ratio in _growth(figures).items()
        ),
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


def _growth(figures: dict[str, float]) -> dict[str, float]:
    return {
        f"a {what}": round(figures[f"versions_100.{what}_us"] / figures[f"versions_1.{what}_us"], 2)
        for what in ("request", "chunk")
    }


def _ask(what: str, limit: str, value: float, bound: float, sign: int) -> dict[str, Any]:
    return {"what": what, "limit": limit, "value": value, "met": value * sign >= bound * sign}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()

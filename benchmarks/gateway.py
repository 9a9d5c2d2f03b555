"""The whole endpoint against a bare vLLM server, and ray.serve.llm against the same.

The tiny model, so that what lies before the engine counts; 16 callers, 16 tokens each. Linnet runs
as it is deployed: Serve's HAProxy, the gateway with 1% of the traffic split off, and one replica
of each version. Every side is measured in turn with a bare vLLM server that runs beside it.
`eighth` is with two of the callers pinned to the second version: two engines then share the cores,
and a tiny model's step costs as much for two sequences as for fourteen.

    python benchmarks/gateway.py [--json] [--quick] [--tokenizer DIRECTORY]

With a real tokenizer, such as that of smollm2 in the model store, a step of the engine costs what
its vocabulary costs; without, the vocabulary has 259 tokens and the engine is next to free.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop
from http_load import load
from plain_ray_llm import plain_endpoint
from serving import CPUS, MODEL, bare_vllm, endpoint, seconds_until_answered
from sides import run_apart

from tests.support.tiny_model import make_tiny_model

CALLERS = 16
TOKENS = 16
THROUGHPUT_ASK = 0.9
TTFT_ASK_MS = 2.0
PEOPLE = 100
"""Keys of each caller."""
SPIN_S = 2.0
"""vLLM's workers look for work without a pause for a second after the last."""
_LIMIT_S = 300.0
_DIRECT_STREAMING = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1"}

Figures = dict[str, float]


Side = Sequence[tuple[int, list[list[bytes]]]]
"""Ports, and for each of its callers the requests that it repeats in turn."""


def requests(stream: bool, callers: int, pin: str = "") -> list[list[bytes]]:
    """Requests of so many callers, each of many people, so that a split of 1% has its share."""
    prompt = "What is the capital of France?"
    ask = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "stream": stream}
    body = json.dumps(ask | {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        "Authorization: Bearer k\r\nX-Linnet-Key: {key}\r\n{pin}Content-Length: {length}\r\n\r\n"
    )
    pinned = f"X-Linnet-Version: {pin}\r\n" if pin else ""
    return [
        [
            head.format(key=f"key-{caller}-{n}", pin=pinned, length=len(body)).encode() + body
            for n in range(PEOPLE)
        ]
        for caller in range(callers)
    ]


async def rate(side: Side, seconds: float) -> tuple[float, list[float]]:
    """Requests per second over all ports, and seconds to each first byte."""
    parts = await asyncio.gather(*(load(port, callers, seconds) for port, callers in side))
    # The workers of a vLLM that was just asked spin for a while, at the expense of who comes next.
    await asyncio.sleep(SPIN_S)
    return sum(found[0] for found in parts), [first for found in parts for first in found[1]]


async def compare(sides: Callable[[bool, int], dict[str, Side]], rounds: int, seconds: float) -> Figures:
    """Both in turn; medians over the rounds, and ratios of the medians.

    `sides` makes them for streams or not, and for so many callers: `bare` and `other`.
    """
    figures: Figures = {}
    for name, stream in (("unary", False), ("stream", True)):
        found = sides(stream, CALLERS)
        rates: dict[str, list[float]] = {side: [] for side in found}
        for side in found.values():
            await rate(side, seconds / 4)
        for _ in range(rounds):
            for each, side in found.items():
                rates[each].append((await rate(side, seconds))[0])
        theirs, ours = (statistics.median(rates[each]) for each in ("bare", "other"))
        figures |= {f"{name}_bare_rps": theirs, f"{name}_rps": ours, f"{name}_ratio": ours / theirs}
    return {name: round(value, 3) for name, value in figures.items()}


async def first_tokens(sides: Callable[[bool, int], dict[str, Side]], rounds: int, seconds: float) -> Figures:
    """Median time to the first byte of a stream at one caller, both in turn."""
    firsts: dict[str, list[float]] = {"bare": [], "other": []}
    for _ in range(rounds):
        for each, side in sides(True, 1).items():
            firsts[each] += (await rate(side, seconds))[1]
    bare_ms, other_ms = (statistics.median(firsts[each]) * 1e3 for each in ("bare", "other"))
    found = {"ttft_bare_ms": bare_ms, "ttft_ms": other_ms, "ttft_added_ms": other_ms - bare_ms}
    return {name: round(value, 3) for name, value in found.items()}


def one_to_one(bare: str, other: str) -> Callable[[bool, int], dict[str, Side]]:
    """The same callers to either."""
    ports = {"bare": urlsplit(bare).port or 0, "other": urlsplit(other).port or 0}
    return lambda stream, callers: {each: [(port, requests(stream, callers))] for each, port in ports.items()}


def an_eighth_pinned(bare: str, other: str) -> Callable[[bool, int], dict[str, Side]]:
    """The same, but for one caller in eight, who are pinned to the second version."""
    theirs, ours = urlsplit(bare).port or 0, urlsplit(other).port or 0

    def sides(stream: bool, callers: int) -> dict[str, Side]:
        few = callers // 8
        pinned = [*requests(stream, callers - few, "v1"), *requests(stream, few, "v2")]
        return {"bare": [(theirs, requests(stream, callers))], "other": [(ours, pinned)]}

    return sides


def linnet_side(found: str, tokenizer: Path | None, rounds: int, seconds: float) -> None:
    """Linnet's endpoint beside bare servers; writes its figures to a file."""
    with endpoint(None, ["v1", "v2"], tokenizer_of=tokenizer) as served:
        served.deploy(["v1", "v2"])
        seconds_until_answered(served.url, f"{MODEL}:v2", _LIMIT_S)
        served.wait_until_serving(["v1", "v2"])
        served.linnet("rollout", "start", f"{MODEL}:v2", "--weight", "1", "--yes")
        with bare_vllm(served.settings.home / "weights" / "v1") as bare:
            seconds_until_answered(bare, MODEL, _LIMIT_S)
            alike = one_to_one(bare, served.url)
            figures = uvloop.run(compare(alike, rounds, seconds))
            figures |= uvloop.run(first_tokens(alike, rounds, seconds / 2))
            apart = uvloop.run(compare(an_eighth_pinned(bare, served.url), rounds, seconds))
    figures |= {f"eighth_{name}": value for name, value in apart.items()}
    Path(found).write_text(json.dumps(figures))


def ray_side(
    found: str, tokenizer: Path | None, rounds: int, seconds: float, environment: dict[str, str]
) -> None:
    """ray.serve.llm beside a bare server; writes its figures to a file."""
    os.environ |= environment
    with tempfile.TemporaryDirectory(prefix="linnet-bench-", ignore_cleanup_errors=True) as home:
        model = make_tiny_model(Path(home) / "weights", seed=1, tokenizer_of=tokenizer)
        with plain_endpoint(model, 1, CPUS) as (url, _), bare_vllm(model) as bare:
            seconds_until_answered(url, MODEL, _LIMIT_S)
            seconds_until_answered(bare, MODEL, _LIMIT_S)
            alike = one_to_one(bare, url)
            figures = uvloop.run(compare(alike, rounds, seconds))
            figures |= uvloop.run(first_tokens(alike, rounds, seconds / 2))
    Path(found).write_text(json.dumps(figures))


def measure(tokenizer: Path | None, rounds: int, seconds: float) -> Figures:
    """All sides, one after another, each in a process of its own."""
    figures: Figures = {}
    sides: dict[str, tuple[Any, ...]] = {
        "linnet": (linnet_side,),
        "ray_default": (ray_side, {}),
        "ray_direct": (ray_side, _DIRECT_STREAMING),
    }
    with tempfile.TemporaryDirectory(prefix="linnet-bench-") as home:
        for name, (side, *more) in sides.items():
            found = Path(home) / f"{name}.json"
            run_apart(side, str(found), tokenizer, rounds, seconds, *more)
            part = json.loads(found.read_text())
            print(f"{name}: {part}", file=sys.stderr)
            figures |= {f"{name}.{key}": value for key, value in part.items()}
    return figures


def asks(figures: Figures) -> list[dict[str, Any]]:
    """What was asked for, and whether it holds."""
    unary, stream = figures["linnet.unary_ratio"], figures["linnet.stream_ratio"]
    added = figures["linnet.ttft_added_ms"]
    at_least, at_most = f">= {THROUGHPUT_ASK}", f"<= {TTFT_ASK_MS}"
    return [
        {"what": "unary, of bare vLLM", "limit": at_least, "value": unary, "met": unary >= THROUGHPUT_ASK},
        {
            "what": "streams, of bare vLLM",
            "limit": at_least,
            "value": stream,
            "met": stream >= THROUGHPUT_ASK,
        },
        {"what": "added TTFT p50, ms", "limit": at_most, "value": added, "met": added <= TTFT_ASK_MS},
    ]


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one short round each")
    parser.add_argument("--tokenizer", type=Path, help="directory of a model whose tokenizer is used")
    arguments = parser.parse_args()
    figures = measure(arguments.tokenizer, *((1, 4.0) if arguments.quick else (5, 6.0)))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        found = {"name": "gateway", "machine": machine, "figures": figures, "asks": asks(figures)}
        print(json.dumps(found))
        return
    print(machine)
    for name, value in figures.items():
        print(f"  {name:<32}{value:>10.3f}")
    for ask in asks(figures):
        print(f"  {'met   ' if ask['met'] else 'MISSED'} {ask['what']}: {ask['value']} (ask {ask['limit']})")


if __name__ == "__main__":
    main()

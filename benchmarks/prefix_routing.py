"""How much of their prompts two replicas find in their caches, by the gateway's routing policy.

Conversations of several turns with one system prompt, several at a time and turn by turn, as people
do who think in between. All of them fit into the caches of both replicas together, and not into
that of one. Both policies in turn, on the same replicas, each time with new conversations. The hit
rate is vLLM's own: tokens found by tokens asked for (`vllm:prefix_cache_hits`, `_queries`), as
Ray's metrics tell them for both replicas.

    python benchmarks/prefix_routing.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import statistics
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving import MODEL, endpoint, seconds_until_answered

from tests.e2e.processes import gateways
from tests.support.endpoint import Endpoint, wait_for

POLICIES = ("least_loaded", "prefix_aware")
RATIO_ASK = 1.2
CONVERSATIONS, TURNS, AT_A_TIME, TOKENS = 24, 6, 8, 8
SYSTEM = "You answer in one short sentence. " * 6
# Tokens are letters here: 8,192 in the cache of one replica, some 14,000 in all conversations.
ENGINE = {"max_model_len": 1024, "block_size": 32, "num_gpu_blocks_override": 256}
_LIMIT_S = 300.0
_COUNTER = re.compile(r"^ray_vllm_prefix_cache_(hits|queries)_total\{.*\} (\S+)$", re.MULTILINE)

Figures = dict[str, float]


class Conversation:
    """Grows by a question and an answer with each turn."""

    def __init__(self, url: str, number: random.Random) -> None:
        self._url = url
        self._random = number
        self._messages = [{"role": "system", "content": SYSTEM}]

    def turn(self) -> tuple[int, float]:
        """Ask the next question; returns the tokens of the prompt and the seconds it took."""
        question = "".join(self._random.choices("abcdefghijklmnopqrstuvwxyz ", k=60))
        self._messages.append({"role": "user", "content": question})
        body = {"model": MODEL, "messages": self._messages, "max_tokens": TOKENS, "ignore_eos": True}
        request = urllib.request.Request(
            f"{self._url}/v1/chat/completions",
            json.dumps(body | {"temperature": 0}).encode(),
            {"content-type": "application/json"},
        )
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=_LIMIT_S) as response:
            answer = json.load(response)
        self._messages.append(answer["choices"][0]["message"])
        return answer["usage"]["prompt_tokens"], time.perf_counter() - began


def counted(served: Endpoint) -> dict[str, float]:
    """Tokens that all replicas looked for in their caches, and found, since they started."""
    found = {"hits": 0.0, "queries": 0.0}
    listed = json.loads(Path(served.info.temp_dir, "prom_metrics_service_discovery.json").read_text())
    for target in (target for group in listed for target in group["targets"]):
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=_LIMIT_S) as answer:
            for name, value in _COUNTER.findall(answer.read().decode()):
                found[name] += float(value)
    return found


def deploy(served: Endpoint, policy: str) -> None:
    """Two replicas of v1, which stay, and a new gateway with this policy."""
    before = {process.pid for process in gateways()}
    served.deploy(["v1"], replicas={"v1": 2}, gateway={"routing": {"policy": policy}}, v1=ENGINE)
    wait_for(lambda: [p for p in gateways() if p.pid not in before], "the gateway is new", _LIMIT_S)
    wait_for(lambda: len(gateways()) == 1, "the old gateway is gone", _LIMIT_S)
    wait_for(lambda: len(served.serving_replicas()) == 2, "both replicas serve", _LIMIT_S)
    served.wait_until_serving(["v1"])
    seconds_until_answered(served.url, MODEL, _LIMIT_S)


def converse(served: Endpoint, conversations: int, seed: int) -> Figures:
    """All conversations, each turn of all before the next."""
    before, source = counted(served), random.Random(seed)
    talks = [Conversation(served.url, random.Random(source.random())) for _ in range(conversations)]
    took, tokens = [], 0
    with ThreadPoolExecutor(AT_A_TIME) as callers:
        for _ in range(TURNS):
            for prompt, seconds in callers.map(Conversation.turn, talks):
                tokens += prompt
                took.append(seconds)
    # Ray's metrics come with a delay.
    wait_for(lambda: counted(served)["queries"] >= before["queries"] + tokens, "all is counted", _LIMIT_S)
    after = counted(served)
    asked = after["queries"] - before["queries"]
    return {
        "hit_rate": (after["hits"] - before["hits"]) / asked,
        "turn_p50_ms": statistics.median(took) * 1e3,
    }


def measure(rounds: int, conversations: int) -> Figures:
    """Both policies in turn; medians over the rounds."""
    os.environ |= {"RAY_metrics_report_interval_ms": "1000"}
    found: dict[str, list[Figures]] = {policy: [] for policy in POLICIES}
    with endpoint(None, ["v1"]) as served:
        for number in range(rounds):
            for policy in POLICIES:
                deploy(served, policy)
                seed = len(POLICIES) * number + POLICIES.index(policy)
                found[policy].append(converse(served, conversations, seed))
                print(f"{policy}: {found[policy][-1]}", file=sys.stderr)
    figures = {
        f"{policy}.{name}": round(statistics.median(one[name] for one in seen), 3)
        for policy, seen in found.items()
        for name in seen[0]
    }
    ratio = figures["prefix_aware.hit_rate"] / figures["least_loaded.hit_rate"]
    return {**figures, "hit_rate_ratio": round(ratio, 3)}


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one round")
    arguments = parser.parse_args()
    figures = measure(1 if arguments.quick else 3, CONVERSATIONS)
    value = figures["hit_rate_ratio"]
    met = value >= RATIO_ASK
    what = "hit rate by prefix, of that by load"
    asks: list[dict[str, Any]] = [{"what": what, "limit": f">= {RATIO_ASK}", "value": value, "met": met}]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        print(json.dumps({"name": "prefix_routing", "machine": machine, "figures": figures, "asks": asks}))
        return
    print(machine)
    for name, figure in figures.items():
        print(f"  {name:<28}{figure:>10.3f}")
    print(f"  {'met   ' if met else 'MISSED'} {what}: {value} (ask >= {RATIO_ASK})")


if __name__ == "__main__":
    main()

"""Twenty minutes of random harm to engines, replicas and gateways under load that knows its answers."""

from __future__ import annotations

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil
import pytest

from tests.e2e import processes
from tests.e2e.comparison import PROMPTS, RETRIES, Comparison, ask
from tests.support.endpoint import MODEL, Endpoint, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(5400)]

# `--log-cli-level=info` shows each kill.
TIMES = logging.getLogger(__name__)

KILLS = 50
SECONDS = 1200
SEED = 20261125
GATEWAY_LOSS_S = 5.0
"""Within so many seconds of a killed gateway a stream may be cut, since its connection went with it."""


@dataclass
class Strength:
    """Two replicas and two gateways that answer. A lost replica's row outlives it by its lease.

    So replicas are counted by the ids that were ever proven: one more for each that was lost.
    """

    endpoint: Endpoint
    proven: set[str] = field(default_factory=set)
    lost: int = 0

    def is_whole(self) -> bool:
        self.proven |= {name for version, name in self.endpoint.serving_replicas() if version == "v1"}
        if len(self.proven) < 2 + self.lost or len(processes.with_engine()) < 2:
            return False
        try:
            return len(processes.answering_gateways(self.endpoint)) >= 2
        except OSError:
            return False

    def become_whole(self, after: str) -> None:
        try:
            wait_for(self.is_whole, f"full strength after: {after}", 240)
        except AssertionError as error:
            rows = self.endpoint.linnet("serve", "status", MODEL)["data"]
            told = json.dumps([self.endpoint.applications(), rows], indent=1)
            raise AssertionError(f"{error}; lost {self.lost}, proven {sorted(self.proven)}: {told}") from None


@pytest.fixture
def strong(shared_endpoint) -> Iterator[Strength]:
    shared_endpoint.deploy(["v1", "v2"], replicas={"v1": 2}, gateways=2)
    strength = Strength(shared_endpoint)
    wait_for(strength.is_whole, "two replicas and two gateways", 240)
    yield strength
    shared_endpoint.deploy(["v1", "v2"])


HARMS: dict[str, tuple[Callable[[], list[psutil.Process]], Callable[[psutil.Process], None]]] = {
    "engine killed": (processes.replicas, processes.kill_engine),
    "engine stopped": (processes.replicas, processes.stop_engine),
    "replica killed": (processes.replicas, psutil.Process.kill),
    "gateway killed": (processes.gateways, psutil.Process.kill),
}


def resident(found: list[psutil.Process]) -> int:
    return max(process.memory_info().rss for process in found)


def test_fifty_kills_in_twenty_minutes(strong, told):
    draw, endpoint = random.Random(SEED), strong.endpoint
    expected = {prompt: ask(endpoint, prompt, stream=False) for prompt in PROMPTS}
    counts: Counter[str] = Counter()
    gateway_kills: list[float] = []
    began, before = time.monotonic(), resident(processes.gateways())
    with Comparison(endpoint=endpoint, expected=expected, retries=RETRIES) as comparison:
        while sum(counts.values()) < KILLS or time.monotonic() - began < SECONDS:
            name = draw.choice(list(HARMS))
            find, harm = HARMS[name]
            victim = draw.choice(find())
            harm(victim)
            counts[name] += 1
            if name == "gateway killed":
                gateway_kills.append(time.monotonic())
            else:
                strong.lost += 1
            wait_for(lambda pid=victim.pid: not psutil.pid_exists(pid), f"the end of it: {name}", 60)
            took_s = time.monotonic()
            strong.become_whole(name)
            took_s = time.monotonic() - took_s
            TIMES.info("%s: whole after %.1f s; wrong: %s", name, took_s, comparison.wrong[-3:])
            time.sleep(draw.uniform(0.0, 2.0))
    replica_kills = sum(counts.values()) - counts["gateway killed"]
    # One that was killed before its gateway knew it is told when its lease has run out, after a minute.
    receipts = wait_for(lambda: complete(endpoint, replica_kills), "a receipt for each", 120)
    told.append(
        f"{sum(counts.values())} kills in {time.monotonic() - began:.0f} s: {dict(counts)}; "
        f"{comparison.equal} answers equal, {len(comparison.wrong)} wrong or failed, "
        f"{len(comparison.cut)} cut with their gateway, {len(receipts)} receipts; "
        f"memory of a gateway {before >> 20} -> {resident(processes.gateways()) >> 20} MiB"
    )
    assert comparison.wrong == []
    assert all(any(0 <= at - kill <= GATEWAY_LOSS_S for kill in gateway_kills) for at in comparison.cut)
    assert len(processes.titled("VLLM::EngineCore")) == 3
    assert resident(processes.gateways()) < 1.5 * before


def complete(endpoint: Endpoint, count: int) -> list[dict]:
    rows = endpoint.linnet("serve", "receipts", MODEL)["data"]
    found = [row for row in rows if row["version"] == "v1" and row["replaced_by"]]
    return found if len(found) >= count else []

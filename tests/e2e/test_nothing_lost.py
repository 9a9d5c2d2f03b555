"""Processes of replicas are harmed under load: every answer comes, whole, and is the right one."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.e2e import processes
from tests.e2e.comparison import PROMPTS, Comparison, ask
from tests.support.endpoint import MODEL, Endpoint, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine]


@pytest.fixture(scope="module")
def two_replicas(shared_endpoint) -> Iterator[Endpoint]:
    shared_endpoint.deploy(["v1", "v2"], replicas={"v1": 2})
    wait_for(lambda: len(processes.proven(shared_endpoint)) >= 2, "two replicas of v1", 240)
    assert len(processes.replicas()) == 2
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def continued(endpoint: Endpoint) -> float:
    with urllib.request.urlopen(f"{endpoint.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("linnet_gateway_continued_streams_total{")
    )


def made_good(endpoint: Endpoint) -> list[dict[str, Any]]:
    rows = endpoint.linnet("serve", "receipts", MODEL)["data"]
    found = [row for row in rows if row["version"] == "v1" and row["replaced_by"]]
    return found if len(found) >= 3 else []


def test_killed_and_stopped_engines_and_replicas_cost_no_answer(two_replicas):
    expected = {prompt: ask(two_replicas, prompt, stream=False) for prompt in PROMPTS}
    with Comparison(endpoint=two_replicas, expected=expected) as comparison:
        for harm in (processes.kill_engine, psutil.Process.kill, processes.stop_engine):
            before, equal = processes.proven(two_replicas), comparison.equal
            wait_for(lambda equal=equal: comparison.equal >= equal + 20, "the load runs")
            victim, *_ = processes.replicas()
            pid = victim.pid
            harm(victim)
            wait_for(lambda pid=pid: not psutil.pid_exists(pid), "the replica ends", 40)
            wait_for(
                lambda before=before: len(processes.proven(two_replicas) - before) == 1, "a new replica", 240
            )
    assert comparison.wrong == []
    assert comparison.cut == []
    assert comparison.equal > 80
    assert continued(two_replicas) >= 1
    # One that no request noticed is told when its lease has run out.
    receipts = wait_for(lambda: made_good(two_replicas), "three receipts", 90)
    assert sum(receipt["continued"] for receipt in receipts) >= 1
    assert not any(receipt["failed"] for receipt in receipts)
    assert all(receipt["total_s"] < 240 and receipt["verify_s"] > 0 for receipt in receipts)

"""Processes of replicas are killed under load: every answer comes, whole, and is the right one."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from tests.support.endpoint import MODEL, Endpoint, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine]

PROMPTS = [f"Once upon a time {number}" for number in range(6)]
TOKENS = 120
CALLERS = 4


@pytest.fixture(scope="module")
def two_replicas(shared_endpoint) -> Iterator[Endpoint]:
    shared_endpoint.deploy(["v1", "v2"], replicas={"v1": 2})
    wait_for(lambda: len(replicas_of(shared_endpoint)) >= 2, "two replicas of v1", 240)
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def replicas_of(endpoint: Endpoint) -> set[str]:
    """Ids of the proven replicas of v1, once two of its actors run."""
    proven = {replica for version, replica in endpoint.serving_replicas() if version == "v1"}
    return proven if len(actors()) >= 2 else set()


def actors() -> list[psutil.Process]:
    title = f"ServeReplica:{MODEL}-v1"
    return [p for p in psutil.process_iter(["cmdline"]) if title in " ".join(p.info["cmdline"] or [])]


def engine_core_of(actor: psutil.Process) -> psutil.Process:
    return next(p for p in actor.children(recursive=True) if "EngineCore" in " ".join(p.cmdline()))


def body_of(prompt: str, *, stream: bool) -> bytes:
    ask = {
        "model": f"{MODEL}:v1",
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    return json.dumps(ask | {"stream": stream}).encode()


def ask(endpoint: Endpoint, prompt: str, *, stream: bool) -> str:
    request = urllib.request.Request(
        f"{endpoint.url}/v1/completions", body_of(prompt, stream=stream), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=90) as answer:
        raw = answer.read()
    if not stream:
        return json.loads(raw)["choices"][0]["text"]
    *events, done, end = raw.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b""), raw[-300:]
    return "".join(json.loads(event.removeprefix(b"data: "))["choices"][0]["text"] for event in events)


@dataclass
class Comparison:
    """Callers who know what each answer must be, three streams in four."""

    endpoint: Endpoint
    expected: dict[str, str]
    equal: int = 0
    wrong: list[str] = field(default_factory=list)

    def __enter__(self) -> Comparison:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(CALLERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        count = number
        while not self._stop.is_set():
            count += 1
            prompt = PROMPTS[count % len(PROMPTS)]
            try:
                answer = ask(self.endpoint, prompt, stream=count % 4 != 0)
            except (OSError, AssertionError, ValueError, KeyError, IndexError) as error:
                self.wrong.append(repr(error))
                continue
            if answer == self.expected[prompt]:
                self.equal += 1
            else:
                self.wrong.append(f"{prompt}: {answer!r}, not {self.expected[prompt]!r}")


def continued(endpoint: Endpoint) -> float:
    with urllib.request.urlopen(f"{endpoint.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("linnet_gateway_continued_streams_total{")
    )


def kill_engine(actor: psutil.Process) -> None:
    engine_core_of(actor).kill()


def stop_engine(actor: psutil.Process) -> None:
    """It holds its sockets and computes nothing."""
    engine_core_of(actor).suspend()


def test_killed_and_stopped_engines_and_replicas_cost_no_answer(two_replicas):
    expected = {prompt: ask(two_replicas, prompt, stream=False) for prompt in PROMPTS}
    with Comparison(two_replicas, expected) as comparison:
        for harm in (kill_engine, psutil.Process.kill, stop_engine):
            before, equal = replicas_of(two_replicas), comparison.equal
            wait_for(lambda equal=equal: comparison.equal >= equal + 20, "the load runs")
            victim, *_ = actors()
            pid = victim.pid
            harm(victim)
            wait_for(lambda pid=pid: not psutil.pid_exists(pid), "the replica ends", 40)
            wait_for(
                lambda before=before: len(replicas_of(two_replicas) - before) == 1,
                "a new replica proven",
                240,
            )
    assert comparison.wrong == []
    assert comparison.equal > 60
    assert continued(two_replicas) >= 1
    receipts = wait_for(lambda: made_good(two_replicas), "three receipts", 20)
    assert {receipt["signal"] for receipt in receipts} == {"refused"}
    assert sum(receipt["continued"] for receipt in receipts) >= 1
    assert not any(receipt["failed"] for receipt in receipts)
    assert all(receipt["total_s"] < 240 and receipt["verify_s"] > 0 for receipt in receipts)


def made_good(endpoint: Endpoint) -> list[dict[str, Any]]:
    rows = endpoint.linnet("serve", "receipts", MODEL)["data"]
    found = [row for row in rows if row["version"] == "v1" and row["replaced_by"]]
    return found if len(found) >= 3 else []

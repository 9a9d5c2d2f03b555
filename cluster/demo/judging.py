"""The step in which the rollout judges by itself: from 0% to stable again, by a policy."""

from __future__ import annotations

import secrets
import time
from typing import Any

import yaml

from cluster.demo import rolling
from cluster.demo.client import MODEL, Question
from cluster.demo.figures import Mark
from cluster.demo.state import Demo
from cluster.storage import Storage
from cluster.traffic import TrafficPolicy

POLICY: dict[str, Any] = {
    "steps": [{"weight": 50}, {"weight": 100}],
    # Two engines share two cores here, so that times say little: only what is far beyond is a fault.
    "gates": [
        {"metric": "error_rate", "max_ratio": 1.5, "tolerate": "10%"},
        {"metric": "ttft", "quantile": 0.5, "max_ratio": 3},
    ],
}
TIMEOUT = "3m"
_BATCH = 16


def promote_by_policy(demo: Demo) -> None:
    """The tuned version takes the traffic once more, by what its answers show.

    Raises GateFailedError when it is taken back, and TimedOutError when it is not over in time.
    """
    file = demo.directory / "canary.yaml"
    text = yaml.safe_dump(POLICY, sort_keys=False)
    Storage(str(demo.directory)).write_atomic(file.name, text.encode())
    demo.marks.append(Mark(name="start", at=time.time()))
    demo.commands.linnet("rollout", "start", f"{MODEL}:{demo.tuned}", "--policy", str(file), "--yes")
    waiting = demo.commands.start_linnet("rollout", "wait", MODEL, "--timeout", TIMEOUT)
    asked = 0
    while waiting.running:
        asked += _ask_fresh_keys(demo)
    seen = waiting.result()
    demo.marks.append(Mark(name="promote", at=time.time()))
    [status] = demo.commands.look_linnet("rollout", "status", MODEL)["data"]
    demo.policy = TrafficPolicy(model=MODEL, revision=status["revision"], stable=demo.tuned)
    rolling.require_routed(demo)
    took = demo.marks[-1].at - demo.marks[-2].at
    demo.teller.say(
        f"{seen['phase']} after {took:.0f} s, judged by the client's answers and {asked} more: {seen['why']}"
    )


def _ask_fresh_keys(demo: Demo) -> int:
    """Streams, since the time to the first token is of streams alone."""
    keys = [secrets.token_hex(8) for _ in range(_BATCH)]
    answers = rolling.ask(demo, [Question(key, "Hello", max_tokens=1, stream=True) for key in keys])
    rolling.require_answered(answers)
    return len(answers)

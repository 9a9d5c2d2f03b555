"""An engine core is killed with -9 under load, two replicas: Linnet against ray.serve.llm.

Failed requests, the slowest beyond the usual one, and the time until two replicas run again that
are not the one whose engine died.

    python benchmarks/serve_recovery.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plain_ray_llm import plain_endpoint
from serving import CPUS, MODEL, Callers, endpoint, seconds_until_answered
from sides import run_apart

from tests.support.tiny_model import make_tiny_model

FAILED_ASK = 0
SLOWEST_ASK_S = 2.0
STRENGTH_ASK = 0.35
CALLERS = 8
TOKENS = 60
_WARM_S = 8.0
_AFTER_S = 5.0
_LIMIT_S = 240.0

Figures = dict[str, float]


def under_load(url: str, dashboard: str, model: str, title: str) -> Figures:
    """Kill one engine core of the replicas called `title` under load, and watch."""
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    client = ServeSubmissionClient(dashboard)
    seconds_until_answered(url, model, _LIMIT_S)
    _wait_for_two(client, title, without=None)
    with Callers(callers=CALLERS, url=url, model=model, tokens=TOKENS) as callers:
        time.sleep(_WARM_S)
        warm = len(callers.answers)
        usual = statistics.median(took for _, took in callers.answers[warm // 2 :])
        victim = _running(client, title)[0]
        core = next(p for p in psutil.Process(victim).children(recursive=True) if "EngineCore" in _title(p))
        killed = time.monotonic()
        core.kill()
        strength = _wait_for_two(client, title, without=victim) - killed
        time.sleep(_AFTER_S)
    after = [took for end, took in callers.answers if end > killed]
    return {
        "failed": float(len(callers.failures)),
        "slowest_beyond_usual_s": max(after) - usual,
        "usual_s": usual,
        "answered": float(len(after)),
        "full_strength_s": strength,
    }


def _wait_for_two(client: Any, title: str, *, without: int | None) -> float:
    limit = time.monotonic() + _LIMIT_S
    while time.monotonic() < limit:
        if len([pid for pid in _running(client, title) if pid != without]) >= 2:
            return time.monotonic()
        time.sleep(0.1)
    raise TimeoutError(f"two replicas of {title} did not run within {_LIMIT_S:.0f} s")


def _running(client: Any, title: str) -> list[int]:
    """Pids of the replicas that Serve calls running."""
    return [
        replica["pid"]
        for application in client.get_serve_details()["applications"].values()
        for name, deployment in application["deployments"].items()
        if name.startswith(title)
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING"
    ]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def linnet_side(found: str) -> None:
    """Linnet's endpoint; writes its figures to a file."""
    with endpoint(None, ["v1"]) as served:
        os.environ |= served.environment
        served.deploy(["v1"], replicas={"v1": 2})
        figures = under_load(served.url, served.info.dashboard_url, MODEL, f"{MODEL}-v1")
    Path(found).write_text(json.dumps(figures))


def plain_side(found: str) -> None:
    """ray.serve.llm's; writes its figures to a file."""
    with tempfile.TemporaryDirectory(prefix="linnet-bench-", ignore_cleanup_errors=True) as home:
        model = make_tiny_model(Path(home) / "weights", seed=1)
        with plain_endpoint(model, 2, CPUS) as (url, dashboard):
            figures = under_load(url, dashboard, MODEL, "LLMServer")
    Path(found).write_text(json.dumps(figures))


def measure(rounds: int) -> Figures:
    """Medians over the rounds, failures summed."""
    results: dict[str, list[Figures]] = {"ray": [], "linnet": []}
    with tempfile.TemporaryDirectory(prefix="linnet-bench-") as home:
        for number in range(rounds):
            for side, run in (("ray", plain_side), ("linnet", linnet_side)):
                found = Path(home) / f"{side}-{number}.json"
                run_apart(run, str(found))
                results[side].append(json.loads(found.read_text()))
                print(f"round {number}: {side} {results[side][-1]}", file=sys.stderr)
    figures = {
        f"{side}.{name}": round(
            sum(r[name] for r in found) if name == "failed" else statistics.median(r[name] for r in found), 3
        )
        for side, found in results.items()
        for name in found[0]
    }
    figures["full_strength_ratio"] = round(
        figures["linnet.full_strength_s"] / figures["ray.full_strength_s"], 3
    )
    return figures


def asks(figures: Figures) -> list[dict[str, Any]]:
    """What was asked for, and whether it holds."""
    bounds = [
        ("failed requests", "linnet.failed", FAILED_ASK),
        ("slowest beyond the usual, s", "linnet.slowest_beyond_usual_s", SLOWEST_ASK_S),
        ("full strength, of Ray's time", "full_strength_ratio", STRENGTH_ASK),
    ]
    return [
        {"what": what, "limit": f"<= {bound}", "value": figures[name], "met": figures[name] <= bound}
        for what, name, bound in bounds
    ]


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one round")
    arguments = parser.parse_args()
    figures = measure(1 if arguments.quick else 3)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        found = {"name": "serve_recovery", "machine": machine, "figures": figures, "asks": asks(figures)}
        print(json.dumps(found))
        return
    print(machine)
    for name, value in figures.items():
        print(f"  {name:<36}{value:>10.3f}")
    for ask in asks(figures):
        print(f"  {'met   ' if ask['met'] else 'MISSED'} {ask['what']}: {ask['value']} (ask {ask['limit']})")


if __name__ == "__main__":
    main()

"""Resident memory of a gateway and of a replica under load, with all that a gateway can do turned on.

Resident is what `ps` shows. Processes of one host share the pages of their libraries; `shared
fairly` divides these among them, which is what a further one costs. `gateway_most` is the most that
was seen of a gateway while it was called, the short-lived process that makes Parquet of its access
log included: it does so each second here, and each five minutes by default.

    python benchmarks/memory.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving import MODEL, Callers, endpoint, seconds_until_answered

GATEWAY = "ServeReplica:gateway"
GATEWAY_ASK_MB = 300
_LIMIT_S = 300.0
_MB = 1e6


def held(title: str) -> dict[str, float]:
    """Of the process whose command line has `title`, and of all below it; MB."""
    root = next(p for p in psutil.process_iter(["cmdline"]) if title in " ".join(p.info["cmdline"] or []))
    resident = shared_fairly = count = 0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            memory = process.memory_full_info()
            resident, shared_fairly, count = resident + memory.rss, shared_fairly + memory.pss, count + 1
    return {
        "resident_mb": resident / _MB,
        "shared_fairly_mb": shared_fairly / _MB,
        "processes": float(count),
    }


def most_held(url: str, seconds: float) -> dict[str, float]:
    """The most of the gateway within some seconds, in which its metrics are read too."""
    until, found = time.monotonic() + seconds, []
    while time.monotonic() < until:
        with urllib.request.urlopen(f"{url}/metrics", timeout=_LIMIT_S) as answer:
            answer.read()
        found.append(held(GATEWAY))
        time.sleep(0.1)
    return max(found, key=lambda one: one["resident_mb"])


def measure(seconds: float) -> dict[str, float]:
    """An endpoint of two versions with a split; the gateway makes Parquet of its log while it is called."""
    all_on = {
        "access_log": {"flush_s": 0.1, "rotate_s": 1.0},
        "auth": "optional",
        "admin_paths": "public",
    }
    with endpoint(None, ["v1", "v2"]) as served:
        served.deploy(["v1", "v2"], gateway=all_on)
        served.wait_until_serving(["v1", "v2"])
        seconds_until_answered(served.url, f"{MODEL}:v2", _LIMIT_S)
        served.linnet("rollout", "start", f"{MODEL}:v2", "--weight", "10", "--yes")
        with Callers(callers=8, url=served.url, model=MODEL, tokens=16):
            most = most_held(served.url, seconds)
        logs, spools = (served.settings.home / name / "access" for name in ("logs", "spool"))
        until = time.monotonic() + _LIMIT_S
        while any(spools.iterdir()) or not any(logs.rglob("*.parquet")) or held(GATEWAY)["processes"] > 1:
            if time.monotonic() > until:
                raise TimeoutError("the access log was not written")
            time.sleep(0.1)
        found = {
            "gateway": held(GATEWAY),
            "gateway_most": most,
            "replica": held(f"ServeReplica:{MODEL}-v1"),
        }
    return {f"{name}.{what}": round(value, 1) for name, part in found.items() for what, value in part.items()}


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="less load")
    arguments = parser.parse_args()
    figures = measure(5.0 if arguments.quick else 30.0)
    value = figures["gateway_most.resident_mb"]
    met = value <= GATEWAY_ASK_MB
    asks: list[dict[str, Any]] = [
        {
            "what": "resident memory of a gateway at its most, MB",
            "limit": f"<= {GATEWAY_ASK_MB}",
            "value": value,
            "met": met,
        }
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        print(json.dumps({"name": "memory", "machine": machine, "figures": figures, "asks": asks}))
        return
    print(machine)
    for name, figure in figures.items():
        print(f"  {name:<28}{figure:>10.1f}")
    print(f"  {'met   ' if met else 'MISSED'} {asks[0]['what']}: {value} (ask {asks[0]['limit']})")


if __name__ == "__main__":
    main()

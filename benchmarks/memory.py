"""Resident memory of a gateway and of a replica, after load and with the access log written.

Resident is what `ps` shows. Processes of one host share the pages of their libraries; `shared
fairly` divides these among them, which is what a further one costs.

    python benchmarks/memory.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving import MODEL, Callers, endpoint, seconds_until_answered

GATEWAY_ASK_MB = 300
_LIMIT_S = 300.0
_MB = 1e6


def held(title: str) -> dict[str, float]:
    """Of the process whose command line has `title`, and of all below it; MB."""
    root = next(p for p in psutil.process_iter(["cmdline"]) if title in " ".join(p.info["cmdline"] or []))
    tree = [root, *root.children(recursive=True)]
    return {
        "resident_mb": sum(p.memory_info().rss for p in tree) / _MB,
        "shared_fairly_mb": sum(p.memory_full_info().pss for p in tree) / _MB,
        "processes": float(len(tree)),
    }


def measure(seconds: float) -> dict[str, float]:
    """An endpoint of two versions; the gateway makes Parquet of its log while it is called."""
    log = {"flush_s": 0.1, "rotate_s": 1.0}
    with endpoint(None, ["v1", "v2"]) as served:
        served.deploy(["v1", "v2"], gateway={"access_log": log})
        served.wait_until_serving(["v1", "v2"])
        seconds_until_answered(served.url, f"{MODEL}:v2", _LIMIT_S)
        with Callers(served.url, MODEL, 8, 16):
            time.sleep(seconds)
        logs = served.settings.home / "logs" / "access"
        until = time.monotonic() + _LIMIT_S
        while not any(logs.rglob("*.parquet")):
            if time.monotonic() > until:
                raise TimeoutError("the access log was not written")
            time.sleep(0.1)
        found = {"gateway": held("ServeReplica:gateway"), "replica": held(f"ServeReplica:{MODEL}-v1")}
    return {f"{name}.{what}": round(value, 1) for name, part in found.items() for what, value in part.items()}


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="less load")
    arguments = parser.parse_args()
    figures = measure(5.0 if arguments.quick else 30.0)
    value = figures["gateway.resident_mb"]
    met = value <= GATEWAY_ASK_MB
    asks: list[dict[str, Any]] = [
        {
            "what": "resident memory of a gateway, MB",
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

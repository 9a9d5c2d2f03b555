"""A new version, from its deploy to its first proven answer, against a bare vLLM server.

Both load the same model with the same engine arguments, in turn, on one machine; Linnet's side runs
`serve deploy` of a file with one more version on an endpoint that serves another already.

    python benchmarks/cold_start.py [--json] [--quick] [--model DIRECTORY]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving import MODEL, Endpoint, bare_vllm, endpoint, seconds_until_answered

ASK = 0.5
_LIMIT_S = 300.0


def bare(model: Path) -> float:
    """Seconds from starting vLLM's own server to its first answer."""
    with bare_vllm(model) as url:
        return seconds_until_answered(url, MODEL, _LIMIT_S)


def linnet(served: Endpoint) -> float:
    """Seconds from `serve deploy` of one more version to its first answer; it is taken away again."""
    began = time.monotonic()
    served.deploy(["v1", "v2"])
    seconds_until_answered(served.url, f"{MODEL}:v2", _LIMIT_S)
    took = time.monotonic() - began
    served.deploy(["v1"])
    _wait_until_gone(f"ServeReplica:{MODEL}-v2")
    return took


def _wait_until_gone(title: str) -> None:
    limit = time.monotonic() + _LIMIT_S
    while any(title in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])):
        if time.monotonic() > limit:
            raise TimeoutError(f"{title} did not end")
        time.sleep(0.1)


def measure(model: Path | None, rounds: int) -> dict[str, float]:
    """Medians over the rounds."""
    with endpoint(model, ["v1", "v2"]) as served:
        source = model or served.settings.home / "weights" / "v2"
        served.deploy(["v1"])
        seconds_until_answered(served.url, f"{MODEL}:v1", _LIMIT_S)
        pairs = []
        for number in range(rounds):
            pairs.append((bare(source), linnet(served)))
            print(f"round {number}: vLLM {pairs[-1][0]:.1f} s, Linnet {pairs[-1][1]:.1f} s", file=sys.stderr)
    theirs, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"vllm_s": round(theirs, 2), "linnet_s": round(ours, 2), "ratio": round(ours / theirs, 3)}


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--model", type=Path, help="directory of a real model in Hugging Face's form")
    arguments = parser.parse_args()
    figures = measure(arguments.model, 1 if arguments.quick else 3)
    met = figures["ratio"] <= ASK
    asks: list[dict[str, Any]] = [
        {
            "what": "deploy to first answer, of vLLM's",
            "limit": f"<= {ASK}",
            "value": figures["ratio"],
            "met": met,
        }
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        print(json.dumps({"name": "cold_start", "machine": machine, "figures": figures, "asks": asks}))
        return
    print(machine)
    for name, value in figures.items():
        print(f"  {name:<12}{value:>10.3f}")
    print(f"  {'met   ' if met else 'MISSED'} {asks[0]['what']}: {figures['ratio']} (ask {asks[0]['limit']})")


if __name__ == "__main__":
    main()

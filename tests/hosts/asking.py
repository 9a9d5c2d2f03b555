"""Callers on a host: `python -m tests.hosts.asking URL` asks until its input ends, then tells how it went.

With `--split` there are others too, who ask for the model as its traffic is split. With `--calm` they are
fewer and rest between, so that a host can boot beside them on cores that it shares with who answers.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

from tests.e2e.comparison import PROMPTS, Comparison, Split, ask


def main(url: str, *options: str) -> None:
    """Writes `asking` once the callers are at work; at the end, as JSON, what they got."""
    endpoint = SimpleNamespace(url=url)
    expected = {prompt: ask(endpoint, prompt, stream=False) for prompt in PROMPTS}
    slowest = [0.0]

    def timed(*arguments, **options):
        began = time.monotonic()
        try:
            return ask(*arguments, **options)
        finally:
            slowest[0] = max(slowest[0], time.monotonic() - began)

    pace = {"callers": 1, "pause_s": 0.3} if "--calm" in options else {}
    split = Split(endpoint=endpoint, **{"callers": 2} | pace)
    others = split if "--split" in options else nullcontext()
    with Comparison(endpoint=endpoint, expected=expected, asking=timed, **pace) as comparison, others:
        sys.stdout.write("asking\n")
        sys.stdout.flush()
        sys.stdin.read()
    told = {
        "equal": comparison.equal,
        "cut": len(comparison.cut),
        "wrong": comparison.wrong,
        "split": split.answered,
        "failures": split.failures,
        "slowest_s": round(slowest[0], 2),
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])

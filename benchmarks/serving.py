"""What the benchmarks of serving share: an endpoint of their own, and callers who count."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster import runtime
from cluster.config import Settings
from cluster.registry import ModelStore
from tests.support.endpoint import MODEL, Endpoint, publish
from tests.support.repeating import Repeating
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

CPUS = 8.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def endpoint(
    model: Path | None, labels: list[str], *, tokenizer_of: Path | None = None
) -> Iterator[Endpoint]:
    """A cluster as `linnet up` starts it, with versions of `model`, or tiny ones, in its store.

    Its directory is `<home>/weights/<label>` for a tiny one, whose tokenizer is that of `tokenizer_of`.
    """
    with tempfile.TemporaryDirectory(prefix="linnet-bench-", ignore_cleanup_errors=True) as home:
        yield from _endpoint(Path(home), model, labels, tokenizer_of)


def _endpoint(
    home: Path, model: Path | None, labels: list[str], tokenizer_of: Path | None
) -> Iterator[Endpoint]:
    os.environ["LINNET_HOME"] = str(home)
    settings = Settings.load()
    store = ModelStore.open(settings)
    for seed, label in enumerate(labels, start=1):
        source = model or make_tiny_model(home / "weights" / label, seed=seed, tokenizer_of=tokenizer_of)
        publish(store, source, label, golden.compute(source))
    info = runtime.up(
        settings, num_cpus=CPUS, gcs_port=free_port(), dashboard_port=free_port(), serve_port=free_port()
    )
    try:
        yield Endpoint(info, settings, home)
    finally:
        runtime.down(settings)


@contextmanager
def bare_vllm(model: Path) -> Iterator[str]:
    """vLLM's own server with the arguments that the endpoint's versions get; it may not answer yet."""
    port = free_port()
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", MODEL]
    engine = ["--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "16", "--enforce-eager"]
    server = subprocess.Popen(
        [sys.executable, *words, *engine, "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def ask(url: str, model: str, *, stream: bool, tokens: int, timeout_s: float = 120.0) -> None:
    """One completion; raises OSError or ValueError when it is refused, cut or ends with an error."""
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": tokens, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(body | {"ignore_eos": True, "stream": stream}).encode(),
        {"content-type": "application/json", "authorization": "Bearer none"},
    )
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        raw = answer.read()
    if stream and (not raw.rstrip().endswith(b"data: [DONE]") or b'"error"' in raw):
        raise ValueError(f"a stream ended with {raw[-200:]!r}")
    if not stream and "choices" not in json.loads(raw):
        raise ValueError(f"answered {raw[:200]!r}")


def seconds_until_answered(url: str, model: str, limit_s: float) -> float:
    """Ask for one token until it comes; raises TimeoutError after `limit_s`."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        try:
            ask(url, model, stream=False, tokens=1, timeout_s=limit_s)
        except (OSError, ValueError):
            time.sleep(0.05)
        else:
            return time.monotonic() - began
    raise TimeoutError(f"{model} did not answer within {limit_s:.0f} s")


@dataclass(kw_only=True)
class Callers(Repeating):
    """They ask without a pause, a stream and a whole answer in turn.

    `answers` holds (end, seconds) of each answered request, in monotonic seconds.
    """

    url: str
    model: str
    tokens: int
    answers: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def once(self, number: int, count: int) -> None:
        """One call, and what came of it."""
        began = time.monotonic()
        try:
            ask(self.url, self.model, stream=(number + count) % 2 == 0, tokens=self.tokens)
        except (OSError, ValueError, urllib.error.HTTPError) as error:
            self.failures.append(repr(error))
            time.sleep(0.1)
        else:
            now = time.monotonic()
            self.answers.append((now, now - began))

"""Callers that go on while something else happens, and tell what each request got."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field


@dataclass
class Load:
    """`callers` threads, streams and unary requests in turn, each with a key of its own."""

    url: str
    model: str
    callers: int = 3
    tokens: int = 6
    answered: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(self.callers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            try:
                self.answered.append(self._ask(f"{number}-{count}", stream=count % 2 == 0))
            except (OSError, AssertionError, urllib.error.HTTPError) as error:
                self.failures.append(repr(error))

    def _ask(self, key: str, *, stream: bool) -> str:
        body = {"model": self.model, "prompt": f"call {key}", "max_tokens": self.tokens, "stream": stream}
        request = urllib.request.Request(
            f"{self.url}/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json", "x-linnet-key": key},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            assert not stream or text.rstrip().endswith(b"data: [DONE]"), text[-200:]
            return answer.headers["x-linnet-version"]

"""Callers that go on while something else happens, and tell what each request got."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field

from tests.support.repeating import Repeating


@dataclass(kw_only=True)
class Load(Repeating):
    """Streams and unary requests in turn, each with a key of its own."""

    url: str
    model: str
    tokens: int = 6
    answered: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def once(self, number: int, count: int) -> None:
        """One call, and what came of it."""
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

"""Callers who know what each answer must be, and behave as OpenAI's client does by default."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.endpoint import MODEL, Endpoint
from tests.support.repeating import Repeating

PROMPTS = [f"Once upon a time {number}" for number in range(6)]
TOKENS = 120
RETRIES = 2
"""As often OpenAI's client asks again where no answer has begun."""


class CutError(Exception):
    """A stream ended in the middle; `text` is what came of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def ask(
    endpoint: Endpoint,
    prompt: str,
    *,
    stream: bool,
    retries: int = 0,
    model: str = f"{MODEL}:v1",
    tokens: int = TOKENS,
) -> str:
    """The text of one greedy answer."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    request = urllib.request.Request(
        f"{endpoint.url}/v1/completions",
        json.dumps(body | {"ignore_eos": True, "stream": stream}).encode(),
        {"content-type": "application/json"},
    )
    for attempt in range(retries + 1):
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                return _text(answer, stream=stream)
        except (OSError, http.client.HTTPException):
            if attempt == retries:
                raise
            time.sleep(0.5 * 2**attempt)
    raise AssertionError("unreachable")


def _text(answer: http.client.HTTPResponse, *, stream: bool) -> str:
    try:
        raw = answer.read()
    except (http.client.IncompleteRead, ConnectionError) as error:
        if not stream:
            raise
        raise CutError(_said(getattr(error, "partial", b"").split(b"\n\n")[:-1])) from error
    if not stream:
        return json.loads(raw)["choices"][0]["text"]
    *events, done, end = raw.split(b"\n\n")
    if (done, end) != (b"data: [DONE]", b""):
        raise CutError(_said([event for event in events if b'"error"' not in event]))
    return _said(events)


def _said(events: list[bytes]) -> str:
    return "".join(json.loads(event.removeprefix(b"data: "))["choices"][0]["text"] for event in events)


@dataclass(kw_only=True)
class Comparison(Repeating):
    """Callers of whom three streams in four; every answer is compared with the expected one.

    `cut` streams are those whose connection ended in the middle, which only the loss of a gateway
    or a proxy may do; their text must be the beginning of the expected one.
    """

    endpoint: Endpoint
    expected: dict[str, str]
    retries: int = 0
    model: str = f"{MODEL}:v1"
    asking: Callable[..., str] = ask
    equal: int = 0
    cut: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def once(self, number: int, count: int) -> None:
        """One call, and what came of it."""
        turn = number + count
        prompt = PROMPTS[turn % len(PROMPTS)]
        expected = self.expected[prompt]
        try:
            answer = self.asking(
                self.endpoint, prompt, stream=turn % 4 != 0, retries=self.retries, model=self.model
            )
        except CutError as error:
            if expected.startswith(error.text):
                self.cut.append(time.monotonic())
            else:
                self.wrong.append(f"{prompt}: cut after {error.text!r}, not of {expected!r}")
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as error:
            self.wrong.append(repr(error))
        else:
            if answer == expected:
                self.equal += 1
            else:
                self.wrong.append(f"{prompt}: {answer!r}, not {expected!r}")


@dataclass(kw_only=True)
class Split(Repeating):
    """Callers of whichever version the split gives them, who ask again as OpenAI's client does."""

    endpoint: Endpoint
    model: str = MODEL
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    def once(self, number: int, count: int) -> None:
        """One short stream."""
        try:
            ask(self.endpoint, f"{number}-{count}", stream=True, retries=RETRIES, model=self.model, tokens=8)
            self.answered += 1
        except CutError:
            # With its gateway: `Comparison` counts how often.
            self.answered += 1
        except (OSError, AssertionError) as error:
            self.failures.append(repr(error))

"""What the end of an answer says of it, found without parsing the rest."""

from __future__ import annotations

import re

_WITHIN = 4096
"""Bytes from the end in which it is looked for: vLLM writes both near it."""

_PROMPT = re.compile(rb'"(?:prompt|input)_tokens":\s*(\d{1,15})')
_COMPLETION = re.compile(rb'"(?:completion|output)_tokens":\s*(\d{1,15})')
_REASON = re.compile(rb'"finish_reason":\s*"(\w{1,64})"')


def usage(answer: bytes) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of the completion, by the last `usage` object; None where it has none.

    Quotes within a text are escaped in JSON, so no text can pass for the key.
    """
    at = answer.rfind(b'"usage"', max(0, len(answer) - _WITHIN))
    return (_number(_PROMPT, answer, at), _number(_COMPLETION, answer, at)) if at >= 0 else (None, None)


def finish_reason(answer: bytes) -> str:
    """The last `finish_reason` that is not null; empty where there is none."""
    found = _REASON.findall(answer, max(0, len(answer) - _WITHIN))
    return found[-1].decode() if found else ""


def _number(pattern: re.Pattern[bytes], answer: bytes, at: int) -> int | None:
    found = pattern.search(answer, at)
    return int(found[1]) if found else None

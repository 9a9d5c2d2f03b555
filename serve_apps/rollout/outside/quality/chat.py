"""OpenAI's chat completions, asked greedily: the body of a request, and the text of an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence

from serve_apps.rollout.outside.http_call import Reply
from serve_apps.rollout.outside.quality.rows import Turn

LARGEST = 4 * 1024 * 1024
"""Bytes of an answer that are read."""


def request(model: str, messages: Sequence[Turn], max_tokens: int) -> bytes:
    """The body, at temperature 0."""
    turns = [message.model_dump() for message in messages]
    asked = {"model": model, "messages": turns, "max_tokens": max_tokens, "temperature": 0}
    return json.dumps(asked).encode()


def answer(reply: Reply) -> str:
    """The text of the first choice, empty for an answer without one. Raises ValueError for anything else."""
    try:
        content = reply.json()["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        raise ValueError("it is not a chat completion") from None
    if content is None:
        return ""
    if not isinstance(content, str):
        raise ValueError("its content is no text")
    return content

"""Requests that may be compared with each other: of about the same size, at replicas as warm."""

from __future__ import annotations

_PROMPT_BOUNDS = (64, 256, 1024, 4096)
_ANSWER_BOUNDS = (32, 128, 512)
"""Tokens at which the next bucket begins, each four times the last: 5 buckets of prompts, 4 of answers."""

NEW = "n"
"""After the size: what a replica did with the first requests that a gateway sent to it.

What is compiled, mapped or connected with the first use is then not taken for the version's own speed.
"""
NEW_REQUESTS = 10
"""Of each replica, so many. Requests rather than minutes: they warm it, and are soon over."""


def of_prompt(prompt_tokens: int) -> str:
    """`p0` to `p4`."""
    return f"p{_bucket(_PROMPT_BOUNDS, prompt_tokens)}"


def of_both(prompt_tokens: int, answer_tokens: int | None) -> str:
    """`p0a0` to `p4a3`; answers whose length is not known count as short."""
    return f"{of_prompt(prompt_tokens)}a{_bucket(_ANSWER_BOUNDS, answer_tokens or 0)}"


def _bucket(bounds: tuple[int, ...], tokens: int) -> int:
    return sum(tokens >= bound for bound in bounds)

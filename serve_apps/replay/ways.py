"""How a request's stream can be continued: a pure function of its sampling parameters."""

from __future__ import annotations

from typing import Any

from serve_apps.replay.wire import Way

_SEEN_TOKENS = (("presence_penalty", 0.0), ("frequency_penalty", 0.0))
"""They count the answer's tokens but not the prompt's, so the told tokens may not become prompt."""

_STATEFUL = (
    "logprobs",
    "prompt_logprobs",
    "structured_outputs",
    "bad_words",
    "thinking_token_budget",
    "repetition_detection",
    "logprob_token_ids",
)
"""What follows the answer from its first token on, or reports on it."""


def way_of(params: Any) -> Way:
    """`params`: vLLM's SamplingParams.

    Greedy answers, and answers with a seed, come out the same when they are generated again.
    Others can only be continued from their tokens, and only where nothing but the tokens
    decides what comes next.
    """
    if params.n != 1:
        return Way.NONE
    if params.seed is None and not _needs_the_beginning(params):
        return Way.PREFILL
    return Way.REPEAT if _is_reproducible(params) else Way.NONE


def is_sampled(params: Any) -> bool:
    """Whether another run of the same request may draw other tokens."""
    return not _is_reproducible(params)


def _is_reproducible(params: Any) -> bool:
    return params.temperature == 0.0 or params.seed is not None


def _needs_the_beginning(params: Any) -> bool:
    return any(getattr(params, name) != neutral for name, neutral in _SEEN_TOKENS) or any(
        getattr(params, name, None) not in (None, []) for name in _STATEFUL
    )

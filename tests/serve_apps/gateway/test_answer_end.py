from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway.answer_end import finish_reason, usage

TEXTS = st.text() | st.sampled_from(['"usage": {"prompt_tokens": 7}', '"finish_reason": "no"', "\\", '\\"'])


@given(TEXTS, st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(["stop", "length", "tool_calls"]))
def test_what_it_finds_is_what_a_parser_finds_whatever_the_text_says(text, prompt, completion, reason):
    answer = {
        "choices": [{"index": 0, "message": {"content": text}, "finish_reason": reason, "stop_reason": None}],
        "usage": {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
        "prompt_logprobs": None,
    }
    for separators in ((",", ":"), (", ", ": ")):
        for spelled in (True, False):
            body = json.dumps(answer, separators=separators, ensure_ascii=spelled).encode(errors="replace")
            assert usage(body) == (prompt, completion)
            if len(text) < 500:
                assert finish_reason(body) == reason


@given(st.binary())
def test_anything_else_has_none(body):
    assert usage(body) == (None, None)
    assert finish_reason(body) == ""


def test_the_names_of_the_responses_api_count_too():
    body = b'{"usage":{"input_tokens":3,"input_tokens_details":{},"output_tokens":4,"total_tokens":7}}'
    assert usage(body) == (3, 4)


def test_an_embedding_has_a_prompt_alone():
    assert usage(b'{"data":[],"usage":{"prompt_tokens":5,"total_tokens":5}}') == (5, None)


def test_the_last_events_of_a_stream():
    events = (
        b'data: {"choices":[{"delta":{"content":"."},"finish_reason":null}],"usage":null}\n\n'
        b'data: {"choices":[{"delta":{},"finish_reason":"length"}],"usage":null}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":2,"total_tokens":5,"completion_tokens":3}}\n\n'
        b"data: [DONE]\n\n"
    )
    assert usage(events) == (2, 3)
    assert finish_reason(events) == "length"
    assert usage(events[: events.rindex(b"data: {")]) == (None, None)

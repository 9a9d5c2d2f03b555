from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway.prompt_text import LARGEST_BODY, LONGEST, prompt_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["text", "content", "type"]), inner),
)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"prompt": "Once"}, "Once"),
        ({"prompt": ["Once", " upon"]}, "Once upon"),
        ({"prompt": [1, 2, 3]}, ""),
        ({"input": "Once"}, "Once"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Once"}]}]}, "Once"),
        (
            {"messages": [{"role": "system", "content": "Be "}, {"role": "user", "content": "kind"}]},
            "Be kind",
        ),
        ({"messages": [{"content": [{"type": "text", "text": "Be"}, {"type": "image_url"}]}]}, "Be"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, ""),
        ({"messages": "not a list"}, ""),
        ({}, ""),
    ],
)
def test_the_text_of_a_prompt(body, text):
    assert prompt_text(json.dumps({"model": "m", **body}).encode()) == text


@given(JSON, JSON, JSON)
def test_whatever_a_body_holds_it_has_a_text(prompt, value, content):
    body = {"prompt": prompt, "input": value, "messages": [{"content": content}]}
    assert len(prompt_text(json.dumps(body).encode())) <= LONGEST


@given(st.binary())
def test_what_is_no_json_has_none(body):
    assert isinstance(prompt_text(body), str)


def test_a_turn_more_leaves_the_beginning_as_it_is():
    turns = [{"role": "user", "content": f"question {n}"} for n in range(9)]
    texts = [prompt_text(json.dumps({"messages": turns[:n]}).encode()) for n in range(1, 10)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert len(set(texts)) == 9


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"prompt": list(range(150_000))}).encode(),
        json.dumps({"prompt": [[[["x"] * 20] * 20] * 20] * 20}).encode(),
        json.dumps({"prompt": "x" * (LARGEST_BODY - 100)}).encode(),
        json.dumps({"prompt": "x" * LARGEST_BODY}).encode(),
        b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"prompt": ' + b"[" * 500_000,
    ],
    ids=["tokens", "lists", "long", "too-long", "deep", "deeper"],
)
def test_no_body_takes_long(body):
    began = time.perf_counter()
    assert len(prompt_text(body)) <= LONGEST
    # It takes a few milliseconds at most.
    assert time.perf_counter() - began < 0.5

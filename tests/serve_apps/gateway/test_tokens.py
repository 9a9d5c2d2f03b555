from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway import tokens
from serve_apps.gateway.stream import DONE, Stream
from serve_apps.replay.wire import Told, Way, comment
from tests.serve_apps.gateway.servers import chunk, event

CHAT = "/v1/chat/completions"


def body(**fields) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def answer_of(route, **fields) -> int:
    """The part of the estimate that stands for the answer."""
    sent = body(**fields)
    return tokens.estimate(route, sent) - tokens.of_prompt(sent)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, tokens.ASSUMED_ANSWER),
        ({"max_tokens": 50}, 50),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": "50"}, 50),
        ({"max_tokens": None}, tokens.ASSUMED_ANSWER),
        ({"max_completion_tokens": 70, "max_tokens": 50}, 70),
        ({"max_output_tokens": 60}, 60),
        ({"max_tokens": 50, "n": 4}, 200),
        ({"max_tokens": 50, "n": 0}, 50),
        ({"max_tokens": -5}, tokens.ASSUMED_ANSWER),
        ({"max_tokens": [1]}, tokens.ASSUMED_ANSWER),
        ({"max_tokens": 10**30, "n": 10**30}, 10**60),
    ],
)
def test_the_estimate_follows_what_the_request_asks_for(fields, expected):
    assert answer_of(CHAT, **fields) == expected


@pytest.mark.parametrize("route", ["/v1/embeddings", "/tokenize", "/detokenize"])
def test_what_makes_no_new_tokens_is_its_prompt(route):
    assert answer_of(route, max_tokens=50) == 0


@given(st.binary(max_size=200))
def test_any_bytes_have_an_estimate_and_a_measure(data):
    assert tokens.estimate(CHAT, data) >= tokens.of_prompt(data) >= 0
    assert tokens.in_answer(200, data, data) >= 0
    tokens.in_events(data)


@pytest.mark.parametrize(
    ("status", "answer", "spent"),
    [
        (200, {"usage": {"total_tokens": 12}}, 12),
        (200, {"choices": []}, 10),
        (200, {"usage": {"total_tokens": -12}}, 10),
        (200, {"usage": None}, 10),
        (400, {"error": {}}, 0),
    ],
)
def test_whole_answers(status, answer, spent):
    assert tokens.in_answer(status, json.dumps(answer).encode(), b"x" * 40) == spent


def test_a_streams_usage_is_believed():
    stream = Stream()
    stream.take(chunk("Hello", "v1"))
    stream.take(event({"choices": [], "usage": {"total_tokens": 5}}))
    stream.take(event({"choices": [], "usage": {"total_tokens": 9}}) + DONE)
    assert stream.spent(100) == 9


def test_a_responses_stream_has_its_usage_in_the_response():
    stream = Stream()
    completed = event({"type": "response.completed", "response": {"usage": {"total_tokens": 31}}})
    stream.take(b"event: response.completed\n" + completed)
    assert stream.spent(100) == 31


def test_what_a_model_writes_is_not_taken_for_usage():
    stream = Stream()
    stream.take(chunk('"usage": {"total_tokens": 1}', "v1"))
    stream.take(event({"choices": [], "response": {"metadata": {"usage": {"total_tokens": 1}}}}))
    assert stream.spent(100) == 102


def test_without_usage_told_tokens_count_and_else_events():
    told, untold = Stream(), Stream()
    told.take(comment(Told(steps=[[1, 2], [3]], way=Way.PREFILL)) + chunk("Hello", "v1"))
    untold.take(chunk("Hello", "v1") + chunk(" you", "v1"))
    assert (told.spent(100), untold.spent(100)) == (103, 102)

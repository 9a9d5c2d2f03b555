from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway.answer_signs import AnswerSigns


def of(*answers, logprobs=False, spaces=False):
    """Signs of whole answers, or of events where there are several."""
    signs = AnswerSigns(logprobs=logprobs)
    separators = (", ", ": ") if spaces else (",", ":")
    encoded = [json.dumps(answer, separators=separators).encode() for answer in answers]
    if len(encoded) == 1:
        signs.add(encoded[0])
    for one in encoded if len(encoded) > 1 else ():
        signs.add_events(b"data: " + one + b"\n\n")
    return signs


def chat(**message):
    return {"choices": [{"index": 0, "message": {"role": "assistant", **message}}]}


def delta(**message):
    return {"choices": [{"index": 0, "delta": message, "finish_reason": None}]}


RESPONSE = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]}
CALL = {"output": [{"type": "function_call", "name": "f", "arguments": "{}"}]}


@pytest.mark.parametrize("spaces", [True, False])
@pytest.mark.parametrize(
    ("answers", "spoke"),
    [
        ([chat(content="Hi")], True),
        ([chat(content="")], False),
        ([chat(content=None, tool_calls=[])], False),
        ([chat(content=None, reasoning_content="I think")], False),
        ([chat(content=None, tool_calls=[{"id": "a"}])], True),
        ([{"choices": [{"text": "Hi"}]}], True),
        ([{"choices": [{"text": ""}]}], False),
        ([RESPONSE], True),
        ([CALL], True),
        ([{"output": [], "text": {"format": {"type": "text"}}}], False),
        ([delta(content=""), delta(content="x")], True),
        ([delta(content=""), delta()], False),
        ([delta(content=""), delta(tool_calls=[{"index": 0}])], True),
        ([{"type": "response.output_text.delta", "delta": ""}, {"delta": "x"}], True),
    ],
)
def test_whether_an_answer_says_anything(answers, spoke, spaces):
    assert of(*answers, spaces=spaces).spoke is spoke


@given(st.text())
def test_no_text_within_an_answer_passes_for_a_key(text):
    assert of(chat(content="", reasoning_content=text + '"content":"x" "text": "y"')).spoke is False
    assert of(chat(content=text)).spoke is (text != "")


def tokens(*logprobs):
    return {
        "content": [{"token": "x", "logprob": one, "top_logprobs": [{"logprob": -9.0}]} for one in logprobs]
    }


def test_log_probabilities_of_chat_and_of_completions_whole_and_streamed():
    whole = {"choices": [{"message": {"content": "x"}, "logprobs": tokens(-1.0, -2.0)}]}
    assert of(whole, logprobs=True).mean_logprob() == -1.5
    events = [{"choices": [{"delta": {"content": "x"}, "logprobs": tokens(one)}]} for one in (-1.0, -3.0)]
    assert of(*events, {"choices": []}, logprobs=True).mean_logprob() == -2.0
    completion = {"choices": [{"text": "x", "logprobs": {"token_logprobs": [None, -4.0]}}]}
    assert of(completion, logprobs=True).mean_logprob() == -4.0


def test_without_log_probabilities_there_is_no_mean():
    assert of(chat(content="x")).mean_logprob() is None
    assert of(chat(content="x"), logprobs=True).mean_logprob() is None
    assert of({"choices": [{"logprobs": tokens(-1.0)}]}).mean_logprob() is None


@given(st.binary())
def test_any_bytes_are_looked_at(body):
    signs = AnswerSigns(logprobs=True)
    signs.add(body)
    signs.add_events(b"data: {" + body + b"\n\n")
    assert signs.mean_logprob() is None

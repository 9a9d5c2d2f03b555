from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway.answer_text import AnswerText
from tests.serve_apps.gateway.servers import event

WORDS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(st.integers(0, 2), WORDS)), st.sampled_from(["chat", "completions"]))
def test_deltas_are_put_together_choice_by_choice(deltas, route):
    text = AnswerText(10**6)
    for index, word in deltas:
        said = {"delta": {"role": "assistant", "content": word}} if route == "chat" else {"text": word}
        text.add_events(event({"choices": [{"index": index, **said}]}) + event({"choices": []}))
    text.add_events(b"data: [DONE]\n\n")
    spoken = {index for index, word in deltas if word}
    assert text.value() == "\n".join(
        "".join(word for i, word in deltas if i == index) for index in sorted(spoken)
    )


def test_whole_answers_of_each_route():
    def whole(answer):
        text = AnswerText(100)
        text.add(json.dumps(answer).encode())
        return text.value()

    assert whole({"choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}}]}) == "a"
    assert whole({"choices": [{"index": 0, "text": "a"}, {"index": 1, "text": "b"}]}) == "a\nb"
    assert whole({"output": [{"content": None}, {"content": [{"type": "output_text", "text": "a"}]}]}) == "a"
    assert whole({"data": [{"embedding": [0.5]}]}) == ""
    assert whole({"choices": [{"message": {"content": None, "tool_calls": []}}]}) == ""
    assert whole(["no object"]) == ""


def test_events_of_the_responses_api():
    text = AnswerText(100)
    for word in ("Hel", "lo"):
        text.add_events(b"event: response.output_text.delta\n")
        text.add_events(event({"type": "response.output_text.delta", "output_index": 0, "delta": word}))
    text.add_events(event({"type": "response.function_call_arguments.delta", "delta": "{}"}))
    text.add_events(event({"type": "response.output_text.done", "text": "Hello"}))
    assert text.value() == "Hello"


def test_no_more_is_collected_than_was_asked_for():
    text = AnswerText(10)
    for _ in range(1000):
        text.add_events(event({"choices": [{"text": "four"}]}))
    assert text.value() == "fourfourfo"
    text = AnswerText(10)
    text.add(json.dumps({"choices": [{"index": n, "text": "sixsix"} for n in range(3)]}).encode())
    assert text.value().split("\n")[:2] == ["sixsix", "sixs"]


@given(st.binary())
def test_what_is_no_answer_is_passed_over(junk):
    text = AnswerText(100)
    text.add_events(b"data: {" + junk + b"\n\n" + event({"choices": [{"text": "fine"}]}))
    assert text.value().endswith("fine")

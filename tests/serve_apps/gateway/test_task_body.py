from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway import task_body
from serve_apps.gateway.openai_errors import Refusal
from serve_apps.gateway.task_output import OutputRule
from serve_apps.gateway.task_spec import Task
from serve_apps.gateway.tasks import ModelTask

HELLO = [{"role": "user", "content": "Hello?"}]
CHAT = {"system": "Be kind."}
SENTIMENT = CHAT | {"max_tokens": 8, "temperature": 0.0, "output": {"choices": ["good", "bad"]}}


def task(**spec) -> ModelTask:
    read = Task.model_validate(spec)
    return ModelTask("m", "some", read, OutputRule(read.output) if read.output else None)


def rewritten(spec, **body):
    found = task_body.rewrite(
        json.dumps({"model": "m/some", "messages": HELLO} | body).encode(), task(**spec)
    )
    return found if isinstance(found, Refusal) else json.loads(found)


def test_a_prompt_alone_adds_its_message_and_nothing_else():
    assert rewritten(CHAT, temperature=0.3, stream=True) == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be kind."}, *HELLO],
        "temperature": 0.3,
        "stream": True,
    }


def test_all_that_a_task_sets_is_set():
    spec = SENTIMENT | {"top_p": 0.5, "seed": 3, "stop": ["."]}
    assert rewritten(spec) == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be kind."}, *HELLO],
        "max_tokens": 8,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 3,
        "stop": ["."],
        "structured_outputs": {"choice": ["good", "bad"]},
    }


def test_untouched_values_stay_byte_for_byte():
    body = (
        b'{ "x": 1e3, "model" : "m/some", "messages": [ {"role":"user", "content": "\\u00e9 \xc3\xa9"} ],\n'
        b' "y" : {"z":[1.50,  -0.0, 123456789012345678901234567890]} }'
    )
    assert task_body.rewrite(body, task(**CHAT)) == (
        b'{"x":1e3,"model":"m","messages":[{"role":"system","content":"Be kind."},'
        b'{"role":"user", "content": "\\u00e9 \xc3\xa9"}],'
        b'"y":{"z":[1.50,  -0.0, 123456789012345678901234567890]}}'
    )


NAMES = {*task_body.FIXED, *task_body.MAXIMA, *task_body.CLOSED_BY_PROMPT, *task_body.CLOSED_BY_OUTPUT}
# Every engine reads JSON's numbers as doubles and long ints, as Python does.
PLAIN = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(task_body.ROLES), "content": VALUES}, optional={"x": VALUES}
    ),
    min_size=1,
    max_size=4,
)
OTHERS = st.dictionaries(
    PLAIN.filter(lambda name: name not in {"model", "messages", *NAMES}), VALUES, max_size=5
)


@given(messages=MESSAGES, others=OTHERS, asked=st.none() | st.integers(-5, 20), ascii_only=st.booleans())
def test_what_the_task_leaves_alone_stays_equal(messages, others, asked, ascii_only):
    sent = others | {"model": "m:v1/some", "messages": messages, "max_completion_tokens": asked}
    raw = json.dumps(sent, ensure_ascii=ascii_only).encode()
    got = json.loads(task_body.rewrite(raw, task(**SENTIMENT)))
    first, *rest = got.pop("messages")
    assert first == {"role": "system", "content": "Be kind."}
    assert rest == messages
    assert got.pop("model") == "m"
    assert (got.pop("temperature"), got.pop("structured_outputs")) == (0.0, {"choice": ["good", "bad"]})
    if asked is None:
        assert (got.pop("max_tokens"), got.pop("max_completion_tokens")) == (8, None)
    else:
        assert got.pop("max_completion_tokens") == min(asked, 8)
    assert got == others


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {"max_tokens": 8}),
        ({"max_tokens": None}, {"max_tokens": 8}),
        ({"max_tokens": 3}, {"max_tokens": 3}),
        ({"max_tokens": 100}, {"max_tokens": 8}),
        ({"max_completion_tokens": 100}, {"max_completion_tokens": 8}),
        ({"max_completion_tokens": 2, "max_tokens": 100}, {"max_completion_tokens": 2, "max_tokens": 8}),
    ],
)
def test_a_caller_may_ask_for_less_and_gets_no_more(asked, sent):
    found = rewritten(SENTIMENT, **asked)
    assert {name: found[name] for name in task_body.MAXIMA if name in found} == sent


def test_without_a_maximum_the_callers_own_holds():
    assert rewritten(CHAT, max_tokens=100)["max_tokens"] == 100
    assert "max_tokens" not in rewritten(CHAT)


@pytest.mark.parametrize("value", ["100", 8.5, True, [8]])
def test_a_maximum_that_is_no_number_is_refused(value):
    refusal = rewritten(SENTIMENT, max_tokens=value)
    assert (refusal.status, refusal.code, refusal.param) == (400, "invalid_type", "max_tokens")


@pytest.mark.parametrize("role", ["system", "developer", "System", "system ", "nobody"])
def test_a_prompt_of_the_callers_own_is_refused(role):
    refusal = rewritten(CHAT, messages=[*HELLO, {"role": role, "content": "Be rude."}])
    assert (refusal.status, refusal.code, refusal.param) == (400, "task_has_prompt", "messages")
    assert "`m/some` has a system prompt of its own" in refusal.message
    assert f"`{role}`" in refusal.message
    assert "ask `m`" in refusal.message


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (None, "missing_required_parameter"),
        ([], "missing_required_parameter"),
        ("Hello?", "invalid_type"),
        (["Hello?"], "invalid_type"),
        ([{"content": "Hello?"}], "invalid_type"),
        ([{"role": 5}], "invalid_type"),
    ],
)
def test_messages_that_are_none_are_refused(messages, code):
    refusal = rewritten(CHAT, messages=messages)
    assert (refusal.status, refusal.code, refusal.param) == (400, code, "messages")


@pytest.mark.parametrize(
    ("name", "own", "other"),
    [
        ("temperature", 0, 0.5),
        ("top_p", 0.5, 1),
        ("seed", 3, "3"),
        ("stop", [".", "!"], ["."]),
    ],
)
def test_what_the_task_sets_may_be_repeated_but_not_changed(name, own, other):
    spec = CHAT | {"temperature": 0.0, "top_p": 0.5, "seed": 3, "stop": [".", "!"]}
    assert rewritten(spec, **{name: own})[name] == own
    assert rewritten(spec, **{name: None})[name] == own
    refusal = rewritten(spec, **{name: other})
    assert (refusal.status, refusal.code, refusal.param) == (400, "task_sets_parameter", name)
    assert f"`m/some` sets `{name}` to " in refusal.message
    assert rewritten(CHAT, **{name: other})[name] == other


@pytest.mark.parametrize("name", task_body.CLOSED_BY_OUTPUT)
def test_with_an_output_what_would_change_it_is_refused(name):
    refusal = rewritten(SENTIMENT, **{name: [1]})
    assert (refusal.status, refusal.code, refusal.param) == (400, "task_sets_parameter", name)
    assert "one of: good, bad" in refusal.message
    assert rewritten(CHAT, **{name: [1]})[name] == [1]
    assert not isinstance(rewritten(SENTIMENT, **{name: None}), Refusal)


@pytest.mark.parametrize("name", task_body.CLOSED_BY_PROMPT)
def test_what_would_change_the_prompt_is_refused(name):
    refusal = rewritten(CHAT, **{name: "x"})
    assert (refusal.status, refusal.code, refusal.param) == (400, "task_sets_parameter", name)


def test_the_parameters_are_vllms_own():
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    assert NAMES.issubset(ChatCompletionRequest.model_fields)


def test_bytes_that_no_json_may_hold_are_refused():
    assert task_body.rewrite(b'{"\xff": 1, "messages": []}', task(**CHAT)).code == "invalid_json"

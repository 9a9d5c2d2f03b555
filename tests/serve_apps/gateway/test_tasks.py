"""Tasks through the running gateway: one engine, several purposes."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import openai
import pytest
from aiohttp import web

from cluster.traffic import TrafficPolicy, route
from serve_apps.replay.wire import Told, Way, comment, unpack
from tests.serve_apps.gateway.servers import begin_stream, chunk
from tests.serve_apps.gateway.task_engine import (
    HELLO,
    TASKS,
    ask,
    obey,
    say,
    saying,
    start,
    streamed,
    text_of,
)
from tests.serve_apps.gateway.test_app import assert_envelope, post


@pytest.fixture
def begin(launch):
    return partial(start, launch)


def test_one_engine_serves_several_purposes(begin):
    stack = begin()
    assert text_of(ask(stack)) == streamed(stack) == "positive"
    assert text_of(ask(stack, "m/chat")) == streamed(stack, "m/chat") == "Be kind."
    sent = json.loads(stack.engines[0].requests[0][1])
    assert sent == {
        "messages": [{"role": "system", "content": "Judge."}, *HELLO],
        "model": "m",
        "max_tokens": 8,
        "temperature": 0.0,
        "structured_outputs": {"choice": ["positive", "negative"]},
    }


def test_requests_without_a_task_stay_bytes(begin):
    stack = begin(saying("anything"))
    body = b'{ "model" : "m",\n "messages": [{"role": "system", "content": "Mine."}], "x": 1e3 }'
    assert post(stack, content=body).status_code == 200
    assert stack.engines[0].requests[0][1] == body


def test_models_are_listed_with_their_tasks(begin):
    names = [model.id for model in begin().client().models.list()]
    assert names == ["m", "m/chat", "m/sentiment", "m:v1"]


def test_a_task_is_pinned_by_name_and_by_header(begin):
    stack = begin()
    pinned = stack.engine("v2", obey)
    assert text_of(ask(stack, "m:v2/sentiment")) == "positive"
    assert text_of(ask(stack, extra_headers={"x-linnet-version": "v2"})) == "positive"
    assert [json.loads(raw)["model"] for _, raw in pinned.requests] == ["m", "m"]
    assert not stack.engines[0].requests
    with pytest.raises(openai.BadRequestError) as caught:
        ask(stack, "m:v1/sentiment", extra_headers={"x-linnet-version": "v2"})
    assert caught.value.code == "version_conflict"
    with pytest.raises(openai.NotFoundError):
        ask(stack, "m:v9/sentiment")


def test_a_task_is_split_as_its_model_is(begin):
    stack = begin()
    stack.engine("v2", obey)
    stack.policy("v1", "v2", 40)
    policy = TrafficPolicy(model="m", revision=2, stable="v1", candidate="v2", weight=40.0)
    keys = [f"user-{number}" for number in range(30)]
    answers = [
        post(stack, {"model": model, "messages": HELLO}, headers={"x-linnet-key": key})
        for key in keys
        for model in ("m/sentiment", "m/chat")
    ]
    versions = [answer.headers["x-linnet-version"] for answer in answers]
    assert versions == [route(policy, key) for key in keys for _ in range(2)]
    assert set(versions) == {"v1", "v2"}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("m/sentimnt", "Did you mean `m/sentiment`?"),
        ("m/nothing", "Its tasks: m/chat, m/sentiment."),
        ("m/", "has no task ``"),
        ("m/sentiment:v1", "Did you mean `m/sentiment`?"),
        ("n/sentiment", "Did you mean"),
        ("m/" + "x" * 10_000, "Its tasks"),
    ],
)
def test_an_unknown_task_lists_those_of_the_model(begin, model, said):
    stack = begin()
    with pytest.raises(openai.NotFoundError) as caught:
        ask(stack, model)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert model.startswith("n") or said in caught.value.message
    assert len(caught.value.message) < 600
    assert not stack.engines[0].requests


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/detokenize"]
)
def test_tasks_chat(begin, path):
    stack = begin()
    answer = post(stack, {"model": "m/chat", "prompt": "x", "input": "x"}, path=path)
    error = assert_envelope(answer, 400, "task_needs_chat")
    assert "/v1/chat/completions" in error["message"]
    assert not stack.engines[0].requests


def test_what_the_task_does_not_leave_open_is_refused(begin):
    stack = begin()
    with pytest.raises(openai.BadRequestError) as caught:
        ask(stack, temperature=1.0)
    assert (caught.value.code, caught.value.param) == ("task_sets_parameter", "temperature")
    prompt = [{"role": "system", "content": "Be rude."}, *HELLO]
    with pytest.raises(openai.BadRequestError) as caught:
        stack.client().chat.completions.create(model="m/chat", messages=prompt)
    assert (caught.value.code, caught.value.param) == ("task_has_prompt", "messages")
    assert not stack.engines[0].requests


def test_a_key_holds_for_the_tasks_of_its_models(launch):
    stack = launch(model=None, models=("m", "other"), auth="required")
    stack.tasks.change({"tasks": {"m": TASKS, "other": TASKS}})
    stack.engine("v1", obey)
    stack.policy()
    client = stack.client(api_key=stack.key("ada", models=("m",)))
    assert [model.id for model in client.models.list()] == ["m", "m/chat", "m/sentiment", "m:v1"]
    assert client.chat.completions.create(model="m/chat", messages=HELLO).model == "v1"
    for model in ("other/chat", "other:v1/chat", "elsewhere/chat"):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            client.chat.completions.create(model=model, messages=HELLO)
        assert caught.value.code == "model_not_allowed"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="m/chatt", messages=HELLO)
    assert "other" not in caught.value.message


def test_tokens_are_reserved_for_what_the_replica_gets(launch):
    stack = launch(auth="required")
    stack.tasks.change({"tasks": {"m": TASKS}})
    stack.engine("v1", obey)
    stack.policy()
    client = stack.client(api_key=stack.key("ada", limits={"tokens_per_minute": 400}))
    # Without the task's cap, 100,000 tokens would be waited for until the bucket is full again.
    for _ in range(3):
        client.chat.completions.create(model="m/sentiment", messages=HELLO, max_tokens=100_000)


@pytest.mark.parametrize("text", ["posit", "positive.", "neutral"])
def test_a_whole_answer_of_another_form_is_a_502(begin, text):
    stack = begin(saying(text))
    with pytest.raises(openai.InternalServerError) as caught:
        ask(stack)
    assert (caught.value.status_code, caught.value.code) == (502, "task_output")
    assert "m/sentiment" in caught.value.message
    [row] = stack.rows(1)
    assert (row["status"], row["error_code"], row["task"]) == (502, "task_output", "sentiment")
    assert row["completion_tokens"] == 3


def test_a_stream_of_another_form_ends_with_an_error_and_without_done(begin):
    stack = begin(saying("neutral"))
    raw = post(stack, {"model": "m/sentiment", "messages": HELLO, "stream": True}).content
    assert b"[DONE]" not in raw
    last = json.loads(raw.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert last["error"]["code"] == "task_output"
    with pytest.raises(openai.APIError):
        streamed(stack)
    assert stack.metric("linnet_gateway_broken_streams_total") == 2
    assert {(row["status"], row["error_code"]) for row in stack.rows(2)} == {(200, "task_output")}


def test_a_stream_has_one_error_whatever_its_replica_tells_after_the_end(begin):
    async def tell_on(request, _body):
        response = await begin_stream(request)
        await response.write(chunk("neutral", "v1") + b"data: [DONE]\n\n")
        await asyncio.sleep(0.05)
        await response.write(comment(Told(steps=[[7]])))
        return response

    raw = post(begin(tell_on), {"model": "m/sentiment", "messages": HELLO, "stream": True}).content
    assert raw.count(b"task_output") == 1


def test_an_engines_own_refusal_is_passed_on(begin):
    raw = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'

    async def refuse(_request, _body):
        return web.Response(status=400, body=raw, content_type="application/json")

    with pytest.raises(openai.BadRequestError) as caught:
        ask(begin(refuse))
    assert caught.value.response.content == raw


def test_a_stream_of_a_task_goes_on_from_another_replica(begin):
    async def tell_and_die(request, _body):
        response = await begin_stream(request)
        await response.write(comment(Told(steps=[[7]], way=Way.REPEAT)) + chunk("posi", "v1"))
        request.transport.abort()
        return response

    async def go_on(request, body):
        if "resume" not in request.content_type:
            return await tell_and_die(request, body)
        return await say(request, {"stream": True}, "tive")

    stack = begin(go_on)
    stack.engine("v1", go_on)
    assert streamed(stack) == "positive"
    [packed] = [raw for engine in stack.engines for headers, raw in engine.requests if raw.count(b"steps")]
    resume, original = unpack(packed)
    assert (resume.steps, resume.passed) == ([[7]], 1)
    assert json.loads(original)["messages"][0] == {"role": "system", "content": "Judge."}


def test_the_log_names_the_task(begin):
    stack = begin()
    ask(stack)
    ask(stack, "m")
    assert sorted((row["model"], row["task"]) for row in stack.rows(2)) == [("m", ""), ("m", "sentiment")]

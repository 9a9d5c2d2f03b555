from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from cluster.errors import ConfigError
from serve_apps.rollout.outside.config import QualityGate, ScorerName
from serve_apps.rollout.outside.http_call import new_session
from serve_apps.rollout.outside.quality.ask import EndpointClient, Failed, Text, Unasked
from serve_apps.rollout.outside.quality.rows import Question, Turn
from tests.serve_apps.gateway.conftest import database, launch, loop_thread
from tests.serve_apps.rollout.outside.outsiders import breaks, hangs, nobody, outsider, says, trickles

__all__ = ["database", "launch", "loop_thread"]

QUESTION = Question(
    index=0, messages=(Turn(role="user", content="2 + 2?"),), answers=("4",), scorer=ScorerName.EXACT
)


def make_gate(**given):
    return QualityGate.model_validate({"data": "s.jsonl", "max_drop": "5 points", "timeout": "20s"} | given)


def client_of(url, session, environ=None, **gate):
    return EndpointClient(url, "m", make_gate(**gate), session, environ or {})


def ask(handler, **given):
    async def scenario():
        async with outsider(handler) as server:
            return await client_of(server.url + "/", server.session, **given).ask(
                QUESTION, "v3"
            ), server.received

    return asyncio.run(scenario())


def ask_stack(stack, version, **given):
    async def scenario():
        async with new_session() as session:
            return await client_of(stack.url, session, **given).ask(QUESTION, version)

    return asyncio.run(scenario())


def completion(content, version="v3"):
    body = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    return says(text=json.dumps(body), content_type="application/json", **{"x-linnet-version": version})


def test_a_question_is_asked_greedily_and_pinned_to_the_version():
    found, [(headers, body)] = ask(completion("4"), max_tokens=7, api_key_env="KEY", environ={"KEY": "sk-1"})
    assert found == Text("4")
    assert json.loads(body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "max_tokens": 7,
        "temperature": 0,
    }
    assert headers["x-linnet-version"] == "v3"
    assert headers["x-linnet-key"] == "linnet-quality"
    assert headers["authorization"] == "Bearer sk-1"


def test_an_answer_of_nothing_is_an_answer():
    assert ask(completion(None))[0] == Text("")


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (says(500, "oops", **{"x-linnet-version": "v3"}), "status 500: oops"),
        (says(503, "no replica", **{"x-linnet-version": "v3"}), "status 503: no replica"),
        (says(400, "too long", **{"x-linnet-version": "v3"}), "status 400: too long"),
        (says(200, "hello", **{"x-linnet-version": "v3"}), "the answer cannot be read: its content-type"),
        (completion(["4"]), "the answer cannot be read: its content is no text"),
        (
            says(200, '{"choices": []}', "application/json", **{"x-linnet-version": "v3"}),
            "the answer cannot be read: it is not a chat completion",
        ),
        (hangs, "there was no whole answer within 0.2 s"),
        (trickles, "there was no whole answer within 0.2 s"),
    ],
)
def test_a_version_that_was_asked_and_did_not_answer_failed(handler, reason):
    slow = handler in (hangs, trickles)
    found, _ = ask(handler, timeout="200ms" if slow else "20s")
    assert isinstance(found, Failed)
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (completion("4", version="v2"), "status 200 of v2: "),
        (says(200, "{}", "application/json"), "status 200 of no version: "),
        (says(401, "who?"), "status 401 of no version: who?"),
        (says(502, "bad gateway"), "status 502 of no version: bad gateway"),
        (says(429, "busy", **{"x-linnet-version": "v3"}), "status 429: busy"),
        (breaks, "there was no answer: "),
    ],
)
def test_a_question_that_did_not_reach_the_version_says_nothing_of_it(handler, reason):
    found, _ = ask(handler)
    assert isinstance(found, Unasked)
    assert found.reason.startswith(reason)


def test_an_endpoint_that_is_not_there_says_nothing_of_the_version():
    async def scenario():
        async with new_session() as session:
            return await client_of(nobody(), session).ask(QUESTION, "v3")

    assert isinstance(asyncio.run(scenario()), Unasked)


def test_a_key_that_is_not_set_stops_the_start():
    with pytest.raises(ConfigError, match="KEY, which is not set"):
        client_of("http://h", None, api_key_env="KEY")


def test_a_real_gateway_sends_it_to_the_version_whatever_the_split_says(launch):
    stack = launch()
    stack.engine("v1")
    stack.engine("v2")
    stack.policy("v1", candidate="v2", weight=0)
    assert [ask_stack(stack, version) for version in ("v1", "v2")] == [
        Text("Hello from v1"),
        Text("Hello from v2"),
    ]


def test_a_real_gateway_tells_a_version_that_fails_from_one_that_is_not_known(launch):
    async def unavailable(_request, _body):
        return web.Response(status=503)

    async def refuses(_request, _body):
        return web.json_response({"error": {"message": "too long"}}, status=400)

    stack = launch()
    stack.engine("v1", unavailable)
    stack.engine("v2", refuses)
    stack.policy("v1", candidate="v2", weight=0)
    assert isinstance(ask_stack(stack, "v1"), Failed)
    assert isinstance(ask_stack(stack, "v2"), Failed)
    assert isinstance(ask_stack(stack, "v9"), Unasked)


def test_a_real_gateway_that_asks_for_keys_is_given_one(launch):
    stack = launch(auth="required", replica_key="secret")
    stack.engine("v1")
    stack.policy("v1")
    key = stack.key("quality")
    assert isinstance(ask_stack(stack, "v1"), Unasked)
    assert ask_stack(stack, "v1", api_key_env="KEY", environ={"KEY": key}) == Text("Hello from v1")

"""Copies of requests to the candidate: what is sent, what is counted, and that callers notice nothing."""

from __future__ import annotations

import json

import httpx
import pytest
from aiohttp import web

from cluster.judging import Judging, Match, Shadow, ShadowWhen
from cluster.tally import Pairs
from tests.serve_apps.gateway.servers import begin_stream, chunk, eventually

HELLO = [{"role": "user", "content": "Hello?"}]
REFUSAL = "I'm sorry, but I can't help with that."
SHADOWED = "linnet_gateway_shadowed_total"


def judging(sample=1.0, when=ShadowWhen.ALWAYS, **more):
    return Judging(rollout=1, shadow=Shadow(sample=sample, when=when), **more)


def says(text):
    async def behave(request, body):
        if body.get("stream"):
            response = await begin_stream(request)
            await response.write(chunk(text, "v1") + b"data: [DONE]\n\n")
            return response
        usage = {"prompt_tokens": 5, "total_tokens": 45, "completion_tokens": 40}
        return web.json_response({"choices": [{"index": 0, "message": {"content": text}}], "usage": usage})

    return behave


def shadowing(launch, stable="Hi.", candidate="Hello.", *, weight=0, policy=None, **settings):
    """A gateway before v1, which answers, and v2, which gets copies."""
    stack = launch(**settings)
    stack.engine("v1", says(stable))
    stack.engine("v2", candidate if callable(candidate) else says(candidate))
    stack.policy("v1", "v2", weight, policy or judging())
    return stack


def ask(stack, route="/v1/chat/completions", headers=None, **body):
    asked = {"model": "m", "messages": HELLO} | body
    return httpx.post(f"{stack.url}{route}", json=asked, headers=headers or {"x-linnet-key": "ada"})


def copies(stack, number, outcome="answered"):
    eventually(lambda: stack.metric(SHADOWED, outcome=outcome) == number, f"{number} copies {outcome}")


def test_a_copy_goes_to_the_candidate_without_its_stream_and_its_answer_to_nobody(launch):
    stack = shadowing(launch)
    sent = {
        "x-linnet-key": "ada",
        "authorization": "Bearer sk-1",
        "x-request-id": "mine",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    answer = ask(stack, headers=sent, stream=True, stream_options={"include_usage": True}, seed=3)
    assert b"Hi." in answer.content
    assert answer.headers["x-linnet-version"] == "v1"
    copies(stack, 1)
    [(headers, body)] = stack.engines[1].requests
    assert json.loads(body) == {"model": "m", "messages": HELLO, "seed": 3, "stream": False}
    assert headers["x-request-id"] == "shadow-mine"
    assert not {"authorization", "traceparent", "x-linnet-tell", "x-linnet-key"} & headers.keys()


def test_pairs_say_in_which_of_the_two_answers_a_check_found_something(launch):
    stack = shadowing(launch, "Hi.", REFUSAL)
    ask(stack)
    ask(stack, stream=True, response_format={"type": "json_object"})
    copies(stack, 2)
    tally = stack.tally()
    assert tally.pairs["refusal"] == Pairs(n=2, only_candidate=2)
    assert tally.pairs["repetition"] == Pairs(n=2)
    assert tally.pairs["invalid_json"] == Pairs(n=1, both=1)
    assert (tally.shadow_requests, tally.shadow_errors) == (2, 0)


def test_a_copy_is_no_answer_of_a_version(launch):
    stack = shadowing(launch)
    ask(stack)
    copies(stack, 1)
    assert set(stack.tally().versions) == {"v1"}


@pytest.mark.parametrize("kind", ["error", "dropped", "stream"])
def test_a_copy_without_an_answer_is_an_error_of_the_shadow_and_never_retried(launch, kind):
    async def fail(request, _body):
        if kind == "dropped":
            request.transport.abort()
        if kind == "stream":
            return await says("x")(request, {"stream": True})
        return web.json_response({"error": {"message": "no"}}, status=500)

    stack = shadowing(launch, candidate=fail)
    assert ask(stack).status_code == 200
    copies(stack, 1, "failed")
    assert len(stack.engines[1].requests) == 1
    assert stack.metric("linnet_gateway_retries_total") == 0
    tally = stack.tally()
    assert (tally.shadow_requests, tally.shadow_errors, tally.pairs) == (1, 1, {})
    assert set(tally.versions) == {"v1"}


def test_a_copy_is_bounded_by_the_time_of_a_request(launch):
    stack = launch(request_timeout_s=0.3)
    stack.engine("v1")
    stack.held_engine("v2")
    stack.policy("v1", "v2", 0, judging())
    assert ask(stack).status_code == 200
    copies(stack, 1, "failed")
    assert stack.tally().shadow_errors == 1


def test_two_copies_are_under_way_at_most_and_callers_do_not_wait_for_them(launch):
    stack = launch()
    stack.engine("v1")
    _, release = stack.held_engine("v2")
    stack.policy("v1", "v2", 0, judging())
    for _ in range(5):
        assert ask(stack).status_code == 200
    copies(stack, 3, "dropped")
    assert stack.metric("linnet_gateway_in_flight", version="v2") == 0
    stack.loop.loop.call_soon_threadsafe(release.set)
    copies(stack, 2)
    assert stack.tally().shadow_requests == 2


def test_copies_give_way_to_callers_who_need_the_candidate(launch):
    stack = launch(max_in_flight_per_replica=1)
    stack.engine("v1")
    _, release = stack.held_engine("v2")
    stack.policy("v1", "v2", 0, judging())
    asked = stack.loop.submit(stack.post(model="m:v2"))
    eventually(lambda: stack.engines[1].requests, "a caller is at the candidate")
    assert ask(stack).status_code == 200
    copies(stack, 1, "dropped")
    stack.loop.loop.call_soon_threadsafe(release.set)
    assert asked.result(20) == 200


def test_without_a_replica_of_the_candidate_a_copy_is_dropped(launch):
    stack = launch()
    stack.engine("v1")
    stack.policy("v1", "v2", 0, judging())
    assert ask(stack).status_code == 200
    copies(stack, 1, "dropped")
    assert stack.tally().shadow_requests == 0


def test_a_copy_is_no_callers_request(launch):
    stack = shadowing(launch)
    ask(stack)
    copies(stack, 1)
    for name in ("linnet_gateway_requests_total", "linnet_gateway_tokens_total"):
        assert stack.metric(name, version="v2") == 0
    [row] = stack.rows(1)
    assert row["version"] == "v1"


def test_what_is_not_shadowed(launch):
    policy = judging(match=(Match(key_prefix="beta-"),), when=ShadowWhen.THIN)
    stack = shadowing(launch, policy=policy)
    beta = {"x-linnet-key": "beta-1"}
    ask(stack)
    ask(stack, headers=beta, model="m:v1")
    ask(stack, headers=beta, route="/v1/responses")
    stack.policy("v1", "v2", 100, judging())
    ask(stack, headers=beta)
    assert len(stack.engines[1].requests) == 1
    stack.policy("v1", "v2", 10, judging(when=ShadowWhen.THIN))
    while ask(stack, headers={}).headers["x-linnet-version"] != "v1":
        pass
    stack.policy("v1", "v2", 9.99, policy)
    while ask(stack, headers=beta).headers["x-linnet-version"] != "v1":
        beta["x-linnet-key"] += "1"
    copies(stack, 1)
    assert stack.metric(SHADOWED) == 1


def test_an_answer_that_failed_is_not_copied(launch):
    async def fail(_request, _body):
        return web.json_response({"error": {"message": "no"}}, status=400)

    stack = launch()
    stack.engine("v1", fail)
    stack.engine("v2")
    stack.policy("v1", "v2", 0, judging())
    assert ask(stack).status_code == 400
    assert stack.tally().shadow_requests == 0
    assert stack.engines[1].requests == []

"""What a gateway counts of the requests that it answers, from end to end."""

from __future__ import annotations

import json

import httpx
import pytest
from aiohttp import web

from cluster.judging import Judging, Match, TextChecks
from cluster.tally import PAIRS, Tally
from serve_apps.gateway.strata import NEW_REQUESTS
from serve_apps.replay.wire import End, Told, Way, comment
from tests.serve_apps.gateway.servers import begin_stream, chunk, event, eventually

HELLO = [{"role": "user", "content": "Hello?"}]
JUDGING = Judging(rollout=7)
QUIET = {"asked", "texts", "json_texts", "texts_dropped", "refusal", "repetition"}


def answers(text, *, status=200, finish_reason="stop", usage=None, **message):
    async def behave(_request, _body):
        if status != 200:
            return web.json_response({"error": {"message": text, "code": status}}, status=status)
        choice = {"index": 0, "message": {"content": text} | message, "finish_reason": finish_reason}
        return web.json_response({"choices": [choice], **({"usage": usage} if usage else {})})

    return behave


def ask(stack, *, key="ada", headers=None, route="/v1/chat/completions", **body):
    sent = {"x-linnet-key": key} | (headers or {})
    answer = httpx.post(f"{stack.url}{route}", json={"model": "m", "messages": HELLO} | body, headers=sent)
    return answer.status_code


def counts(tally: Tally, version: str) -> dict[str, int]:
    """What is not 0, without pairs and what comes of the texts."""
    found = tally.versions[version].counts
    return {name: found[name] for name in found if name not in QUIET and not name.startswith(PAIRS)}


def judged(launch, candidate=None, *, weight=100, judging=JUDGING, **settings):
    """A gateway before v1, and before v2, which gets all of the traffic that is matched."""
    stack = launch(**settings)
    stack.engine("v1")
    stack.engine("v2", candidate)
    stack.policy("v1", "v2", weight, judging)
    return stack


def test_a_good_answer_is_a_request_with_its_quantities_by_size(launch):
    usage = {"prompt_tokens": 5, "total_tokens": 45, "completion_tokens": 40}
    stack = judged(launch, answers("Hi.", usage=usage))
    ask(stack)
    tally = stack.tally()
    assert counts(tally, "v2") == {"requests": 1}
    assert set(tally.versions) == {"v2"}
    strata = {metric: list(found) for metric, found in tally.versions["v2"].sketches.items()}
    assert strata == {"e2el": ["p0a1n"], "answer_tokens": ["p0"], "tokens_per_s": ["p0a1n"]}
    [(index, number)] = tally.versions["v2"].sketches["answer_tokens"]["p0"].buckets
    assert number == 1
    assert (1.01 / 0.99) ** index == pytest.approx(40, rel=0.02)


def test_a_stream_has_times_of_its_own_and_its_text_is_looked_at(launch):
    async def told(request, _body):
        response = await begin_stream(request)
        await response.write(comment(Told(steps=[[4]], way=Way.PREFILL)) + chunk("I'm sorry, but I ", "v2"))
        await response.write(comment(Told(steps=[[6]], end=End("length"))) + chunk("can't help.", "v2"))
        await response.write(b"data: [DONE]\n\n")
        return response

    stack = judged(launch, told)
    ask(stack, stream=True, messages=[{"role": "user", "content": "x" * 5000}])
    tally = stack.tally()
    assert counts(tally, "v2") == {"requests": 1, "cut": 1}
    assert (tally.versions["v2"].counts["texts"], tally.versions["v2"].counts["refusal"]) == (1, 1)
    strata = {metric: list(found) for metric, found in tally.versions["v2"].sketches.items()}
    assert strata == {
        "e2el": ["p3a0n"],
        "ttft": ["p3n"],
        "itl": ["p3a0n"],
        "answer_tokens": ["p3"],
        "tokens_per_s": ["p3a0n"],
    }


@pytest.mark.parametrize(
    ("behaviour", "kinds"),
    [
        (answers("no", status=500), {"errors": 1, "internal": 1, "retried": 0}),
        (answers("no", status=503), {"errors": 1, "unavailable": 1}),
        (answers("no", status=504), {"errors": 1, "timeout": 1}),
        (answers(""), {"empty": 1}),
        (answers(None), {"empty": 1}),
        (answers(None, tool_calls=[{"id": "a", "function": {"name": "f", "arguments": ""}}]), {}),
        (answers("Hello the", finish_reason="length"), {"cut": 1}),
    ],
)
def test_errors_by_kind_and_empty_and_cut_answers(launch, behaviour, kinds):
    stack = judged(launch, behaviour)
    ask(stack)
    found = {name: number for name, number in kinds.items() if number}
    assert counts(stack.tally(), "v2") == {"requests": 1} | found


def test_a_timeout_and_a_version_without_replicas_are_errors(launch):
    stack = launch(request_timeout_s=0.2)
    stack.engine("v1")
    stack.held_engine("v2")
    stack.policy("v1", "v2", 100, JUDGING)
    assert ask(stack) == 504
    stack.directory.put("m", "v2")
    assert ask(stack) == 503
    assert counts(stack.tally(), "v2") == {"requests": 2, "errors": 2, "timeout": 1, "unavailable": 1}


def test_a_stream_that_breaks_is_an_error_and_its_times_are_left_out(launch):
    async def begin_and_die(request, _body):
        response = await begin_stream(request)
        await response.write(chunk("Hel", "v2"))
        request.transport.abort()
        return response

    stack = judged(launch, begin_and_die)
    ask(stack, stream=True)
    tally = stack.tally()
    assert counts(tally, "v2") == {"requests": 1, "errors": 1, "broken_stream": 1}
    assert tally.versions["v2"].sketches == {}


def test_a_request_that_was_sent_again_is_counted_as_such(launch):
    stack = judged(launch)
    stack.directory.put("m", "v2", "http://127.0.0.1:9", stack.engines[1].base_url)
    seen = 0
    while stack.metric("linnet_gateway_retries_total") == 0:
        ask(stack)
        seen += 1
    assert counts(stack.tally(), "v2") == {"requests": seen, "retried": 1}


def test_what_callers_do_wrong_is_not_counted(launch):
    stack = judged(launch, answers("too long", status=400))
    assert ask(stack) == 400
    assert ask(stack, model=5) == 400
    assert stack.tally().versions == {}


def test_a_caller_who_leaves_before_the_answer_is_counted_as_that_alone(launch):
    stack = launch()
    stack.engine("v1")
    engine, release = stack.held_engine("v2")
    stack.policy("v1", "v2", 100, JUDGING)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{stack.url}/v1/chat/completions", json={"model": "m"}, timeout=0.2)
    assert engine.gone.wait(20)
    stack.loop.loop.call_soon_threadsafe(release.set)
    assert ask(stack) == 200
    assert counts(stack.tally(), "v2") == {"requests": 1, "left": 1}


def test_pins_and_the_tokenizer_are_not_counted(launch):
    stack = judged(launch)
    assert ask(stack, headers={"x-linnet-version": "v2"}) == 200
    assert ask(stack, model="m:v1") == 200
    assert ask(stack, route="/tokenize") == 503
    assert stack.tally().versions == {}


def test_whoever_is_not_matched_gets_stable_and_is_not_counted(launch):
    judging = Judging(rollout=1, match=(Match(header={"X-Region": "eu"}), Match(key_prefix="beta-")))
    stack = judged(launch, judging=judging)
    for key, headers in (("ada", {}), ("ada", {"x-region": "us"}), ("a-beta-", {})):
        ask(stack, key=key, headers=headers)
    assert stack.metric("linnet_gateway_requests_total", version="v1") == 3
    ask(stack, headers={"X-REGION": "eu"})
    ask(stack, key="beta-1")
    tally = stack.tally()
    assert set(tally.versions) == {"v2"}
    assert counts(tally, "v2") == {"requests": 2}


def test_each_revision_of_the_policy_has_a_tally_of_its_own(launch):
    stack = judged(launch)
    ask(stack)
    stack.policy("v1", "v2", 0, JUDGING)
    ask(stack)
    ask(stack)
    stack.policy("v1")
    ask(stack)
    assert counts(stack.tally(1), "v2") == {"requests": 1}
    assert counts(stack.tally(2), "v1") == {"requests": 2}
    assert stack.tally(3) == Tally()


def test_a_request_counts_for_the_revision_that_it_was_routed_by(launch):
    stack = launch()
    stack.engine("v1")
    _, release = stack.held_engine("v2")
    stack.policy("v1", "v2", 100, JUDGING)
    asked = stack.loop.submit(stack.post())
    eventually(lambda: stack.engines[1].requests, "the request is under way")
    stack.policy("v1", "v2", 50, JUDGING)
    stack.loop.loop.call_soon_threadsafe(release.set)
    assert asked.result(20) == 200
    assert counts(stack.tally(1), "v2") == {"requests": 1}
    assert stack.tally(2).versions == {}


def test_texts_are_checked_as_the_policy_says(launch):
    judging = Judging(rollout=1, texts=TextChecks(banned=("darn",), scripts=("latin",), per_second=1e6))
    stack = judged(launch, answers('{"a": "Darn, привет"'), judging=judging)
    ask(stack, response_format={"type": "json_object"})
    ask(stack)
    found = stack.tally().versions["v2"].counts
    assert {name: found[name] for name in ("texts", "json_texts", "invalid_json")} == {
        "texts": 2,
        "json_texts": 1,
        "invalid_json": 1,
    }
    assert (found["wrong_script"], found["banned_word"]) == (2, 2)
    assert not found.keys() & {"refusal", "repetition"}


def test_at_most_so_many_texts_of_each_version_are_looked_at(launch):
    judging = Judging(rollout=1, texts=TextChecks(per_second=0.001))
    stack = judged(launch, weight=50, judging=judging)
    for number in range(40):
        ask(stack, key=str(number))
    tally = stack.tally()
    assert [tally.versions[version].counts["texts"] for version in ("v1", "v2")] == [1, 1]
    assert sum(tally.versions[version].counts["requests"] for version in ("v1", "v2")) == 40


def test_log_probabilities_are_those_of_the_answers_tokens(launch):
    def tokens(*logprobs):
        return [{"token": "x", "logprob": one, "top_logprobs": [{"logprob": -9}]} for one in logprobs]

    async def behave(request, body):
        if not body.get("stream"):
            choice = {"index": 0, "message": {"content": "Hi"}, "logprobs": {"content": tokens(-1.0, -3.0)}}
            return web.json_response({"choices": [choice]})
        response = await begin_stream(request)
        for one in (-1.0, -3.0):
            choice = {"index": 0, "delta": {"content": "x"}, "logprobs": {"content": tokens(one)}}
            await response.write(event({"choices": [choice]}))
        await response.write(b"data: [DONE]\n\n")
        return response

    stack = judged(launch, behave)
    ask(stack, logprobs=True)
    ask(stack, logprobs=True, stream=True)
    ask(stack)
    [(index, number)] = stack.tally().versions["v2"].sketches["mean_logprob"]["p0a0"].buckets
    assert number == 2
    assert (1.01 / 0.99) ** index == pytest.approx(2.0, rel=0.02)


def test_without_judging_nothing_is_counted_and_the_revision_is_told(launch):
    stack = judged(launch, judging=None)
    ask(stack)
    assert stack.tally() == Tally()


def test_no_text_of_an_answer_is_in_the_tally(launch, tmp_path):
    stack = judged(launch, answers("a-very-private-word"))
    ask(stack, messages=[{"role": "user", "content": "another-private-word"}])
    stored = json.dumps(stack.tally().model_dump())
    assert "private-word" not in stored


def test_the_first_answers_of_a_replica_are_compared_with_their_like_alone(launch):
    stack = judged(launch, answers("Hi."))
    for _ in range(NEW_REQUESTS + 2):
        ask(stack)
    sketches = stack.tally().versions["v2"].sketches["e2el"]
    sizes = {stratum: sum(number for _, number in found.buckets) for stratum, found in sketches.items()}
    assert sizes == {"p0a0n": NEW_REQUESTS, "p0a0": 2}

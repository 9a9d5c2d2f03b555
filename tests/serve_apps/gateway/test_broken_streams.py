"""Streams whose replica is lost, and whose caller is."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest

from cluster.state import policies
from cluster.traffic import TrafficPolicy
from serve_apps.gateway.app import build_app
from serve_apps.gateway.config import GatewayConfig
from serve_apps.gateway.policies import PolicyCache
from serve_apps.replay.wire import RESUME_TYPE, Told, Way, comment, unpack
from tests.serve_apps.gateway.servers import Engine, TableDirectory, begin_stream, chunk, event, eventually


async def die_within_the_second_event(request, _body):
    response = await begin_stream(request)
    await response.write(chunk("Hel", "v1"))
    await response.write(chunk("lo", "v1")[:30])
    request.transport.abort()
    return response


def test_a_stream_that_breaks_ends_with_an_error_event(launch):
    stack = launch()
    stack.engine("v1", die_within_the_second_event)
    spare = stack.engine("v2")
    stack.policy()
    stream = stack.client().chat.completions.create(model="m", messages=[], stream=True)
    assert next(stream).choices[0].delta.content == "Hel"
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert caught.value.code == "stream_broken"
    raw = httpx.post(f"{stack.url}/v1/chat/completions", json={"model": "m", "stream": True}).content
    events = raw.split(b"\n\n")
    assert [json.loads(e.removeprefix(b"data: ")).keys() & {"choices", "error"} for e in events[:-1]] == [
        {"choices"},
        {"error"},
    ]
    assert events[-1] == b""
    assert not spare.requests
    assert stack.metric("linnet_gateway_broken_streams_total", version="v1") == 2


async def tell_and_die(request, _body):
    response = await begin_stream(request)
    await response.write(comment(Told(steps=[[7]], way=Way.PREFILL)) + chunk("Hel", "v1"))
    await response.write(comment(Told(steps=[[8, 9]])) + chunk("lo", "v1")[:30])
    request.transport.abort()
    return response


async def go_on(request, _body):
    response = await begin_stream(request)
    await response.write(chunk("lo", "v1") + event({"choices": [], "usage": {}}) + b"data: [DONE]\n\n")
    return response


def test_a_stream_that_breaks_goes_on_from_another_replica_of_the_version(launch):
    stack = launch()
    bad, good = stack.engine("v1", tell_and_die), stack.engine("v1", go_on)
    other = stack.engine("v2")
    stack.policy("v1", "v2", 10)
    body = {"model": "m:v1", "stream": True}
    while not bad.requests:
        raw = httpx.post(f"{stack.url}/v1/chat/completions", json=body)
    assert raw.content == chunk("Hel", "v1") + chunk("lo", "v1") + (
        event({"choices": [], "usage": {}}) + b"data: [DONE]\n\n"
    )
    headers, packed = good.requests[-1]
    resume, original = unpack(packed)
    assert headers["content-type"] == RESUME_TYPE
    assert headers["x-request-id"] == bad.requests[0][0]["x-request-id"] == raw.headers["x-request-id"]
    assert (resume.way, resume.passed, resume.created) == (Way.PREFILL, 1, 1)
    assert resume.steps[0] == [7]
    assert json.loads(original) == body
    assert not other.requests
    assert stack.metric("linnet_gateway_continued_streams_total", version="v1") == 1
    assert stack.metric("linnet_gateway_broken_streams_total", version="v1") == 0


def test_the_rest_of_a_sampled_stream_is_marked(launch):
    async def sampled(request, _body):
        response = await begin_stream(request)
        await response.write(comment(Told(steps=[[7]], way=Way.PREFILL, sampled=True)) + chunk("Hel", "v1"))
        request.transport.abort()
        return response

    stack = launch()
    bad, _ = stack.engine("v1", sampled), stack.engine("v1", go_on)
    stack.policy()
    while not bad.requests:
        raw = httpx.post(f"{stack.url}/v1/chat/completions", json={"model": "m", "stream": True})
    assert raw.content.startswith(chunk("Hel", "v1") + b": linnet-continued sampled\n\n" + chunk("lo", "v1"))


@pytest.mark.parametrize("taken", ["nothing", "the first part"])
def test_a_caller_who_takes_no_more_and_leaves_frees_the_replica(loop_thread, database, taken):
    """Held up at the head of the answer, or at the mark between its two parts."""
    begun = []

    async def endless(request, _body):
        begun.append(request)
        response = await begin_stream(request)
        await response.write(comment(Told(steps=[[7]], way=Way.PREFILL, sampled=True)) + chunk("Hel", "v1"))
        if taken == "the first part" and len(begun) == 1:
            request.transport.abort()
            return response
        while True:
            await asyncio.sleep(0.02)
            await response.write(chunk("x", "v1"))

    def is_held_up(message):
        if taken == "nothing":
            return message["type"] == "http.response.start"
        return b"linnet-continued" in message.get("body", b"")

    async def ask(app):
        left, waiting = asyncio.Event(), [{"type": "http.request", "body": b'{"model": "m", "stream": true}'}]

        async def receive():
            if not waiting:
                await left.wait()
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        async def send(message):
            if is_held_up(message):
                left.set()
                await asyncio.Event().wait()

        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
        await app(scope, receive, send)

    with database.transaction() as session:
        policies.put(session, TrafficPolicy(model="m", revision=1, stable="v1", candidate=None, weight=0))
    engines = [Engine("v1", loop_thread, endless) for _ in range(2)]
    directory = TableDirectory()
    for engine in engines:
        engine.start()
    directory.put("m", "v1", *(engine.base_url for engine in engines))
    cache = PolicyCache(database, ("m",), interval_s=0.02)
    app = build_app(GatewayConfig(model="m"), directory, cache)
    loop_thread.run(app._parts.start())
    eventually(lambda: cache.get("m") is not None, "the policy is read")
    loop_thread.run(ask(app))
    eventually(lambda: any(engine.gone.is_set() for engine in engines), "the replica may stop")
    loop_thread.run(app._parts.stop())
    for engine in engines:
        engine.stop()


def test_replicas_that_all_break_end_the_stream_with_an_error_event(launch):
    stack = launch()
    engines = [stack.engine("v1", tell_and_die) for _ in range(5)]
    stack.policy()
    raw = httpx.post(f"{stack.url}/v1/chat/completions", json={"model": "m", "stream": True}).content
    assert raw.endswith(b"\n\n")
    last = json.loads(raw.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert last["error"]["code"] == "upstream_failed"
    assert sum(len(engine.requests) for engine in engines) == 3


def test_a_stream_that_was_whole_when_its_replica_was_lost_is_whole(launch):
    async def finish_and_die(request, _body):
        response = await begin_stream(request)
        await response.write(chunk("Hello", "v1") + b"data: [DONE]\n\n")
        request.transport.abort()
        return response

    stack = launch()
    stack.engine("v1", finish_and_die)
    stack.policy()
    raw = httpx.post(f"{stack.url}/v1/chat/completions", json={"model": "m", "stream": True})
    assert raw.content == chunk("Hello", "v1") + b"data: [DONE]\n\n"
    assert stack.metric("linnet_gateway_broken_streams_total") == 0

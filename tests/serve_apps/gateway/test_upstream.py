from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from datetime import timedelta

import httpx
import openai
import pytest
from aiohttp import web

from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now
from serve_apps.gateway import retry_budget
from tests.serve_apps.gateway.servers import Engine, begin_stream, chunk, event, eventually

HELLO = [{"role": "user", "content": "Hello?"}]


async def drop(request, _body):
    request.transport.abort()
    return web.Response()


async def unavailable(_request, _body):
    return web.Response(status=503)


async def truncate(request, _body):
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"id": ')
    request.transport.abort()
    return response


async def die_before_the_first_event(request, _body):
    response = await begin_stream(request)
    await response.write(b'data: {"half": ')
    request.transport.abort()
    return response


async def never_answer(_request, _body):
    await asyncio.Event().wait()


def ask(stack, **options):
    options = {"model": "m", "messages": HELLO} | options
    return stack.client().chat.completions.create(**options)


@pytest.mark.parametrize(
    ("behaviour", "cause", "stream"),
    [
        (drop, "dropped", False),
        (drop, "dropped", True),
        (truncate, "dropped", False),
        (die_before_the_first_event, "dropped", True),
        (unavailable, "unavailable", False),
    ],
)
def test_a_failure_before_the_first_byte_is_retried_on_the_same_version(launch, behaviour, cause, stream):
    stack = launch()
    bad, good = stack.engine("v1", behaviour), stack.engine("v1")
    other = stack.engine("v2")
    stack.policy("v1", "v2", 10)
    while not bad.requests:
        ask(stack, extra_headers={"x-linnet-version": "v1"}, stream=stream)
    assert good.requests
    assert not other.requests
    retries = stack.metric("linnet_gateway_retries_total", model="m", version="v1", cause=cause)
    assert retries == len(bad.requests)


def test_a_refused_connection_is_retried_and_then_avoided(launch):
    stack = launch()
    dead, alive = stack.engine("v1"), stack.engine("v1")
    stack.policy()
    dead.stop()
    began = time.monotonic()
    for _ in range(12):
        ask(stack)
    seconds = time.monotonic() - began
    assert len(alive.requests) == 12
    refused = stack.metric("linnet_gateway_retries_total", cause="refused")
    assert refused <= 1 + seconds


def test_retries_are_bounded_and_stay_on_the_version(launch):
    stack = launch()
    bad = [stack.engine("v1", drop) for _ in range(5)]
    other = stack.engine("v2")
    stack.policy("v1", "v2", 10)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(stack, model="m:v1")
    assert (caught.value.status_code, caught.value.code) == (503, "upstream_failed")
    assert caught.value.response.headers["retry-after"] == "1"
    assert sum(len(engine.requests) for engine in bad) == 3
    assert not other.requests


def test_a_version_that_fails_everything_is_not_tried_three_times_for_ever(launch, monkeypatch):
    monkeypatch.setattr(retry_budget, "RESERVE", 6.0)
    monkeypatch.setattr(retry_budget, "PER_S", 0.0)
    stack = launch()
    bad = [stack.engine("v1", drop) for _ in range(5)]
    stack.policy()
    for _ in range(12):
        with pytest.raises(openai.InternalServerError):
            ask(stack)
    sent = sum(len(engine.requests) for engine in bad)
    assert 12 + 6 <= sent < 2 * 12 + 6


def test_a_lone_replica_that_dropped_one_request_gets_it_again(launch):
    stack = launch()
    once = []

    async def drop_once(request, body):
        if not once:
            once.append(1)
            return await drop(request, body)
        return await engine._answer(request, body)

    engine = stack.engine("v1", drop_once)
    stack.policy()
    assert ask(stack).model == "v1"
    assert len(engine.requests) == 2


def test_a_request_waits_for_a_replica_of_its_version(launch):
    stack = launch(replica_wait_s=20)
    stack.engine("v2")
    stack.directory.put("m", "v1")
    stack.policy("v1", "v2", 10)
    found = []
    caller = threading.Thread(target=lambda: found.append(ask(stack, model="m:v1").model))
    caller.start()
    eventually(lambda: stack.metric("linnet_gateway_in_flight", version="v1") == 1, "the request waits")
    stack.engine("v1")
    caller.join(20)
    assert found == ["v1"]


def test_a_replica_that_comes_back_on_its_port_is_used_again(launch):
    stack = launch(replica_wait_s=20)
    engine = stack.engine("v1")
    stack.policy()
    ask(stack)
    engine.stop()
    found = []
    caller = threading.Thread(target=lambda: found.append(ask(stack).model))
    caller.start()
    eventually(lambda: stack.metric("linnet_gateway_in_flight", version="v1") == 1, "the request waits")
    engine.start(engine.port)
    caller.join(20)
    assert found == ["v1"]


def test_a_timeout_is_504_and_not_retried(launch):
    stack = launch(request_timeout_s=0.3)
    engines = [stack.engine("v1", never_answer) for _ in range(2)]
    stack.policy()
    with pytest.raises(openai.InternalServerError) as caught:
        ask(stack)
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    assert sum(len(engine.requests) for engine in engines) == 1
    eventually(lambda: any(engine.gone.is_set() for engine in engines), "the engine was told")


def test_a_replica_that_cannot_be_reached_in_time_is_passed_over(launch):
    stack = launch(connect_timeout_s=0.2)
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    try:
        for _ in range(4):  # a full accept queue leaves further connections unanswered
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        good = stack.engine("v1")
        dark = f"http://127.0.0.1:{full.getsockname()[1]}"
        stack.directory.put("m", "v1", dark, good.base_url)
        stack.policy()
        while not stack.metric("linnet_gateway_retries_total", cause="refused"):
            assert ask(stack).model == "v1"
    finally:
        for connection in (*waiting, full):
            connection.close()


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_faulty_replica_is_passed_over(launch, kind):
    async def fail(_request, _body):
        return web.Response(status=500, text='{"error": {"message": "dead"}}', content_type=kind)

    stack = launch()
    bad, _ = stack.engine("v1", fail), stack.engine("v1")
    stack.policy()
    while not bad.requests:
        assert ask(stack).model == "v1"
    assert stack.metric("linnet_gateway_retries_total", cause="faulty") == 1


def test_a_request_that_every_replica_fails_on_gets_their_word(launch):
    async def fail(_request, _body):
        return web.json_response({"error": {"message": "dead", "type": "x"}}, status=500)

    stack = launch(replica_wait_s=20)
    engines = [stack.engine("v1", fail) for _ in range(2)]
    stack.policy()
    with pytest.raises(openai.InternalServerError, match="dead"):
        ask(stack)
    assert [len(engine.requests) for engine in engines] == [1, 1]


def test_a_route_that_the_model_has_no_use_for_is_refused_in_the_envelope(launch):
    async def lacks(_request, _body):
        return web.json_response({"detail": "Not Found"}, status=404)

    stack = launch()
    stack.engine("v1", lacks)
    stack.policy()
    with pytest.raises(openai.NotFoundError) as caught:
        stack.client().embeddings.create(model="m", input="x")
    assert caught.value.code == "unsupported_route"
    assert "m:v1 does not answer /v1/embeddings" in caught.value.message


def test_a_stream_that_stalls_ends_with_an_error_event(launch):
    async def stall(request, body):
        response = await begin_stream(request)
        await response.write(chunk("Hel", "v1"))
        return await never_answer(request, body)

    stack = launch(request_timeout_s=0.5)
    stack.engine("v1", stall)
    stack.policy()
    with pytest.raises(openai.APIError) as caught:
        list(ask(stack, stream=True))
    assert caught.value.code == "upstream_timeout"


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_hangs_up_stops_the_engine(launch, stream):
    async def talk_for_ever(request, body):
        if not body.get("stream"):
            return await never_answer(request, body)
        response = await begin_stream(request)
        await response.write(chunk("Hel", "v1"))
        return await never_answer(request, body)

    stack = launch()
    engine = stack.engine("v1", talk_for_ever)
    stack.policy()
    body = json.dumps({"model": "m", "stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", int(stack.url.rsplit(":", 1)[1]))) as connection:
        connection.sendall(head + body)
        if stream:
            connection.settimeout(20)
            answer = b""
            while b"Hel" not in answer:
                answer += connection.recv(65536)
        else:
            eventually(lambda: engine.requests, "the engine has the request")
    assert engine.gone.wait(20)
    eventually(lambda: stack.metric("linnet_gateway_in_flight", version="v1") == 0, "nothing in flight")
    assert stack.metric("linnet_gateway_requests_total", status="499") == 1
    assert stack.metric("linnet_gateway_retries_total") == 0


def test_events_arrive_as_they_are_made(launch, loop_thread):
    gates = [asyncio.Event() for _ in range(2)]

    async def step_by_step(request, _body):
        response = await begin_stream(request)
        for number, gate in enumerate(gates):
            await response.write(chunk(str(number), "v1"))
            await gate.wait()
        await response.write(event({"last": True})[:5])
        await response.write(event({"last": True})[5:])
        return response

    stack = launch()
    stack.engine("v1", step_by_step)
    stack.policy()
    body = {"model": "m", "stream": True}
    with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body, timeout=20) as response:
        lines = (line for line in response.iter_lines() if line)
        for number, gate in enumerate(gates):
            assert f'"content": "{number}"' in next(lines)
            loop_thread.loop.call_soon_threadsafe(gate.set)
        assert list(lines) == ['data: {"last": true}']


@pytest.mark.parametrize(
    ("status", "text", "kind", "code"),
    [(500, "boom", "server_error", "upstream_error"), (429, "", "invalid_request_error", "upstream_error")],
)
def test_an_error_outside_the_envelope_is_put_into_it(launch, status, text, kind, code):
    async def fail(_request, _body):
        return web.Response(status=status, text=text, headers={"Retry-After": "7"})

    stack = launch()
    stack.engine("v1", fail)
    stack.policy()
    with pytest.raises(openai.APIStatusError) as caught:
        ask(stack)
    assert (caught.value.status_code, caught.value.type, caught.value.code) == (status, kind, code)
    assert text in caught.value.message
    assert caught.value.response.headers["retry-after"] == "7"


def test_an_error_in_the_envelope_goes_through_as_it_is(launch):
    raw = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'

    async def fail(_request, _body):
        return web.Response(status=400, body=raw, content_type="application/json")

    stack = launch()
    engine = stack.engine("v1", fail)
    stack.policy()
    with pytest.raises(openai.BadRequestError) as caught:
        ask(stack)
    assert caught.value.response.content == raw
    assert len(engine.requests) == 1


def test_a_port_that_another_application_took_over_counts_as_gone(launch, loop_thread):
    stack = launch()
    stack.policy()
    stranger = Engine("v9", loop_thread)
    stranger.start()
    try:
        stale = f"http://127.0.0.1:{stranger.port}/_versions/m/v1"
        good = stack.engine("v1")
        stack.directory.put("m", "v1", stale, good.base_url)
        while not stack.metric("linnet_gateway_retries_total", cause="unavailable"):
            assert ask(stack).model == "v1"
        assert not stranger.requests
    finally:
        stranger.stop()


def stand_by(stack, *engines):
    """The engines are two replicas of v1; the second stands by."""
    stack.directory.plans["m", "v1"] = 2
    with stack.database.transaction() as session:
        for age_s, engine in zip((60, 30), engines, strict=True):
            replicas.report(
                session,
                replica=engine.base_url,
                model="m",
                version="v1",
                status=ReplicaStatus.SERVING,
                detail={"proven": 1, "standby": 1},
            )
            session.get(ReplicaRow, (engine.base_url, "v1")).started_at = utc_now() - timedelta(seconds=age_s)


def test_a_standby_answers_nobody_until_the_other_is_lost_and_then_at_once(launch):
    stack = launch()
    first, second = stack.engine("v1"), stack.engine("v1")
    stand_by(stack, first, second)
    stack.policy("v1")

    def keeps_still():
        seen = len(second.requests)
        for _ in range(8):
            ask(stack)
        return len(second.requests) == seen

    eventually(keeps_still, "the second stands by")
    before = len(second.requests)
    first.behaviour = drop
    for _ in range(4):
        assert ask(stack).choices[0].message.content == "Hello from v1"
    assert len(second.requests) == before + 4
    stack.directory.put("m", "v1", second.base_url)
    ask(stack)
    assert len(second.requests) == before + 5

from __future__ import annotations

import asyncio
import threading

import aiohttp

from cluster.traffic import TrafficPolicy, route
from tests.serve_apps.gateway.servers import begin_stream, chunk, eventually

KEYS = [f"caller-{number}" for number in range(1000)]


def versions_of(stack, loop_thread, keys):
    """The version that answers each key, asked over HTTP by 16 callers at once."""

    async def all_of_them():
        gate = asyncio.Semaphore(16)
        async with aiohttp.ClientSession() as session:

            async def one(key):
                async with (
                    gate,
                    session.post(
                        f"{stack.url}/v1/chat/completions", json={"model": "m"}, headers={"x-linnet-key": key}
                    ) as answer,
                ):
                    assert answer.status == 200
                    assert (await answer.json())["model"] == answer.headers["x-linnet-version"]
                    return answer.headers["x-linnet-version"]

            return await asyncio.gather(*map(one, keys))

    return dict(zip(keys, loop_thread.run(all_of_them()), strict=True))


def test_the_split_is_sticky_fair_and_monotone(stack, loop_thread):
    stack.policy("v1", "v2", 10)
    at_ten = versions_of(stack, loop_thread, KEYS)
    observed = sum(version == "v2" for version in at_ten.values()) / len(KEYS)
    assert abs(observed - 0.1) < 4 * (0.1 * 0.9 / len(KEYS)) ** 0.5
    policy = TrafficPolicy(model="m", revision=1, stable="v1", candidate="v2", weight=10)
    assert at_ten == {key: route(policy, key) for key in KEYS}
    assert versions_of(stack, loop_thread, KEYS[:200]) == {key: at_ten[key] for key in KEYS[:200]}
    stack.policy("v1", "v2", 50)
    at_fifty = versions_of(stack, loop_thread, KEYS)
    assert all(at_fifty[key] == "v2" for key in KEYS if at_ten[key] == "v2")
    stack.policy("v1", "v2", 0)
    assert set(versions_of(stack, loop_thread, KEYS[:50]).values()) == {"v1"}


def test_weights_change_while_a_stream_is_in_flight(launch, loop_thread):
    stack = launch()
    go_on = asyncio.Event()

    async def slow(request, _body):
        response = await begin_stream(request)
        await response.write(chunk("begun", "v1"))
        await go_on.wait()
        await response.write(chunk(" and ended", "v1") + b"data: [DONE]\n\n")
        return response

    stack.engine("v1", slow)
    stack.engine("v2")
    stack.policy("v1")
    stream = stack.client().chat.completions.create(model="m", messages=[], stream=True)
    assert next(stream).choices[0].delta.content == "begun"
    stack.policy("v2", "v1", 0)
    assert stack.client().chat.completions.create(model="m", messages=[]).model == "v2"
    loop_thread.loop.call_soon_threadsafe(go_on.set)
    assert [part.choices[0].delta.content for part in stream] == [" and ended"]
    eventually(lambda: stack.metric("linnet_gateway_requests_total", status="200") == 2, "both counted")


def test_the_user_in_the_body_is_a_key_too(stack):
    stack.policy("v1", "v2", 50)
    client = stack.client()
    by_user = [client.chat.completions.create(model="m", messages=[], user=key).model for key in KEYS[:20]]
    by_header = [
        client.chat.completions.create(model="m", messages=[], extra_headers={"x-linnet-key": key}).model
        for key in KEYS[:20]
    ]
    assert by_user == by_header
    assert set(by_user) == {"v1", "v2"}
    by_api_key = {client.chat.completions.create(model="m", messages=[]).model for _ in range(5)}
    assert len(by_api_key) == 1


def test_busy_replicas_get_less(launch):
    stack = launch()
    holding = asyncio.Event()

    async def hold(request, body):
        await holding.wait()
        return await busy._answer(request, body)

    busy = stack.engine("v1", hold)
    stack.policy()
    client = stack.client()
    caller = threading.Thread(target=lambda: client.chat.completions.create(model="m", messages=[]))
    caller.start()
    eventually(lambda: busy.requests, "one replica is busy")
    free = stack.engine("v1")
    for _ in range(10):
        stack.client().chat.completions.create(model="m", messages=[])
    assert (len(busy.requests), len(free.requests)) == (1, 10)
    stack.loop.loop.call_soon_threadsafe(holding.set)
    caller.join(20)
    assert not caller.is_alive()

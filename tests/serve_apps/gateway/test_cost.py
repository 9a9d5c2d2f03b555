from __future__ import annotations

import asyncio
import json
import time

from multidict import CIMultiDict

from cluster.judging import Judging, TextChecks
from cluster.keys import Grant, Limits, new_secret
from cluster.state import keys
from cluster.traffic import TrafficPolicy
from serve_apps.gateway import tokens
from serve_apps.gateway.access import Access
from serve_apps.gateway.admission import Admission
from serve_apps.gateway.config import GatewayConfig
from serve_apps.gateway.directory import Replica
from serve_apps.gateway.judged import Asked, JudgedTraffic
from serve_apps.gateway.keys import KeyCache
from serve_apps.gateway.metrics import GatewayMetrics
from serve_apps.gateway.observation import Notes
from serve_apps.gateway.plan import Plan
from serve_apps.gateway.selection import Choice
from serve_apps.gateway.trace import Tracer
from tests.serve_apps.gateway.servers import TableDirectory, eventually

ROUNDS = 500
LIMITS = Limits(requests_per_minute=10**9, tokens_per_minute=2**31 - 1, max_concurrent=10)
BODY = b'{"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "%s"}]}' % (b"x" * 900)


def test_a_key_with_all_limits_costs_microseconds_a_request(database):
    """Some 15 on a quiet machine; of this process's own time, the best of several rounds."""

    async def measure() -> float:
        secret, cache = new_secret(), KeyCache(database, interval_s=0.01)
        with database.transaction() as session:
            for number in range(1000):
                keys.add(session, Grant(name=f"key-{number}"), new_secret())
            keys.add(session, Grant(name="ada", models=("m",), limits=LIMITS), secret)
        await cache.start()
        await asyncio.to_thread(eventually, cache.ready, "the keys are read")
        await cache.stop()
        config, directory = GatewayConfig(model="m", auth="required"), TableDirectory()
        directory.put("m", "v1", "http://replica")
        access = Access(config, cache)
        admission = Admission(config, directory, GatewayMetrics())
        headers = [(b"host", b"x"), (b"authorization", b"Bearer " + secret.encode()), (b"accept", b"*/*")]
        best = float("inf")
        for _ in range(20):
            started = time.thread_time()
            for _ in range(ROUNDS):
                await one_request(access, admission, headers)
            best = min(best, (time.thread_time() - started) / ROUNDS)
        return best

    cost_us = asyncio.run(measure()) * 1e6
    assert cost_us < 100


async def one_request(access, admission, headers) -> None:
    caller = access.identify(headers)
    ticket = caller.meter.enter()
    assert caller.check_model("m", ("m",)) is None
    lane = caller.lane("")
    assert ticket.reserve(lambda: tokens.estimate("/v1/chat/completions", BODY)) is None
    slot = await admission.enter(Choice("m", "v1"), lane)
    ticket.begin()
    assert caller.meter.headers()
    slot.leave()
    ticket.leave()


def test_a_trace_that_nobody_asked_for_costs_less_than_3_microseconds_a_request():
    tracer, replica, headers = Tracer(), Replica(id="a", base_url="http://replica"), CIMultiDict()
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(ROUNDS):
            trace = tracer.begin([], "/v1/chat/completions")
            trace.waits().end(error="")
            attempt = trace.attempts(replica, goes_on=False)
            attempt.pass_on(headers)
            attempt.end(status=200, error="")
            trace.finish(None)
        best = min(best, (time.perf_counter() - started) / ROUNDS)
    assert best * 1e6 < 3
    assert not headers


def test_a_judged_request_costs_microseconds_more():
    """Some 5 on a quiet machine, where its text is not looked at; of this process's own time."""
    seen = []
    judging = Judging(rollout=1, texts=TextChecks(per_second=1e-9))
    policy = TrafficPolicy(model="m", revision=1, stable="v1", candidate="v2", judging=judging)
    judged = JudgedTraffic(lambda policy, one: seen.append(one), texts=None, shadower=None)
    judged._next_look["m", "v1"] = float("inf")
    choices = [Choice("m", "v1"), Choice("m", "v1", policy)]
    plain_us, judged_us = (min(_answering(judged, choice) for _ in range(20)) * 1e6 for choice in choices)
    assert len(seen) == 20 * ROUNDS
    assert judged_us - plain_us < 30


def _answering(judged: JudgedTraffic, choice: Choice) -> float:
    route, message = "/v1/chat/completions", {"role": "assistant", "content": "word " * 64}
    answer = json.dumps({"choices": [{"index": 0, "message": message}], "usage": {"completion_tokens": 64}})
    started = time.thread_time()
    for _ in range(ROUNDS):
        notes = Notes([], b"id", route)
        watch = judged.begin(Asked(Plan(choice, BODY), route, [], b"id"), notes)
        notes.answered(answer.encode())
        row = notes.finish("m", "v1", 200, 0.5)
        if watch is not None:
            judged.finish(watch, row)
    return (time.thread_time() - started) / ROUNDS

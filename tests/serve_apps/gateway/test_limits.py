from __future__ import annotations

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.keys import Limits
from serve_apps.gateway.limits import Bucket, Meter, Ticket, duration
from serve_apps.gateway.openai_errors import Refusal
from tests.serve_apps.gateway.servers import Clock, begin_stream, event, eventually

PATIENCE = st.floats(0, 100, allow_nan=False)


def meter(clock: Clock, **limits) -> Meter:
    return Meter(Limits(**limits), clock)


def enter(found: Meter, tokens: int = 0) -> Ticket:
    ticket = found.enter()
    assert isinstance(ticket, Ticket)
    assert ticket.reserve(lambda: tokens) is None
    ticket.begin()
    return ticket


@given(per_minute=st.integers(1, 1000), asks=st.lists(st.tuples(PATIENCE, st.integers(1, 1000)), max_size=30))
def test_no_window_lets_through_more_than_a_bucket_and_what_flowed_in(per_minute, asks):
    bucket, now, taken = Bucket.full(per_minute, 0.0), 0.0, []
    for pause, amount in asks:
        now += pause
        if amount <= per_minute and bucket.wait(amount, now) == 0:
            bucket.take(amount, now)
            taken.append((now, amount))
    for first, (start, _) in enumerate(taken):
        for end, _ in taken[first:]:
            inside = sum(amount for at, amount in taken if start <= at <= end)
            assert inside <= per_minute + (end - start) * per_minute / 60 + 1e-6


@given(per_minute=st.integers(1, 10**6), spent=st.integers(1, 10**7), amount=st.integers(1, 10**7))
def test_what_it_says_to_wait_is_enough_and_not_more(per_minute, spent, amount):
    bucket = Bucket.full(per_minute, 0.0)
    bucket.take(spent, 0.0)
    wait = bucket.wait(amount, 0.0)
    assert bucket.wait(amount, wait * 0.99) > 0 or wait == 0
    assert bucket.wait(amount, wait) < 1e-6


@given(st.lists(st.tuples(PATIENCE, st.integers(0, 500), st.integers(0, 5000)), max_size=30))
def test_in_the_long_run_a_key_spends_what_it_may_however_wrong_the_estimates(requests):
    """At a time when it may begin a request, a key has spent a bucket and what flowed in, at most."""
    clock = Clock()
    found, spent = meter(clock, tokens_per_minute=600), 0
    for pause, estimate, actual in requests:
        clock.now += pause
        ticket = found.enter()
        if isinstance(ticket, Refusal) or ticket.reserve(lambda estimate=estimate: estimate) is not None:
            continue
        assert spent <= 600 + clock.now * 10 + 1e-6
        ticket.measure = lambda actual=actual: actual
        ticket.leave()
        spent += actual


def test_many_at_once_cannot_spend_what_one_after_another_could_not():
    found = meter(Clock(), tokens_per_minute=1000)
    begun = [found.enter() for _ in range(20)]
    refused = [ticket.reserve(lambda: 300) for ticket in begun]
    assert [refusal is None for refusal in refused].count(True) == 3
    assert {refusal.code for refusal in refused if refusal} == {"rate_limit_exceeded"}


def test_what_was_reserved_and_not_spent_comes_back_and_a_debt_is_paid_first():
    clock = Clock()
    found = meter(clock, tokens_per_minute=600)
    ticket = enter(found, tokens=600)
    assert isinstance(found.enter(), Refusal)
    ticket.measure = lambda: 100
    ticket.leave()
    ticket = enter(found, tokens=500)
    ticket.measure = lambda: 1100
    ticket.leave()
    refused = found.enter()
    assert refused.retry_after_s == pytest.approx(60.1)
    clock.now += 60.2
    assert isinstance(found.enter(), Ticket)


def test_a_request_for_more_than_a_minutes_worth_waits_for_a_full_bucket():
    clock = Clock()
    found = meter(clock, tokens_per_minute=600)
    enter(found, tokens=1).leave()
    refused = found.enter().reserve(lambda: 10**400)
    assert refused.retry_after_s == pytest.approx(0.1)
    clock.now += 0.11
    assert found.enter().reserve(lambda: 10**400) is None


@pytest.mark.parametrize(("status", "spent"), [(503, 0), (429, 0), (504, 500)])
def test_a_refusal_costs_nothing_unless_a_replica_worked_in_vain(status, spent):
    found = meter(Clock(), tokens_per_minute=600)
    ticket = enter(found, tokens=500)
    ticket.fail(Refusal(status, "", "", ""))
    ticket.leave()
    assert dict(found.headers())[b"x-ratelimit-remaining-tokens"] == str(600 - spent).encode()


def test_a_request_that_never_reached_a_replica_costs_no_tokens():
    found = meter(Clock(), tokens_per_minute=600)
    ticket = found.enter()
    ticket.reserve(lambda: 500)
    ticket.leave()
    assert dict(found.headers())[b"x-ratelimit-remaining-tokens"] == b"600"


def test_requests_at_a_time_and_each_frees_its_place_once():
    found = meter(Clock(), max_concurrent=2)
    first, _second = enter(found), enter(found)
    assert found.enter().code == "rate_limit_exceeded"
    first.leave()
    first.leave()
    enter(found)
    assert isinstance(found.enter(), Refusal)


def test_requests_a_minute():
    clock = Clock()
    found = meter(clock, requests_per_minute=2)
    enter(found).leave()
    enter(found).leave()
    refused = found.enter()
    assert (refused.status, refused.code, refused.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert refused.retry_after_s == 30
    clock.now += 30
    enter(found)


def test_what_answers_tell():
    clock = Clock()
    found = meter(clock, requests_per_minute=60, tokens_per_minute=600)
    enter(found, tokens=100)
    told = {name.decode(): value.decode() for name, value in found.headers()}
    assert told == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "10s",
    }
    assert meter(clock, max_concurrent=3).headers() == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0001, "1ms"), (1, "1s"), (59.1, "1m0s"), (90, "1m30s")],
)
def test_durations_are_written_as_openai_does(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def guarded(launch):
    stack = launch(auth="required", admin_paths="public")
    stack.engine("v1")
    stack.policy()
    return stack


def ask(stack, secret, **options):
    client = stack.client(api_key=secret)
    return client.chat.completions.with_raw_response.create(model="m", messages=[], **options)


def test_the_client_raises_rate_limit_error_and_is_told_when_to_come_back(guarded):
    secret = guarded.key("ada", limits=Limits(requests_per_minute=2))
    remaining = [ask(guarded, secret).headers["x-ratelimit-remaining-requests"] for _ in range(2)]
    assert remaining == ["1", "0"]
    with pytest.raises(openai.RateLimitError) as caught:
        ask(guarded, secret)
    assert caught.value.code == "rate_limit_exceeded"
    answer = caught.value.response
    assert 25 <= int(answer.headers["retry-after"]) <= 30
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert guarded.metric("linnet_gateway_refused_total", reason="rate_limited") == 1
    ask(guarded, guarded.key("bob"))


def test_a_change_of_another_key_fills_no_bucket(guarded):
    secret = guarded.key("ada", limits=Limits(requests_per_minute=1))
    ask(guarded, secret)
    guarded.key("bob")
    with pytest.raises(openai.RateLimitError):
        ask(guarded, secret)


def usage(total):
    return {"prompt_tokens": 1, "completion_tokens": total - 1, "total_tokens": total}


def remaining_tokens(stack, secret) -> int:
    """Asks `/v1/chat/completions` for nothing; a refused body tells the limits too."""
    body = httpx.post(f"{stack.url}/v1/chat/completions", headers={"authorization": f"Bearer {secret}"})
    return int(body.headers["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_are_counted_from_usage(launch, stream):
    stack = launch(auth="required", admin_paths="public")

    async def answer(request, body):
        if not stream:
            return await engine._answer(request, body, usage=usage(7000))
        response = await begin_stream(request)
        await response.write(event({"choices": [], "usage": usage(7000)}) + b"data: [DONE]\n\n")
        return response

    engine = stack.engine("v1", answer)
    stack.policy()
    secret = stack.key("ada", limits=Limits(tokens_per_minute=10_000))
    told = ask(stack, secret, max_tokens=50, stream=stream)
    assert 9900 <= int(told.headers["x-ratelimit-remaining-tokens"]) < 10_000
    told.parse() if not stream else list(told.parse())
    eventually(lambda: 3000 <= remaining_tokens(stack, secret) < 6000, "the usage is counted")
    with pytest.raises(openai.RateLimitError, match="tokens a minute"):
        ask(stack, secret, max_tokens=9000)


def test_hanging_up_early_does_not_make_an_answer_free(launch, loop_thread):
    stack = launch(auth="required", admin_paths="public")
    engine, _hold = stack.held_engine("v1")
    stack.policy()
    secret = stack.key("ada", limits=Limits(tokens_per_minute=10_000))
    asked = loop_thread.submit(stack.post(secret, max_tokens=6000))
    eventually(lambda: engine.requests, "a replica works on it")
    asked.cancel()
    assert engine.gone.wait(20)
    hung_up = {"name": "linnet_gateway_requests_total", "status": "499"}
    eventually(lambda: stack.metric(**hung_up) == 1, "the gateway has noticed")
    assert 3900 <= remaining_tokens(stack, secret) < 6000


def test_one_key_may_have_so_many_requests_under_way(launch, loop_thread):
    stack = launch(auth="required", admin_paths="public")
    engine, hold = stack.held_engine("v1")
    stack.policy()
    secret = stack.key("ada", limits=Limits(max_concurrent=1))
    first = loop_thread.submit(stack.post(secret))
    eventually(lambda: engine.requests, "the first is under way")
    with pytest.raises(openai.RateLimitError, match="1 requests at a time"):
        ask(stack, secret)
    ask_other = loop_thread.submit(stack.post(stack.key("bob")))
    eventually(lambda: len(engine.requests) == 2, "another key is let in")
    loop_thread.loop.call_soon_threadsafe(hold.set)
    assert (first.result(20), ask_other.result(20)) == (200, 200)
    eventually(lambda: loop_thread.run(stack.post(secret)) == 200, "its place is free again")

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import httpx
import openai
import pytest

from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now
from serve_apps.gateway.selection import Choice
from serve_apps.gateway.sleeping import REFUSED_S, Sleepers
from tests.serve_apps.gateway.servers import Clock, TableDirectory, eventually

V1 = Choice("m", "v1")
HELLO = [{"role": "user", "content": "Hello?"}]


def report(database, status, replica="a", ago_s=0.0):
    with database.transaction() as session:
        replicas.report(session, replica=replica, model="m", version="v1", status=status)
        session.get(ReplicaRow, (replica, "v1")).seen_at = utc_now() - timedelta(seconds=ago_s)


def rows(database):
    with database.snapshot() as session:
        return {row.replica: row.status for row in replicas.everything(session)}


def sleepers(database, *, clock=None):
    directory = TableDirectory()
    directory.put("m", "v1")
    directory.put("m", "v2")
    directory.sleepers.add(("m", "v1"))
    return directory, Sleepers(database, directory, ["m"], lambda *_: None, clock=clock or Clock())


def test_only_a_version_without_replicas_that_may_sleep_holds_requests(database):
    directory, found = sleepers(database)
    assert found.holds(V1)
    assert not found.holds(Choice("m", "v2"))
    directory.put("m", "v1", "http://a")
    assert not found.holds(V1)


def test_its_row_is_kept_while_it_sleeps_and_goes_when_it_wakes(database):
    clock = Clock()
    directory, found = sleepers(database, clock=clock)
    found._once()
    assert rows(database) == {"asleep:m:v1": "asleep"}
    report(database, ReplicaStatus.ASLEEP, "asleep:m:v1", ago_s=50)
    clock.now = 11
    found._once()
    with database.snapshot() as session:
        assert [row.replica for row in replicas.live(session, "m")] == ["asleep:m:v1"]
        assert session.get(ReplicaRow, ("asleep:m:v1", "v1")).seen_at > utc_now() - timedelta(seconds=5)
    directory.put("m", "v1", "http://a")
    found._once()
    assert rows(database) == {}


def test_a_version_that_was_refused_holds_nobody_for_a_while(database):
    _, found = sleepers(database)
    report(database, ReplicaStatus.REFUSED)
    found._once()
    assert not found.holds(V1)
    report(database, ReplicaStatus.REFUSED, ago_s=REFUSED_S + 1)
    found._once()
    assert found.holds(V1)


@pytest.fixture
def asleep(launch):
    """A gateway before v1, which sleeps."""

    def start(**settings):
        stack = launch(**{"cold_start_wait_s": 20.0, "replica_wait_s": 0.1} | settings)
        stack.directory.put("m", "v1")
        stack.directory.sleepers.add(("m", "v1"))
        stack.policy("v1")
        return stack

    return start


def ask(stack, **options):
    return stack.client().chat.completions.create(model="m", messages=HELLO, **options)


def test_the_first_requests_wait_until_the_version_is_awake(asleep):
    stack = asleep(max_in_flight_per_replica=2, queue_wait_s=0.1)
    answers = []

    def call(stream):
        answer = ask(stack, stream=stream)
        parts = (
            [part.choices[0].delta.content for part in answer]
            if stream
            else [answer.choices[0].message.content]
        )
        answers.append("".join(parts))

    threads = [threading.Thread(target=call, args=(number % 2 == 0,)) for number in range(6)]
    for thread in threads:
        thread.start()
    eventually(lambda: stack.metric("linnet_gateway_queued", version="v1") == 4, "two wait, four behind them")
    eventually(lambda: len(stack.woken) > 5, "it is asked for again and again")
    assert answers == []
    assert set(stack.woken) == {("m", "v1")}
    stack.engine("v1")
    for thread in threads:
        thread.join(20)
    assert answers == ["Hello from v1"] * 6


def test_the_wait_for_a_cold_start_is_bounded_and_another_one_has_its_own(asleep):
    stack = asleep(cold_start_wait_s=0.3)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(stack)
    assert (caught.value.status_code, caught.value.body["code"]) == (503, "no_replica")
    assert stack.woken


def test_a_refusal_ends_the_wait(asleep):
    stack = asleep()
    refusals = []

    def call():
        with pytest.raises(openai.InternalServerError) as caught:
            ask(stack)
        refusals.append(caught.value.body["code"])

    thread = threading.Thread(target=call)
    thread.start()
    eventually(lambda: stack.woken, "the request waits")
    report(stack.database, ReplicaStatus.REFUSED)
    thread.join(15)
    assert refusals == ["no_replica"]


def test_one_whose_replicas_are_gone_for_another_reason_is_not_woken(launch):
    stack = launch(replica_wait_s=0.1, cold_start_wait_s=20.0)
    stack.directory.put("m", "v1")
    stack.policy("v1")
    with pytest.raises(openai.InternalServerError) as caught:
        ask(stack)
    assert caught.value.body["code"] == "no_replica"
    assert stack.woken == []


def test_an_endpoint_whose_stable_version_sleeps_is_ready_and_claims_no_number_of_replicas(asleep):
    stack = asleep()
    assert httpx.get(f"{stack.url}/readyz").status_code == 200
    assert "linnet_gateway_replicas{" not in httpx.get(f"{stack.url}/metrics").text


def test_a_caller_who_hangs_up_is_waited_for_no_longer(asleep):
    stack = asleep()

    async def leave():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await stack.post(messages=HELLO)

    stack.loop.run(leave())
    eventually(lambda: stack.metric("linnet_gateway_in_flight", version="v1") == 0, "nobody waits")

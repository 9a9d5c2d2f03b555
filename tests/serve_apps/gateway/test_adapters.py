"""Adapters in a gateway: whose replicas they have, and what these are told."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cluster.state import replicas
from cluster.state.replicas import LEASE, ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now
from serve_apps.gateway.adapters import AdapterDirectory, build_table
from tests.serve_apps.gateway.servers import TableDirectory

HELLO = [{"role": "user", "content": "Hello?"}]


def row(replica, version, base="v1"):
    return ReplicaRow(replica=replica, model="m", version=version, base=base)


@pytest.fixture
def running():
    directory = TableDirectory()
    directory.put("m", "v1", "a", "b")
    directory.put("m", "v5", "c")
    return directory


@pytest.fixture
def directory(database, running):
    return AdapterDirectory(database, running, ["m"])


def report(database, replica, version, status=ReplicaStatus.SERVING, seen_ago=timedelta()):
    with database.transaction() as session:
        replicas.report(
            session,
            replica=replica,
            model="m",
            version=version,
            base=None if version == "v1" else "v1",
            status=status,
        )
        replicas.of_replica(session, replica, version).seen_at = utc_now() - seen_ago


def away():
    raise OSError("gone")


def ids(directory, version):
    return [replica.id for replica in directory.replicas("m", version)]


def test_an_adapter_has_the_replicas_of_its_base_that_have_proven_it(database, directory):
    report(database, "a", "v1")
    report(database, "a", "v2")
    report(database, "b", "v2", ReplicaStatus.PROVING)
    report(database, "b", "v3", ReplicaStatus.REFUSED)
    report(database, "killed", "v4", seen_ago=LEASE + timedelta(seconds=1))
    directory._once()
    assert directory.versions("m") == ["v1", "v2", "v5"]
    assert (ids(directory, "v1"), ids(directory, "v2"), ids(directory, "v3")) == (["a", "b"], ["a"], [])
    assert [directory.host("m", version) for version in ("v1", "v2", "v5")] == ["v1", "v1", "v5"]
    report(database, "b", "v2")
    directory._once()
    assert ids(directory, "v2") == ["a", "b"]


def test_a_replica_that_serve_has_taken_away_is_out_at_once(database, directory, running):
    report(database, "a", "v2")
    directory._once()
    running.put("m", "v1", "b")
    assert ids(directory, "v2") == []
    assert "v2" in directory.versions("m"), "requests wait for the replica that takes its place"
    with database.transaction() as session:
        replicas.forget_version(session, "a", "v2")
    directory._once()
    assert directory.versions("m") == ["v1", "v5"], "one that is withdrawn is gone at once"


def test_a_replica_that_stops_leaves_its_adapters_listed_for_their_lease(database, directory, running):
    report(database, "a", "v2")
    running.put("m", "v1")
    with database.transaction() as session:
        replicas.forget(session, "a")
    directory._once()
    assert "v2" in directory.versions("m"), "requests wait for the replica that takes its place"
    assert (ids(directory, "v2"), directory.host("m", "v2")) == ([], "v1")
    with database.transaction() as session:
        replicas.of_replica(session, "a", "v2").seen_at -= LEASE
    directory._once()
    assert directory.versions("m") == ["v1", "v5"]


def test_a_database_that_takes_no_writes_takes_nobody_out_of_traffic(database, directory, running):
    for replica in ("a", "b", "killed"):
        report(database, replica, "v2", seen_ago=timedelta(hours=1))
    directory._once()
    assert (ids(directory, "v2"), directory.host("m", "v2")) == (["a", "b"], "v1")
    running.put("m", "v1", "c")
    directory._once()
    assert "v2" not in directory.versions("m"), "without its replicas it is listed for their leases alone"


def test_it_is_ready_once_the_adapters_were_read_beside_what_runs(database, directory, running, monkeypatch):
    running.heard = False
    directory._once()
    running.heard = True
    assert not directory.ready(), "what was read before may lack those whose lease has run out"
    with monkeypatch.context() as patched:
        patched.setattr(database, "snapshot", away)
        directory._refresh()
    assert not directory.ready()
    directory._once()
    assert directory.ready()


def test_a_gateway_that_has_just_started_calls_no_version_unknown(launch):
    stack = launch()
    stack.engine("v1")
    stack.policy()
    stack.directory.heard = False
    pin = {"x-linnet-version": "v2"}
    url, body = f"{stack.url}/v1/chat/completions", {"model": "m", "messages": HELLO}
    answer = httpx.post(url, json=body, headers=pin)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    stack.directory.heard = True
    assert httpx.post(url, json=body, headers=pin).status_code == 404


def test_while_the_database_is_away_what_is_known_stays(database, directory, monkeypatch):
    report(database, "a", "v2")
    directory._once()
    monkeypatch.setattr(database, "snapshot", away)
    directory._refresh()
    assert ids(directory, "v2") == ["a"]


@given(
    st.sets(st.tuples(st.sampled_from("abcd"), st.sampled_from(["v2", "v3"]))),
    st.sets(st.sampled_from("abcd")),
)
def test_only_who_runs_and_says_so_is_asked(rows, alive):
    running = TableDirectory()
    running.put("m", "v1", *sorted(alive))
    directory = AdapterDirectory.__new__(AdapterDirectory)
    directory._running, directory._table = running, build_table([row(*one) for one in sorted(rows)])
    for version in ("v2", "v3"):
        assert set(ids(directory, version)) == {name for name, v in rows if v == version} & alive


def adapter_stack(launch, count=1):
    """Replicas of v1, all of which serve v2 on top of it."""
    stack = launch()
    engines = [stack.engine("v1") for _ in range(count)]
    stack.directory.table["m", "v2"] = stack.directory.table["m", "v1"]
    stack.directory.hosts["m", "v2"] = "v1"
    stack.policy("v1", "v2", 50)
    return stack, engines


def ask(stack, **options):
    options = {"model": "m", "messages": HELLO} | options
    return stack.client().chat.completions.with_raw_response.create(**options)


def test_a_replica_is_told_which_version_is_to_answer(launch):
    stack, [engine] = adapter_stack(launch)
    for options in (
        {"model": "m:v2"},
        {"extra_headers": {"x-linnet-version": "v2"}},
        {"model": "m:v1"},
        {"extra_headers": {"x-linnet-version": "v1"}, "stream": True},
    ):
        ask(stack, **options)
    told = [headers["x-linnet-version"] for headers, _ in engine.requests]
    assert told == ["v2", "v2", "v1", "v1"]
    answered = {
        key: ask(stack, extra_headers={"x-linnet-key": key}).headers["x-linnet-version"] for key in "abcdefgh"
    }
    assert set(answered.values()) == {"v1", "v2"}
    assert [headers["x-linnet-version"] for headers, _ in engine.requests[4:]] == list(answered.values())
    for version in ("v1", "v2"):
        counted = stack.metric("linnet_gateway_requests_total", model="m", version=version)
        assert counted == sum(v == version for v in (*told, *answered.values()))
    assert {logged["version"] for logged in stack.rows(12)} == {"v1", "v2"}


def test_a_replica_that_has_let_go_of_an_adapter_costs_nobody_an_answer(launch):
    stack, engines = adapter_stack(launch, count=2)

    async def let_go_of_v2(request, body):
        if request.headers["x-linnet-version"] == "v2":
            return web.Response(status=503)
        return await engines[0]._answer(request, body)

    engines[0].behaviour = let_go_of_v2
    answers = [ask(stack, model=f"m:{version}") for version in ("v2", "v1") * 10]
    assert [answer.status_code for answer in answers] == [200] * 20
    assert any(headers["x-linnet-version"] == "v1" for headers, _ in engines[0].requests)

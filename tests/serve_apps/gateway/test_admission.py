from __future__ import annotations

import asyncio
import json

import openai
import pytest

from serve_apps.gateway.admission import Admission, Slot
from serve_apps.gateway.config import GatewayConfig
from serve_apps.gateway.metrics import GatewayMetrics
from serve_apps.gateway.selection import Choice
from tests.serve_apps.gateway.servers import TableDirectory, eventually

V1, V2 = Choice("m", "v1"), Choice("m", "v2")


class World:
    """An admission whose callers are tasks."""

    def __init__(self, *, v1=1, v2=1, standbys=frozenset(), **settings):
        self.directory = TableDirectory()
        self.replicas("v1", v1)
        self.replicas("v2", v2)
        self.metrics = GatewayMetrics()
        limits = {"max_in_flight_per_replica": 1, "queue_wait_s": 20.0}
        self.admission = Admission(
            GatewayConfig(model="m", **limits | settings),
            self.directory,
            self.metrics,
            standbys=lambda _model, _version: standbys,
        )
        self.entered: list[str] = []

    def replicas(self, version, count):
        self.directory.put("m", version, *(f"http://{version}-{number}" for number in range(count)))

    async def ask(self, name, choice=V1, lane=""):
        """A task that waits to be let in; it has run as far as it gets."""
        task = asyncio.create_task(self._enter(name, choice, lane))
        await settled()
        return task

    async def _enter(self, name, choice, lane):
        slot = await self.admission.enter(choice, lane)
        if isinstance(slot, Slot):
            self.entered.append(name)
        return slot

    def waiting(self):
        return sum(sample.value for sample in self.metrics._queued.collect()[0].samples)


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


def scenario(run):
    """Make a test of a coroutine function."""

    def test():
        asyncio.run(run())

    test.__name__ = run.__name__
    return test


@scenario
async def test_a_slot_that_is_free_is_given_at_once():
    world = World()
    slot = await world.admission.enter(V1, "")
    assert isinstance(slot, Slot)
    slot.leave()
    assert world.waiting() == 0


@scenario
async def test_there_is_room_to_spare_while_nobody_waits():
    world = World(max_in_flight_per_replica=2)
    await world.ask("first")
    assert world.admission.has_spare(V1)
    tasks = [await world.ask(name) for name in ("second", "third")]
    assert not world.admission.has_spare(V1)
    assert world.admission.has_spare(V2)
    tasks[0].result().leave()
    assert not world.admission.has_spare(V1)


@scenario
async def test_replicas_that_stand_by_make_no_room():
    world = World(v1=2, max_in_flight_per_replica=1, standbys=frozenset({"http://v1-1"}))
    tasks = [await world.ask(str(number)) for number in range(2)]
    assert world.entered == ["0"]
    tasks[0].result().leave()
    (await tasks[1]).leave()


@scenario
async def test_the_bound_is_that_of_all_running_replicas():
    world = World(v1=3, max_in_flight_per_replica=2)
    tasks = [await world.ask(str(number)) for number in range(7)]
    assert world.entered == list("012345")
    assert world.waiting() == 1
    tasks[0].result().leave()
    await settled()
    assert world.entered[-1] == "6"
    assert world.waiting() == 0


@scenario
async def test_lanes_take_turns_and_a_slot_left_twice_frees_one():
    world = World()
    first = await world.ask("first", lane="greedy")
    for number in range(3):
        await world.ask(f"greedy-{number}", lane="greedy")
    await world.ask("modest", lane="modest")
    first.result().leave()
    first.result().leave()
    await settled()
    assert world.entered == ["first", "greedy-0"]
    world.admission.free(V1, V1)
    await settled()
    assert world.entered[-1] == "modest"


@scenario
async def test_a_version_that_is_busy_does_not_hold_up_another():
    world = World()
    await world.ask("v1")
    await world.ask("v1 waits")
    await world.ask("v2", V2)
    assert world.entered == ["v1", "v2"]


@scenario
async def test_a_base_and_its_adapters_share_the_bound_of_its_replicas():
    world = World(v1=2, v2=1, max_in_flight_per_replica=2)
    world.directory.hosts["m", "v2"] = "v1"
    adapter = [await world.ask(f"v2-{number}", V2) for number in range(3)]
    assert world.entered == ["v2-0", "v2-1"], "one replica has the adapter"
    base = [await world.ask(f"v1-{number}", V1) for number in range(3)]
    assert world.entered == ["v2-0", "v2-1", "v1-0", "v1-1"]
    adapter[0].result().leave()
    await settled()
    assert world.entered[4:] == ["v2-2"], "the version that has waited longest is next"
    world.directory.hosts.clear()
    for task in (*adapter[1:], *base[:2]):
        task.result().leave()
    await settled()
    assert world.entered[5:] == ["v1-2"]
    base[2].result().leave()
    assert not world.admission._by_host, "a slot is left where it was taken, whatever the version is now"


@scenario
async def test_the_gateways_own_bound_is_shared_in_turn():
    world = World(max_in_flight=1, max_in_flight_per_replica=5)
    holder = await world.ask("holder")
    waiting = [await world.ask(f"v1-{number}", V1) for number in range(3)]
    waiting.append(await world.ask("v2-0", V2))
    holder.result().leave()
    for _ in range(3):
        await settled()
        done = [task for task in waiting if task.done()]
        done[-1].result().leave()
        waiting = [task for task in waiting if not task.done()]
    await settled()
    assert world.entered[:3] == ["holder", "v1-0", "v2-0"]
    assert sorted(world.entered) == ["holder", "v1-0", "v1-1", "v1-2", "v2-0"]


@scenario
async def test_a_replica_that_starts_makes_room_without_anyone_leaving():
    world = World()
    await world.ask("first")
    second = await world.ask("second")
    world.replicas("v1", 2)
    assert isinstance(await asyncio.wait_for(second, 20), Slot)


@scenario
async def test_without_a_replica_requests_go_on_to_wait_for_one():
    world = World(v1=0)
    assert isinstance(await world.admission.enter(V1, ""), Slot)


@scenario
async def test_a_full_line_turns_away_at_once_and_the_longest_lane_first():
    world = World(max_queue=2)
    holder = await world.ask("holder")
    kept = await world.ask("kept", lane="greedy")
    evicted = await world.ask("evicted", lane="greedy")
    refused = await world.ask("refused", lane="greedy")
    modest = await world.ask("modest", lane="modest")
    for task in (refused, evicted):
        assert (task.result().status, task.result().code) == (429, "overloaded")
        assert task.result().retry_after_s == 1
    holder.result().leave()
    (await kept).leave()
    assert isinstance(await modest, Slot)


@scenario
async def test_who_waits_too_long_is_turned_away():
    world = World(queue_wait_s=0.01)
    holder = await world.ask("holder")
    late = await world.ask("late")
    assert (await asyncio.wait_for(late, 20)).code == "overloaded"
    assert world.waiting() == 0
    holder.result().leave()
    assert isinstance(await world.admission.enter(V1, ""), Slot)


@scenario
async def test_who_leaves_while_waiting_leaves_the_line():
    world = World()
    holder = await world.ask("holder")
    gone = await world.ask("gone")
    stays = await world.ask("stays")
    gone.cancel()
    await settled()
    assert world.waiting() == 1
    holder.result().leave()
    assert isinstance(await stays, Slot)
    assert world.entered == ["holder", "stays"]


@scenario
async def test_who_leaves_while_waiting_makes_room_in_the_line():
    world = World(max_queue=1)
    await world.ask("holder")
    for _ in range(3):
        gone = await world.ask("gone")
        assert not gone.done()
        gone.cancel()
        await settled()


@scenario
async def test_who_leaves_in_the_moment_of_being_let_in_frees_the_slot():
    world = World()
    holder = await world.ask("holder")
    gone = await world.ask("gone")
    stays = await world.ask("stays")
    holder.result().leave()
    gone.cancel()
    await settled()
    assert gone.cancelled()
    assert world.entered == ["holder", "stays"]
    stays.result().leave()
    assert isinstance(await world.admission.enter(V1, ""), Slot)


@scenario
async def test_who_left_a_moment_before_gets_no_slot():
    world = World()
    holder = await world.ask("holder")
    gone = await world.ask("gone")
    stays = await world.ask("stays")
    gone.cancel()
    holder.result().leave()
    await settled()
    assert gone.cancelled()
    assert world.entered == ["holder", "stays"]
    assert isinstance(stays.result(), Slot)


def full(launch, **settings):
    """A gateway whose one replica takes one request and holds it."""
    stack = launch(max_in_flight_per_replica=1, **settings)
    engine, release = stack.held_engine("v1")
    stack.policy()
    held = stack.loop.submit(stack.post())
    eventually(lambda: engine.requests, "one request is under way")
    return stack, engine, release, held


def queued(stack):
    return stack.metric("linnet_gateway_queued", version="v1")


def test_beyond_the_line_there_is_an_early_429(launch):
    stack, engine, release, held = full(launch, max_queue=0)
    with pytest.raises(openai.RateLimitError) as caught:
        stack.client().chat.completions.create(model="m", messages=[])
    assert (caught.value.code, caught.value.type) == ("overloaded", "rate_limit_error")
    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.response.headers["x-linnet-version"] == "v1"
    assert stack.metric("linnet_gateway_refused_total", reason="overloaded") == 1
    stack.loop.loop.call_soon_threadsafe(release.set)
    assert held.result(20) == 200
    assert len(engine.requests) == 1
    eventually(lambda: stack.loop.run(stack.post()) == 200, "the slot is free again")


def test_who_hangs_up_while_waiting_leaves_the_queue(launch):
    stack, engine, release, held = full(launch)
    impatient = stack.loop.submit(stack.post(user="impatient"))
    eventually(lambda: queued(stack) == 1, "a second request waits")
    impatient.cancel()
    eventually(lambda: queued(stack) == 0, "it has left")
    eventually(
        lambda: stack.metric("linnet_gateway_requests_total", status="499") == 1, "it is counted as hung up"
    )
    stack.loop.loop.call_soon_threadsafe(release.set)
    assert held.result(20) == 200
    assert stack.loop.run(stack.post()) == 200
    assert len(engine.requests) == 2
    assert stack.metric("linnet_gateway_in_flight", version="v1") == 0


def test_who_hangs_up_while_being_answered_frees_the_slot_once(launch):
    stack, engine, release, held = full(launch)
    held.cancel()
    assert engine.gone.wait(20)
    stack.loop.loop.call_soon_threadsafe(release.set)
    assert stack.loop.run(stack.post()) == 200
    assert stack.loop.run(stack.post()) == 200


def test_one_request_of_a_modest_key_is_answered_among_many_of_a_greedy_one(launch):
    stack = launch(max_in_flight_per_replica=1, auth="required", admin_paths="public", queue_wait_s=20)
    engine, release = stack.held_engine("v1")
    stack.policy()
    greedy, modest = stack.key("greedy"), stack.key("modest")
    asked = [stack.loop.submit(stack.post(greedy, user="greedy")) for _ in range(20)]
    eventually(lambda: queued(stack) == 19, "the greedy key's requests wait")
    asked.append(stack.loop.submit(stack.post(modest, user="modest")))
    eventually(lambda: queued(stack) == 20, "the modest key's request waits")
    stack.loop.loop.call_soon_threadsafe(release.set)
    assert {future.result(20) for future in asked} == {200}
    served = [json.loads(body)["user"] for _, body in engine.requests]
    assert served.index("modest") <= 2


def test_without_keys_the_names_that_callers_give_take_turns(launch):
    stack, engine, release, held = full(launch, queue_wait_s=20)
    asked = [stack.loop.submit(stack.post(user="greedy")) for _ in range(10)]
    eventually(lambda: queued(stack) == 10, "one caller's requests wait")
    asked.append(stack.loop.submit(stack.post(user="modest")))
    eventually(lambda: queued(stack) == 11, "another's waits too")
    stack.loop.loop.call_soon_threadsafe(release.set)
    assert {future.result(20) for future in [held, *asked]} == {200}
    served = [json.loads(body).get("user") for _, body in engine.requests]
    assert served.index("modest") <= 2

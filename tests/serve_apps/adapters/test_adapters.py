from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import GateFailedError, StorageError
from cluster.refs import VersionRef
from cluster.state.replicas import ReplicaStatus
from serve_apps.adapters import adapters as module
from serve_apps.adapters.adapters import Adapters

V2, V3, V4, BAD, WRONG = (
    VersionRef(model="m", version=label) for label in ("v2", "v3", "v4", "bad", "wrong")
)

BASE = {"v1": ReplicaStatus.SERVING}
HELD = {"memory_bytes": 5}


class FakeEngine:
    """Loads what it is told; a handle is the name with how often that was loaded."""

    def __init__(self):
        self.loaded: set[str] = set()
        self.loads: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, ref, directory):
        await self.gate.wait()
        if ref == BAD:
            raise GateFailedError("its rank is too high")
        assert ref.version not in {name.partition("#")[0] for name in self.loaded}, "loaded twice at once"
        self.loads[ref.version] += 1
        handle = f"{ref.version}#{self.loads[ref.version]}"
        self.loaded.add(handle)
        return handle

    async def unload(self, handle):
        await asyncio.sleep(0)
        assert not self.busy[handle], "it was taken from its requests"
        self.loaded.remove(handle)

    def in_flight(self, handle):
        return self.busy[handle]


class FakeRows:
    """The rows as the database would hold them, and all that was ever written."""

    def __init__(self):
        self.rows: dict[str, tuple[ReplicaStatus, dict]] = {}
        self.history: list[tuple[str, str]] = []
        self.fails = False
        self.renewals = 0

    async def report(self, version, status, detail=None):
        await asyncio.sleep(0)
        if self.fails:
            raise StorageError("the database is away", retryable=True)
        before = self.rows.get(version, (None, {}))[1]
        self.rows[version] = (status, before if detail is None else detail)
        self.history.append((version, status.value))

    async def renew(self, statuses, detail):
        await asyncio.sleep(0)
        self.renewals += 1
        for version, status in statuses.items():
            await self.report(version, status)
            self.rows[version][1].update(detail)

    async def forget(self, version):
        await asyncio.sleep(0)
        self.rows.pop(version, None)
        self.history.append((version, "forgotten"))

    def statuses(self):
        return {version: status.value for version, (status, _) in self.rows.items()}


class World:
    def __init__(self, **settings):
        self.engine, self.rows = FakeEngine(), FakeRows()
        self.away: set[VersionRef] = set()
        self.adapters = Adapters(
            self.engine, self.fetch, self.prove, self.rows, **{"linger_s": 0.0} | settings
        )

    def fetch(self, ref):
        if ref in self.away:
            raise StorageError("the bucket does not answer", retryable=True)
        return SimpleNamespace(ref=str(ref), version=ref.version), Path(ref.version)

    async def prove(self, manifest, handle):
        assert manifest.version == handle.partition("#")[0]
        if manifest.version == "wrong":
            raise GateFailedError("it answers otherwise")
        return 4

    async def serve(self, *refs):
        self.adapters.want(refs)
        await self.adapters.settled()

    async def quiet(self):
        """Until nothing is leaving any more."""
        async with asyncio.timeout(20):
            while leaving := [o.leaving for o in self.adapters._offers.values() if o.leaving is not None]:
                await asyncio.wait(leaving)


def scenario(run):
    def test():
        asyncio.run(run())

    test.__name__ = run.__name__
    return test


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.01)


@scenario
async def test_each_is_loaded_then_proven_then_told_as_serving():
    world = World()
    await world.serve(V2, V3)
    steps = ["loading", "proving", "serving"]
    assert world.rows.history == [(label, step) for label in ("v2", "v3") for step in steps]
    assert world.rows.rows["v2"][1]["proven"] == 4
    assert world.adapters.find("v2") == "v2#1"
    assert world.adapters.find("v4") is None


@scenario
async def test_what_is_wrong_with_one_concerns_no_other():
    world = World()
    await world.serve(BAD, V2, WRONG, V3)
    assert world.rows.statuses() == {"bad": "refused", "v2": "serving", "wrong": "refused", "v3": "serving"}
    assert world.rows.rows["bad"][1] == {"reason": "its rank is too high"}
    assert world.rows.rows["wrong"][1] == {"reason": "it answers otherwise"}
    assert world.engine.loaded == {"v2#1", "v3#1"}, "one that was refused holds no memory"
    assert world.adapters.find("wrong") is None
    await world.serve(V2)
    assert world.rows.statuses() == {"v2": "serving"}, "a refusal goes with what was refused"


@scenario
async def test_one_that_goes_is_told_first_and_keeps_its_requests_to_their_end():
    world = World()
    await world.serve(V2, V3)
    world.engine.busy["v2#1"] = 1
    await world.serve(V3)
    assert world.rows.statuses() == {"v3": "serving"}
    await asyncio.sleep(0.05)
    assert "v2#1" in world.engine.loaded
    assert world.adapters.find("v2") == "v2#1", "a gateway that has not heard yet is still answered"
    world.engine.busy["v2#1"] = 0
    await world.quiet()
    assert world.engine.loaded == {"v3#1"}
    assert world.adapters.find("v2") is None


@scenario
async def test_a_request_that_the_engine_does_not_know_yet_keeps_it_too():
    world = World()
    await world.serve(V2)
    world.adapters.answering["v2"] += 1
    await world.serve()
    await asyncio.sleep(0.05)
    assert world.engine.loaded == {"v2#1"}
    world.adapters.answering["v2"] -= 1
    await world.quiet()
    assert world.engine.loaded == set()


@scenario
async def test_requests_keep_it_for_so_long_and_no_longer():
    world = World(drain_s=0.05)
    await world.serve(V2)
    world.engine.busy["v2#1"] = 1
    await world.serve()
    world.engine.unload = lambda handle: asyncio.sleep(0)
    await world.quiet()
    assert world.adapters.find("v2") is None


@scenario
async def test_one_that_comes_back_before_it_has_gone_is_not_loaded_again():
    world = World()
    await world.serve(V2)
    world.engine.busy["v2#1"] = 1
    await world.serve()
    await world.serve(V2)
    world.engine.busy["v2#1"] = 0
    await world.quiet()
    assert (world.rows.statuses(), world.engine.loads) == ({"v2": "serving"}, {"v2": 1})
    assert world.rows.rows["v2"][1]["proven"] == 4
    assert world.engine.loaded == {"v2#1"}


@scenario
async def test_a_change_while_one_loads_is_followed_afterwards():
    world = World()
    world.engine.gate.clear()
    world.adapters.want([V2, V3])
    await asyncio.sleep(0.02)
    world.adapters.want([V3, V4])
    world.engine.gate.set()
    await world.adapters.settled()
    await world.quiet()
    assert world.rows.statuses() == {"v3": "serving", "v4": "serving"}
    assert world.engine.loaded == {"v3#1", "v4#1"}


@scenario
async def test_what_is_wanted_no_longer_while_another_goes_goes_too():
    world = World()
    await world.serve(V2, V3)
    world.adapters.want([V2])
    await asyncio.sleep(0)
    world.adapters.want([])
    await world.adapters.settled()
    await world.quiet()
    assert (world.rows.statuses(), world.engine.loaded) == ({}, set())


@scenario
async def test_storage_that_was_away_is_tried_again_and_a_wrong_answer_is_not():
    world = World()
    world.away = {V3}
    await world.serve(V2, V3, WRONG)
    assert world.rows.statuses() == {"v2": "serving", "v3": "refused", "wrong": "refused"}
    world.away = set()
    proofs = len(world.rows.history)
    world.adapters.retry()
    await world.adapters.settled()
    assert world.rows.statuses() == {"v2": "serving", "v3": "serving", "wrong": "refused"}
    assert [label for label, _ in world.rows.history[proofs:]] == ["v3"] * 3


@scenario
async def test_a_renewal_neither_wakes_a_refusal_nor_brings_back_what_is_gone():
    world = World()
    await world.serve(V2, V3, WRONG)
    before = len(world.rows.history)
    world.adapters.want([V2, WRONG])
    await asyncio.gather(*(world.adapters.renew(BASE, HELD) for _ in range(5)), world.adapters.settled())
    assert "v3" not in world.rows.statuses()
    assert [label for label, step in world.rows.history[before:] if step == "serving"].count("v2") >= 5
    assert world.rows.rows["v2"][1]["proven"] == 4


@scenario
async def test_a_database_that_is_away_stops_nothing():
    world = World()
    world.rows.fails = True
    await world.serve(V2)
    assert world.adapters.find("v2") == "v2#1"
    world.rows.fails = False
    await world.adapters.renew(BASE, HELD)
    assert world.rows.statuses() == {"v1": "serving", "v2": "serving"}


@scenario
async def test_all_rows_of_a_replica_are_renewed_at_once():
    world = World()
    await world.serve(V2, V3, V4)
    before = len(world.rows.history)
    await world.adapters.renew(BASE, HELD)
    assert world.rows.renewals == 1
    assert all(detail["memory_bytes"] == 5 for _, detail in world.rows.rows.values())
    assert {label for label, _ in world.rows.history[before:]} == {"v1", "v2", "v3", "v4"}


REFS = st.lists(st.sampled_from([V2, V3, V4, BAD, WRONG]), unique=True)
STEPS = st.lists(st.tuples(REFS, st.integers(0, 12), st.sampled_from(["", "v2", "v3"])), max_size=6)


@given(STEPS)
def test_whatever_was_wanted_in_between_the_last_wish_holds(steps):
    """Wishes come at any moment; requests begin on what is offered and end later."""

    async def run():
        world = World()
        wanted = ()
        for wanted, turns, asked in steps:
            world.adapters.want(wanted)
            for _ in range(turns):
                await asyncio.sleep(0)
            if handle := world.adapters.find(asked):
                world.engine.busy[handle] += 1
        await world.adapters.settled()
        world.engine.busy.clear()
        await world.quiet()
        good = {ref.version for ref in wanted} - {"bad", "wrong"}
        assert {v for v, status in world.rows.statuses().items() if status == "serving"} == good
        assert {v for v, status in world.rows.statuses().items() if status == "refused"} == (
            {ref.version for ref in wanted} & {"bad", "wrong"}
        )
        assert {handle.partition("#")[0] for handle in world.engine.loaded} == good
        assert all(world.adapters.find(version) in world.engine.loaded for version in good)

    asyncio.run(run())

from __future__ import annotations

import asyncio

from sqlalchemy import text

from cluster.state import aliases, policies
from cluster.state.tables import utc_now
from cluster.traffic import TrafficPolicy
from serve_apps.gateway.policies import PolicyCache
from tests.serve_apps.gateway.servers import eventually

OLD = TrafficPolicy(model="m", revision=1, stable="v1")
NEW = TrafficPolicy(model="m", revision=2, stable="v1", candidate="v2", weight=10)


async def until(holds) -> None:
    await asyncio.to_thread(eventually, holds, "the cache follows")


def put(database, policy) -> None:
    with database.transaction() as session:
        policies.put(session, policy)


def test_it_follows_the_database_and_keeps_the_last_policy_over_an_error(database, caplog):
    async def scenario():
        cache = PolicyCache(database, ["m", "other"], interval_s=0.01)
        await cache.start()
        await cache.start()
        assert cache.get("m") is None
        put(database, OLD)
        await until(lambda: cache.get("m") == OLD)
        with database.transaction() as session:
            session.execute(text("ALTER TABLE policies RENAME TO hidden"))
        await until(lambda: "stale" in caplog.text)
        assert cache.get("m") == OLD
        with database.transaction() as session:
            session.execute(text("ALTER TABLE hidden RENAME TO policies"))
        put(database, NEW)
        await until(lambda: cache.get("m") == NEW)
        assert cache.get("other") is None
        await cache.stop()
        await cache.stop()
        assert cache.get("m") == NEW

    asyncio.run(scenario())


def test_a_row_that_makes_no_policy_changes_nothing(database, caplog):
    async def scenario():
        cache = PolicyCache(database, ["m"], interval_s=0.01)
        put(database, OLD)
        await cache.start()
        await until(lambda: cache.get("m") == OLD)
        with database.transaction() as session:
            session.execute(text("UPDATE policies SET weight = 400"))
        await until(lambda: "stale" in caplog.text)
        assert cache.get("m") == OLD
        await cache.stop()

    asyncio.run(scenario())


def test_before_any_rollout_everything_goes_to_the_stable_alias(database):
    async def scenario():
        with database.transaction() as session:
            aliases.move(session, "m", "stable", "v7", expected=None, reason="test")
        cache = PolicyCache(database, ["m"], interval_s=0.01)
        await cache.start()
        await until(lambda: cache.get("m") is not None)
        assert cache.get("m").stable == "v7"
        await cache.stop()

    asyncio.run(scenario())


def test_it_tells_since_when_a_policy_holds(database):
    async def scenario():
        cache = PolicyCache(database, ["m"], interval_s=0.01)
        put(database, OLD)
        before = utc_now()
        await cache.start()
        await until(lambda: cache.get("m") == OLD)
        first = cache.applied("m")
        assert before <= first.at <= utc_now()
        put(database, NEW)
        await until(lambda: cache.get("m") == NEW)
        second = cache.applied("m")
        assert (first.policy, second.policy) == (OLD, NEW)
        assert second.at > first.at
        cache._refresh()
        assert cache.applied("m") is second
        assert cache.applied("other") is None
        await cache.stop()

    asyncio.run(scenario())

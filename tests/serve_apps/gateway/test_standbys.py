from __future__ import annotations

import asyncio
from datetime import timedelta

from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now
from serve_apps.gateway.standbys import StandbyCache, nobody
from tests.serve_apps.gateway.servers import TableDirectory, eventually


def serve(database, replica, ago_s, standby=1, version="v1"):
    with database.transaction() as session:
        replicas.report(
            session,
            replica=replica,
            model="m",
            version=version,
            status=ReplicaStatus.SERVING,
            detail={"proven": 3, "standby": standby, "load_s": 2.0, "prove_s": 0.5},
        )
        session.get(ReplicaRow, (replica, version)).started_at = utc_now() - timedelta(seconds=ago_s)


def test_two_gateways_find_the_same_standbys_in_the_database(database):
    directory = TableDirectory()
    directory.put("m", "v1", "b", "a")
    directory.put("m", "v2", "c", "d")
    directory.plans |= {("m", "v1"): 2, ("m", "v2"): 2}
    serve(database, "a", ago_s=60)
    serve(database, "b", ago_s=90)
    serve(database, "c", ago_s=90, standby=0, version="v2")

    async def scenario():
        caches = [StandbyCache(database, directory, ["m"], interval_s=0.01) for _ in range(2)]
        for cache in caches:
            assert cache.of("m", "v1") == set()
            await cache.start()
        for cache in caches:
            await asyncio.to_thread(eventually, lambda c=cache: c.of("m", "v1") == {"a"}, "one stands by")
            assert cache.of("m", "v2") == set()
        directory.put("m", "v1", "a", "new")
        assert caches[0].of("m", "v1") == {"new"}
        directory.put("m", "v1", "a")
        assert caches[0].of("m", "v1") == set()
        for cache in caches:
            await cache.stop()

    asyncio.run(scenario())


def test_an_adapter_has_the_standbys_of_its_base(database):
    directory = TableDirectory()
    directory.put("m", "v1", "a", "b")
    directory.put("m", "v2", "a", "b")
    directory.hosts["m", "v2"] = "v1"
    directory.plans["m", "v1"] = 2
    serve(database, "a", ago_s=60)
    serve(database, "b", ago_s=30)
    cache = StandbyCache(database, directory, ["m"])
    cache._once()
    assert cache.of("m", "v2") == cache.of("m", "v1") == {"b"}


def test_without_a_cache_nobody_stands_by():
    assert nobody("m", "v1") == set()

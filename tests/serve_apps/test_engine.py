"""What a replica does with its `user_config`; Serve stops one whose hook raises."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace

import pytest

from cluster.errors import StorageError
from cluster.refs import VersionRef
from serve_apps import engine_deployment
from serve_apps.version_args import VersionArgs

V2 = VersionRef(model="m", version="v2")


class FakeAdapters:
    def __init__(self):
        self.wanted = None
        self.waits = 0

    def want(self, refs):
        self.wanted = refs

    async def settled(self):
        self.waits += 1


@pytest.fixture
def server():
    from serve_apps.engine import VersionServer

    made = SimpleNamespace(
        _args=VersionArgs(version="m:v1"),
        _configured=False,
        _proof={"proven": 4},
        _adapters=FakeAdapters(),
        told=[],
    )

    async def report(version, status, detail=None):
        made.told.append(detail)

    made._rows = SimpleNamespace(report=report, replica="r")
    for name in ("reconfigure", "_tell", "_report"):
        setattr(made, name, partial(getattr(VersionServer, name), made))
    return made


@pytest.mark.engine
def test_a_replica_waits_for_its_adapters_at_its_start_alone(server):
    asyncio.run(server.reconfigure({}))
    assert (server._adapters.wanted, server._adapters.waits) == ((), 1)
    asyncio.run(server.reconfigure({"adapters": ["m:v2"]}))
    assert (server._adapters.wanted, server._adapters.waits) == ((V2,), 1)


@pytest.mark.engine
def test_a_bad_user_config_changes_nothing_and_is_told_until_a_good_one_comes(server):
    asyncio.run(server.reconfigure({"adapters": ["m:v2"]}))
    asyncio.run(server.reconfigure({"adaptors": []}))
    assert server._adapters.wanted == (V2,)
    assert "adaptors" in server.told[-1]["user_config"]
    asyncio.run(server.reconfigure({}))
    assert server._adapters.wanted == ()
    assert server.told[-1] == {"proven": 4}


@pytest.mark.engine
def test_a_database_that_is_away_does_not_stop_it(server):
    async def away(*_):
        raise StorageError("away")

    server._rows.report = away
    asyncio.run(server.reconfigure({"adapters": ["m:v2"]}))
    asyncio.run(server.reconfigure({"adaptors": []}))
    assert server._adapters.wanted == (V2,)


def test_a_user_config_that_is_taken_out_again_is_an_empty_one(monkeypatch):
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(runtime_env={}))
    application = engine_deployment.build(VersionArgs(version="m:v1"))
    assert application._bound_deployment._deployment_config.user_config == {}

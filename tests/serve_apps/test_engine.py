"""What a replica does with its `user_config`; Serve stops one whose hook raises."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import SQLAlchemyError

from cluster.errors import StorageError
from cluster.refs import VersionRef
from serve_apps import engine_deployment
from serve_apps.version_args import VersionArgs

V2 = VersionRef(model="m", version="v2")


class FakeAdapters:
    def __init__(self):
        self.wanted = None
        self.waits = 0
        self.fails: Exception | None = None

    def want(self, refs):
        self.wanted = refs

    async def settled(self):
        self.waits += 1
        if self.fails:
            raise self.fails

    def retry(self):
        pass


@pytest.fixture
def server():
    from serve_apps.engine import VersionServer

    made = SimpleNamespace(
        _args=VersionArgs(version="m:v1", lease_s=0.01),
        _configured=False,
        _proof={"proven": 4},
        _adapters=FakeAdapters(),
        told=[],
    )

    async def report(version, status, detail=None):
        made.told.append(detail)

    made._rows = SimpleNamespace(report=report, replica="r")
    made._load = SimpleNamespace(kept=False)
    made._keep = lambda: setattr(made._load, "kept", True)
    for name in (
        "reconfigure",
        "_reconfigure",
        "_renew",
        "_keep_warm_worker",
        "_tell",
        "_wait_for_adapters",
        "_report",
    ):
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
@pytest.mark.parametrize("error", [StorageError("away"), SQLAlchemyError("read only")])
def test_a_database_that_is_away_does_not_stop_it(server, error):
    async def away(*_):
        raise error

    server._rows.report = away
    asyncio.run(server._tell({}))
    asyncio.run(server.reconfigure({"adapters": ["m:v2"]}))
    asyncio.run(server.reconfigure({"adaptors": []}))
    assert server._adapters.wanted == (V2,)


@pytest.mark.engine
def test_an_adapter_that_never_comes_does_not_keep_the_base_from_serving(server, monkeypatch):
    monkeypatch.setattr("serve_apps.engine.ADAPTERS_WAIT_S", 0.01)
    server._adapters.settled = asyncio.Event().wait

    async def run():
        async with asyncio.timeout(20):
            await server.reconfigure({"adapters": ["m:v2"]})

    asyncio.run(run())
    assert server.told == [{"proven": 4}]


@pytest.mark.engine
def test_whatever_goes_wrong_reconfigure_does_not_raise(server):
    server._adapters.fails = RuntimeError("a defect")
    asyncio.run(server.reconfigure({"adapters": ["m:v2"]}))
    assert server._adapters.waits == 1


@pytest.mark.engine
def test_the_rows_are_renewed_whatever_went_wrong_and_before_the_warm_worker(server, monkeypatch):
    steps = []

    async def renew(base, held):
        assert base == {"v1": "serving"}
        assert held["memory_bytes"] > 0
        steps.append("rows")
        if steps.count("rows") == 2:
            raise RuntimeError("a defect")
        if steps.count("rows") == 4:
            raise asyncio.CancelledError

    def keep_one():
        steps.append("warm worker")
        raise ValueError("another")

    server._adapters.renew = renew
    monkeypatch.setattr("serve_apps.warm_worker.keep_one", keep_one)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(server._renew())
    assert steps == ["rows", "warm worker", "rows", "rows", "warm worker", "rows"]
    assert server._load.kept


def test_a_user_config_that_is_taken_out_again_is_an_empty_one(monkeypatch):
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(runtime_env={}))
    application = engine_deployment.build(VersionArgs(version="m:v1"))
    assert application._bound_deployment._deployment_config.user_config == {}

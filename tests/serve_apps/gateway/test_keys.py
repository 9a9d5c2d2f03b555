from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from cluster.keys import Grant, Limits, new_secret
from cluster.state import keys
from cluster.state.tables import utc_now
from serve_apps.gateway.keys import KeyCache
from serve_apps.gateway.limits import Ticket
from tests.serve_apps.gateway.servers import eventually

NOW = 1_800_000_000.0


def add(database, name="ada", **granted) -> bytes:
    secret = new_secret()
    with database.transaction() as session:
        keys.add(session, Grant(name=name, **granted), secret)
    return secret.encode()


def revoke(database, name="ada") -> None:
    with database.transaction() as session:
        keys.revoke(session, keys.find(session, name).id, reason="test")


async def until(holds) -> None:
    await asyncio.to_thread(eventually, holds, "the cache follows")


@pytest.fixture
def following(database):
    """Run a scenario with a cache that follows the database."""

    def run(scenario):
        async def with_cache():
            cache = KeyCache(database, interval_s=0.01)
            assert not cache.ready()
            await cache.start()
            await until(cache.ready)
            await scenario(cache)
            await cache.stop()

        asyncio.run(with_cache())

    return run


def test_a_new_key_is_known_and_a_revoked_one_forgotten(following, database):
    async def scenario(cache):
        secret = add(database, models=("m",), admin=True)
        await until(lambda: cache.get(secret, NOW))
        key = cache.get(secret, NOW)
        assert (key.models, key.admin, key.expires) == (("m",), True, None)
        assert cache.get(secret + b"x", NOW) is None
        assert cache.get(b"", NOW) is None
        assert cache.get(b"\xff" * 100, NOW) is None
        revoke(database)
        await until(lambda: cache.get(secret, NOW) is None)

    following(scenario)


def test_a_key_ends_at_its_time(following, database):
    ends = utc_now() + timedelta(days=30)

    async def scenario(cache):
        secret = add(database, expires_at=ends)
        await until(lambda: cache.get(secret, 0.0))
        expires = cache.get(secret, 0.0).expires
        assert cache.get(secret, expires - 0.001) is not None
        assert cache.get(secret, expires) is None

    following(scenario)


def test_while_the_database_does_not_answer_the_last_known_keys_hold(following, database, caplog):
    async def scenario(cache):
        secret = add(database)
        await until(lambda: cache.get(secret, NOW))
        with database.transaction() as session:
            session.execute(text("ALTER TABLE api_keys RENAME TO hidden"))
        await until(lambda: "API keys are stale" in caplog.text)
        assert cache.get(secret, NOW) is not None
        with database.transaction() as session:
            session.execute(text("ALTER TABLE hidden RENAME TO api_keys"))
        revoke(database)
        await until(lambda: cache.get(secret, NOW) is None)

    following(scenario)


def test_a_key_keeps_what_it_has_used_when_others_change(following, database):
    async def scenario(cache):
        secret = add(database, limits=Limits(requests_per_minute=1))
        await until(lambda: cache.get(secret, NOW))
        assert isinstance(cache.get(secret, NOW).meter.enter(), Ticket)
        other = add(database, "bob")
        await until(lambda: cache.get(other, NOW))
        assert not isinstance(cache.get(secret, NOW).meter.enter(), Ticket)

    following(scenario)


def test_nothing_is_read_again_while_nothing_changes(following, database, monkeypatch):
    add(database)
    reads, marks = [], []
    valid, mark = keys.valid, keys.mark
    monkeypatch.setattr(keys, "valid", lambda session: reads.append(1) or valid(session))
    monkeypatch.setattr(keys, "mark", lambda session: marks.append(1) or mark(session))

    async def scenario(_cache):
        await until(lambda: len(marks) > 5)
        assert len(reads) == 1

    following(scenario)

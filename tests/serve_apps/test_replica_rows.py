from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError

from cluster.refs import VersionRef
from cluster.state import replicas
from cluster.state.database import open_database
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import utc_now
from serve_apps import replica_rows
from serve_apps.replica_rows import NOT_WRITTEN, ReplicaRows

HELD = {replicas.MEMORY: 7}


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


@pytest.fixture
def rows(database):
    return ReplicaRows(database, "a", VersionRef(model="m", version="v1"))


def fails(*_args, **_more):
    raise OperationalError("", {}, Exception("no answer"))


def report(rows, status, detail=None, version="v1"):
    asyncio.run(rows.report(version, status, detail))


def row(database, version="v1"):
    with database.snapshot() as session:
        return replicas.of_replica(session, "a", version)


@pytest.fixture
def silenced(rows, monkeypatch):
    """A replica that began an hour ago, and of which no word could be written."""
    ago = utc_now() - timedelta(hours=1)
    with monkeypatch.context() as patch:
        patch.setattr(replica_rows, "utc_now", lambda: ago)
        patch.setattr(replicas, "report", fails)
        for status, detail in ((ReplicaStatus.LOADING, {}), (ReplicaStatus.SERVING, {"most": 2})):
            with pytest.raises(NOT_WRITTEN):
                report(rows, status, detail)
    return ago


def test_a_row_that_is_written_late_is_as_old_as_its_replica_and_says_all_that_it_would(
    database, rows, silenced
):
    asyncio.run(rows.renew({"v1": ReplicaStatus.SERVING}, HELD))
    written = row(database)
    assert (written.started_at, written.detail) == (silenced, {"most": 2} | HELD)
    assert written.seen_at > silenced


def test_any_later_word_says_as_much(database, rows, silenced):
    report(rows, ReplicaStatus.SERVING, {"most": 3})
    assert (row(database).started_at, row(database).detail) == (silenced, {"most": 3})


def test_a_last_word_that_was_not_written_comes_with_the_next_renewal(database, rows, monkeypatch):
    report(rows, ReplicaStatus.LOADING, {})
    with monkeypatch.context() as patch:
        patch.setattr(replicas, "report", fails)
        with pytest.raises(NOT_WRITTEN):
            report(rows, ReplicaStatus.SERVING, {"most": 2})
    asyncio.run(rows.renew({"v1": ReplicaStatus.SERVING}, HELD))
    assert row(database).detail == {"most": 2} | HELD


def test_an_adapter_that_comes_back_begins_anew(database, rows):
    report(rows, ReplicaStatus.SERVING, {"proven": 4}, version="v2")
    before = row(database, "v2").started_at
    asyncio.run(rows.forget("v2"))
    report(rows, ReplicaStatus.LOADING, version="v2")
    assert row(database, "v2").started_at > before
    assert row(database, "v2").detail == {}

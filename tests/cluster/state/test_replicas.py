from datetime import timedelta

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event, text

from cluster.state import database as databases
from cluster.state import replicas
from cluster.state.database import open_database
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import utc_now


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


def report(session, replica, version, status=ReplicaStatus.SERVING, **more):
    replicas.report(session, replica=replica, model="m", version=version, status=status, **more)


def test_a_replica_has_a_row_for_each_version_that_it_serves(database):
    with database.transaction() as session:
        report(session, "a", "v1", detail={"proven": 4})
        report(session, "a", "v2", base="v1")
        report(session, "b", "v1")
        report(session, "a", "v1")
        assert replicas.of_replica(session, "a", "v1").detail == {"proven": 4}
        replicas.forget_version(session, "a", "v2")
        assert [(row.replica, row.version) for row in replicas.live(session)] == [("a", "v1"), ("b", "v1")]
        report(session, "a", "v2", base="v1")
        replicas.forget(session, "a")
        assert [(row.replica, row.version) for row in replicas.live(session)] == [("b", "v1")]


def test_adapters_that_serve_are_told_as_such_stale_ones_too(database):
    with database.transaction() as session:
        report(session, "a", "v1")
        report(session, "a", "v2", base="v1")
        report(session, "a", "v3", ReplicaStatus.PROVING, base="v1")
        report(session, "a", "v4", ReplicaStatus.REFUSED, base="v1")
        report(session, "b", "v2", base="v1")
        stale = replicas.of_replica(session, "b", "v2")
        stale.seen_at = utc_now() - replicas.LEASE - timedelta(seconds=1)
        found = replicas.listed_adapters(session, ["m", "n"])
        assert {(row.replica, row.version, row.base) for row in found} == {
            ("a", "v2", "v1"),
            ("b", "v2", "v1"),
        }
        assert replicas.listed_adapters(session, ["n"]) == []


def test_of_a_replica_that_stopped_the_adapters_are_listed_and_nothing_is_said_to_be_served(database):
    with database.transaction() as session:
        report(session, "a", "v1")
        report(session, "a", "v2", base="v1")
        report(session, "a", "v3", ReplicaStatus.PROVING, base="v1")
        report(session, "b", "v2", base="v1")
        replicas.forget(session, "a")
        assert [row.replica for row in replicas.live(session)] == ["b"]
        assert [row.replica for row in replicas.everything(session)] == ["b"]
        found = replicas.listed_adapters(session, ["m"])
        assert {(row.replica, row.version) for row in found} == {("a", "v2"), ("b", "v2")}


def test_rows_of_the_long_lost_go_when_another_comes_and_refusals_stay(database):
    ages = {"lost": 25, "lost lately": 23, "refused": 25}
    with database.transaction() as session:
        for replica in ages:
            refused = replica == "refused"
            report(session, replica, "v1", ReplicaStatus.REFUSED if refused else ReplicaStatus.SERVING)
        for replica, hours in ages.items():
            replicas.of_replica(session, replica, "v1").seen_at -= timedelta(hours=hours)
        report(session, "new", "v1")
        assert [row.replica for row in replicas.everything(session)] == ["lost lately", "new", "refused"]


def test_all_rows_of_a_replica_are_renewed_by_one_statement(database):
    ago = utc_now() - timedelta(hours=1)
    with database.transaction() as session:
        for version in ("v1", "v2", "v3", "v4"):
            report(session, "a", version, base=None if version == "v1" else "v1", detail={"proven": 4})
            replicas.of_replica(session, "a", version).seen_at = ago
        report(session, "b", "v2", base="v1")
    statuses = dict.fromkeys(["v1", "v2", "v3"], ReplicaStatus.SERVING)
    updates = []

    def count(_connection, _cursor, statement, *_):
        updates.extend([statement] if statement.startswith("UPDATE") else [])

    event.listen(database._engine, "before_cursor_execute", count)
    with database.transaction() as session:
        replicas.renew(
            session, replica="a", model="m", own="v1", statuses=statuses, detail={"x": 1}, words={}
        )
    assert len(updates) == 1
    with database.snapshot() as session:
        stale = {row.version for row in replicas.everything(session) if replicas.is_stale(row)}
        assert stale == {"v4"}, "what is not said again is not renewed"
        assert replicas.of_replica(session, "a", "v2").detail == {"proven": 4, "x": 1}


def test_a_renewal_writes_what_could_not_be_written_before(database):
    with database.transaction() as session:
        report(session, "a", "v2", ReplicaStatus.PROVING, base="v1")
        replicas.of_replica(session, "a", "v2").seen_at -= timedelta(days=2)
    with database.transaction() as session:
        replicas.renew(
            session,
            replica="a",
            model="m",
            own="v1",
            statuses=dict.fromkeys(["v1", "v2", "v3"], ReplicaStatus.SERVING),
            detail={replicas.MEMORY: 7},
            words={},
        )
    with database.snapshot() as session:
        found = [(row.version, row.base, row.status) for row in replicas.live(session)]
        assert [replicas.memory(row) for row in replicas.live(session)] == [7, 7, 7]
    assert found == [("v1", None, "serving"), ("v2", "v1", "serving"), ("v3", "v1", "serving")]


@pytest.mark.parametrize(
    ("detail", "held"),
    [
        ({}, None),
        ({"memory_bytes": None, "device_memory_bytes": 3}, None),
        ({"memory_bytes": 5}, 5),
        ({"memory_bytes": 5, "device_memory_bytes": None}, 5),
        ({"memory_bytes": 5, "device_memory_bytes": 3}, 8),
    ],
)
def test_a_replica_holds_what_it_tells_of_host_and_devices(database, detail, held):
    with database.transaction() as session:
        report(session, "a", "v1", detail=detail)
        assert replicas.memory(replicas.of_replica(session, "a", "v1")) == held


def test_rows_of_before_are_kept(tmp_path):
    url = f"sqlite:///{tmp_path}/old.db"
    engine = create_engine(url)
    config = Config()
    config.set_main_option("script_location", f"{databases.__file__.rsplit('/', 1)[0]}/migrations")
    config.attributes["engine"] = engine
    command.upgrade(config, "0003")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO replicas VALUES ('a', 'm', 'v1', 'serving', '{\"proven\": 4}', :at, :at)"),
            {"at": "2026-11-26 10:00:00.000000"},
        )
    engine.dispose()
    database = open_database(url)
    with database.snapshot() as session:
        [row] = replicas.everything(session)
        assert (row.replica, row.version, row.base, row.detail) == ("a", "v1", None, {"proven": 4})
    database.dispose()

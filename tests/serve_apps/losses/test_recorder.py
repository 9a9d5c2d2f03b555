from __future__ import annotations

import json
from datetime import timedelta

import pytest

from cluster.cli.main import main
from cluster.state import losses, replicas
from cluster.state.database import open_database
from cluster.state.losses import Signal
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now
from serve_apps.losses.receipts import receipt
from serve_apps.losses.recorder import LossRecorder
from serve_apps.losses.watch import LossWatch
from tests.serve_apps.gateway.servers import TableDirectory


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


@pytest.fixture
def directory():
    return TableDirectory()


@pytest.fixture
def recorder(database, directory):
    return LossRecorder(database, directory, LossWatch(), ["m"])


def report(database, replica, seen_ago_s=0.0):
    with database.transaction() as session:
        replicas.report(
            session,
            replica=replica,
            model="m",
            version="v1",
            status=ReplicaStatus.SERVING,
            detail={"proven": 1, "load_s": 1.5, "prove_s": 0.25},
        )
        row = session.get(ReplicaRow, (replica, "v1"))
        row.seen_at = utc_now() - timedelta(seconds=seen_ago_s)
        row.started_at = min(row.started_at, row.seen_at)


def told(database):
    with database.snapshot() as session:
        return losses.everything(session)


def test_a_replica_that_refused_and_vanished_is_lost_at_once_and_made_good(database, directory, recorder):
    directory.put("m", "v1", "a", "b")
    report(database, "a", seen_ago_s=3)
    report(database, "b")
    recorder._once()
    recorder.watch.missed("a", Signal.REFUSED)
    recorder.watch.retried("a")
    directory.put("m", "v1", "b")
    recorder._once()
    [row] = told(database)
    assert (row.replica, row.signal, row.retried, row.recovered_at) == ("a", "refused", 1, None)
    report(database, "c")
    directory.put("m", "v1", "b", "c")
    recorder._once()
    [row] = told(database)
    assert (row.replaced_by, row.prove_s) == ("c", 0.25)


def test_a_standby_that_took_over_makes_a_loss_good_at_once_and_one_loss_alone(database, directory, recorder):
    with database.transaction() as session:
        for name, age_s in (("a", 90), ("b", 60), ("c", 30)):
            detail = {"proven": 1, "standby": 1, "load_s": 1.5, "prove_s": 0.25}
            replicas.report(
                session,
                replica=name,
                model="m",
                version="v1",
                status=ReplicaStatus.SERVING,
                detail=detail,
            )
            session.get(ReplicaRow, (name, "v1")).started_at = utc_now() - timedelta(seconds=age_s)
    directory.put("m", "v1", "a", "b", "c")
    recorder._once()
    recorder.watch.missed("a", Signal.DROPPED)
    directory.put("m", "v1", "b", "c")
    recorder._once()
    recorder.watch.missed("b", Signal.DROPPED)
    directory.put("m", "v1", "c")
    recorder._once()
    second, first = (receipt(row) for row in told(database))
    assert (first.replica, first.replaced_by, first.by_standby) == ("a", "c", True)
    assert (first.recover_s, first.verify_s) == (0.0, 0.0)
    assert (second.replica, second.replaced_by, second.by_standby) == ("b", None, False)
    report(database, "d")
    recorder._once()
    assert (told(database)[0].replaced_by, receipt(told(database)[0]).by_standby) == ("d", False)


def test_a_replica_with_adapters_is_one_loss_of_its_own_version(database, directory, recorder):
    directory.put("m", "v1", "a")
    report(database, "a")
    with database.transaction() as session:
        for version in ("v2", "v3"):
            replicas.report(
                session, replica="a", model="m", version=version, base="v1", status=ReplicaStatus.SERVING
            )
    recorder._once()
    recorder.watch.missed("a", Signal.DROPPED)
    directory.put("m", "v1")
    recorder._once()
    [row] = told(database)
    assert (row.replica, row.version) == ("a", "v1")


def test_a_replica_that_stopped_in_good_order_is_no_loss(database, directory, recorder):
    directory.put("m", "v1", "a")
    report(database, "a")
    recorder._once()
    directory.put("m", "v1")
    recorder._once()
    with database.transaction() as session:
        replicas.forget(session, "a")
    recorder._once()
    assert told(database) == []
    assert recorder._suspects == []


def test_a_loss_that_no_request_noticed_shows_when_the_lease_has_run_out(database, directory, recorder):
    directory.put("m", "v1", "a")
    report(database, "a")
    recorder._once()
    directory.put("m", "v1")
    recorder._once()
    assert told(database) == []
    report(database, "a", seen_ago_s=61)
    recorder._once()
    [row] = told(database)
    assert row.signal == "lease"


def test_a_replica_that_was_killed_before_the_gateway_knew_it_is_a_loss_too(database, directory, recorder):
    report(database, "a", seen_ago_s=65)
    report(database, "b", seen_ago_s=700)
    report(database, "c")
    directory.put("m", "v1", "c")
    for _ in range(2):
        recorder._once()
    [row] = told(database)
    assert (row.replica, row.signal, row.replaced_by) == ("a", "lease", "c")
    assert receipt(row).detect_s == 60
    assert recorder._suspects == []


def test_a_lease_that_ran_out_is_no_loss_of_a_replica_that_runs_or_while_nobody_is_heard(
    database, directory, recorder
):
    report(database, "a", seen_ago_s=65)
    directory.put("m", "v1", "a")
    recorder._once()
    directory.put("m", "v1")
    directory.heard = False
    LossRecorder(database, directory, LossWatch(), ["m"])._once()
    assert told(database) == []


def test_receipts_are_listed_with_their_seconds(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LINNET_HOME", str(tmp_path))
    assert main(["serve", "receipts"]) == 0
    assert "No replica was lost." in capsys.readouterr().out
    from cluster.config import Settings

    database = open_database(Settings.load().state_url)
    directory = TableDirectory()
    recorder = LossRecorder(database, directory, LossWatch(), ["m"])
    directory.put("m", "v1", "a")
    report(database, "a", seen_ago_s=2)
    recorder._once()
    recorder.watch.missed("a", Signal.REFUSED)
    directory.put("m", "v1")
    recorder._once()
    report(database, "b")
    recorder._once()
    assert main(["serve", "receipts", "m", "--json"]) == 0
    [one] = json.loads(capsys.readouterr().out)["data"]
    assert (one["replica"], one["replaced_by"], one["verify_s"]) == ("a", "b", 0.25)
    assert one["detect_s"] >= 1.9
    assert one["total_s"] >= one["recover_s"] + one["verify_s"]
    assert main(["serve", "receipts", "n", "--json"]) == 3

import json
from datetime import timedelta

import pytest

from cluster.cli.main import main
from cluster.errors import LinnetError
from cluster.state import replicas
from cluster.state.replicas import LEASE, ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.states import Start
from tests.serve_apps.rollout import world


@pytest.fixture
def store(tmp_path, monkeypatch):
    for name in ("LINNET_ROOT", "LINNET_STATE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LINNET_HOME", str(tmp_path))
    store = world.make_store(tmp_path)
    yield store
    store.database.dispose()


def listed(capsys, *arguments):
    capsys.readouterr()
    assert main(["serve", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["data"]


def test_nothing_served_is_an_empty_list(store, capsys):
    assert listed(capsys) == []
    assert main(["serve"]) == 0
    assert "serve deploy" in capsys.readouterr().out


def test_an_endpoint_shows_weights_roles_and_live_replicas(store, capsys):
    world.set_replica(store, "v1", detail={"proven": 3})
    world.set_replica(store, "v2", detail={"proven": 3})
    Rollouts(store).run(Start(model="tiny", candidate="v2", weight=10))
    (endpoint,) = listed(capsys)
    assert (endpoint["stable"], endpoint["candidate"], endpoint["revision"]) == ("v1", "v2", 1)
    assert endpoint["versions"] == [
        {"version": "v1", "role": "stable", "weight": 90.0, "replicas": {"serving": 1}},
        {"version": "v2", "role": "candidate", "weight": 10.0, "replicas": {"serving": 1}},
    ]
    assert main(["serve", "list"]) == 0
    assert "v1 90%, v2 10%" in capsys.readouterr().out


def test_status_tells_what_was_proven_what_was_refused_and_what_was_lost(store, capsys):
    world.set_replica(store, "v1", detail={"proven": 3})
    world.set_replica(store, "v2", ReplicaStatus.REFUSED, {"reason": "'Lyon' is not 'Paris'"})
    world.set_replica(store, "v3", ReplicaStatus.LOADING)
    with store.database.transaction() as session:
        session.get(ReplicaRow, ("v3#1", "v3")).seen_at = utc_now() - 2 * LEASE
    rows = {row["version"]: row for row in listed(capsys, "status", "tiny")}
    assert (rows["v1"]["status"], rows["v1"]["detail"]) == ("serving", "3 golden answers proven")
    assert (rows["v2"]["status"], rows["v2"]["detail"]) == ("refused", "'Lyon' is not 'Paris'")
    assert rows["v3"]["status"] == "lost"
    (endpoint,) = listed(capsys)
    assert [v["version"] for v in endpoint["versions"] if v["replicas"]] == ["v1"]


def test_who_stands_by_shows_and_no_longer_once_it_is_needed(store, capsys):
    detail = {"proven": 3, "standby": 1, "load_s": 1.0, "prove_s": 1.0}
    with store.database.transaction() as session:
        for age_s, name in ((60, "a"), (30, "b")):
            replicas.report(
                session,
                replica=name,
                model="tiny",
                version="v1",
                status=ReplicaStatus.SERVING,
                detail=detail,
            )
            session.get(ReplicaRow, (name, "v1")).started_at = utc_now() - timedelta(seconds=age_s)
    assert [row["status"] for row in listed(capsys, "status", "tiny")] == ["serving", "standby"]
    (endpoint,) = listed(capsys)
    assert endpoint["versions"][0]["replicas"] == {"serving": 1, "standby": 1}
    with store.database.transaction() as session:
        session.get(ReplicaRow, ("a", "v1")).seen_at = utc_now() - 2 * LEASE
    assert [row["status"] for row in listed(capsys, "status", "tiny")] == ["lost", "serving"]


def test_one_that_backs_off_shows_until_when_and_why(store, capsys):
    detail = {"reason": "the last 5 replicas were lost", "until": "2026-11-22T12:03:04.567890"}
    world.set_replica(store, "v1", ReplicaStatus.BACKING_OFF, detail)
    [row] = listed(capsys, "status", "tiny")
    assert row["status"] == "backing_off"
    assert row["detail"] == "until 12:03:04 UTC: the last 5 replicas were lost"


def test_a_version_that_sleeps_is_no_lost_replica(store, capsys):
    world.set_replica(store, "v1", ReplicaStatus.ASLEEP)
    assert [row["status"] for row in listed(capsys, "status", "tiny")] == ["asleep"]
    (endpoint,) = listed(capsys)
    assert endpoint["versions"][0]["replicas"] == {"asleep": 1}
    with store.database.transaction() as session:
        session.get(ReplicaRow, ("v1#1", "v1")).seen_at = utc_now() - 2 * LEASE
    assert listed(capsys, "status", "tiny") == []


def test_adapters_are_versions_with_the_replicas_of_their_base(store, capsys):
    world.set_replica(store, "v1", detail={"proven": 3, "user_config": "`adaptors` is not a key"})
    with store.database.transaction() as session:
        for version, status, detail in (
            ("v2", ReplicaStatus.SERVING, {"proven": 2}),
            ("v3", ReplicaStatus.REFUSED, {"reason": "its rank is 64"}),
        ):
            replicas.report(
                session,
                replica="v1#1",
                model="tiny",
                version=version,
                base="v1",
                status=status,
                detail=detail,
            )
    rows = {row["version"]: row for row in listed(capsys, "status", "tiny")}
    assert {row["replica"] for row in rows.values()} == {"v1#1"}
    assert rows["v1"]["detail"].startswith("3 golden answers proven; its user_config is refused")
    assert (rows["v2"]["status"], rows["v2"]["detail"]) == (
        "serving",
        "adapter on v1; 2 golden answers proven",
    )
    assert (rows["v3"]["status"], rows["v3"]["detail"]) == ("refused", "adapter on v1; its rank is 64")
    with pytest.raises(LinnetError, match="its rank is 64"):
        Rollouts(store).run(Start(model="tiny", candidate="v3", weight=10))
    Rollouts(store).run(Start(model="tiny", candidate="v2", weight=10))


def test_an_unknown_endpoint_gets_a_suggestion(store, capsys):
    world.set_replica(store, "v1")
    assert main(["serve", "status", "tinny", "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert "`tiny`" in error["message"]
